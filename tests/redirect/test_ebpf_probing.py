"""What is said where chosen processes cannot be captured, and that the probe attaches nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from ebpf_lab import Group, needs_ebpf

from pytest_netcapture.redirect import ebpf_probing, ebpf_programs

PROBE = """
from pytest_netcapture.redirect import ebpf_probing
support = ebpf_probing.probe()
print(support.available, support.reason, support.cure, sep="|")
"""


@pytest.mark.live
def test_it_works_where_these_tests_run():
    needs_ebpf()
    assert ebpf_probing.probe().available


@pytest.mark.live
def test_without_privilege_the_reason_and_what_works_instead():
    other = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, **other)
    available, reason, cure = done.stdout.strip().split("|")
    assert available == "False", done.stderr
    if "clang" not in cure:
        assert "takes privilege: Operation not permitted" in reason
        assert (
            "netcapture local --sudo; or run as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW and CAP_PERFMON"
            in cure
        )
        assert "netcapture run" in cure


def test_without_the_object_the_reason_is_clang(monkeypatch, tmp_path):
    monkeypatch.setattr(ebpf_programs, "OBJECT", str(tmp_path / "capture.bpf.o"))
    support = ebpf_probing.probe()
    assert not support.available
    assert "without the BPF object" in support.reason
    assert "install clang" in support.cure


def test_a_group_that_is_none_is_named(tmp_path):
    needs_ebpf()
    programs = ebpf_programs.Programs.load()
    try:
        with pytest.raises(ebpf_programs.EnvironmentProblem, match="there is no control group"):
            programs.attach(str(tmp_path / "nowhere"))
        with pytest.raises(ebpf_programs.EnvironmentProblem, match=str(tmp_path)):
            programs.attach(str(tmp_path))
    finally:
        programs.close()


@pytest.mark.live
def test_loading_attaches_nothing():
    needs_ebpf()
    group = Group()
    try:
        programs = ebpf_programs.Programs.load()
        assert group.attached() == 0
        programs.close()
    finally:
        group.close()
