"""The doctor's probes say what is, and change nothing."""

from __future__ import annotations

import os
import sys

import pytest

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox import bundles, namespaces, probe
from pytest_netcapture.sandbox.original import read_file

pytestmark = pytest.mark.live


@pytest.mark.parametrize("rootless", [True, False])
def test_a_machine_on_which_these_tests_run_is_well(in_child, rootless):
    findings = in_child(lambda: [tuple(found) for found in probe.probe_all()], rootless=rootless)
    assert [name for name, ok, *_ in findings if not ok] == []
    assert len(findings) == len(probe.PROBES)


def test_roots_in_the_temporary_directory_can_be_covered(in_child, tmp_path, monkeypatch):
    """A virtual environment may be there."""
    (tmp_path / "certifi").mkdir()
    roots = next(iter(bundles.original_roots({})))
    (tmp_path / "certifi" / "cacert.pem").write_bytes(read_file(roots))
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = in_child(lambda: tuple(probe.probe_trust()))
    assert found[1], found


def test_nothing_changes(in_child):
    def state():
        names = ("user", "mnt", "net")
        return (
            os.getuid(),
            [os.readlink(f"/proc/self/ns/{name}") for name in names],
            len(os.listdir("/proc/self/fd")),
        )

    def child():
        before = state()
        probe.probe_all()
        return before == state()

    assert in_child(child)


def test_a_refusal_is_reported_with_its_cure(in_child):
    def child():
        namespaces.enter_user_namespace()
        with open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write("0")
        return tuple(probe.probe_mounts())

    name, ok, reason, cure = in_child(child)
    assert (name, ok) == ("mounts", False)
    assert "user.max_user_namespaces is 0" in reason
    assert "sysctl" in cure


@pytest.mark.parametrize(
    ("attempt", "reason"),
    [
        (lambda: (_ for _ in ()).throw(EnvironmentProblem("no such thing")), "no such thing"),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: os._exit(1), "the child crashed"),
        (lambda: os.read(os.pipe()[0], 1), "no answer within 20 ms"),
    ],
)
def test_a_bad_probe_is_a_finding(in_child, monkeypatch, attempt, reason):
    monkeypatch.setattr(probe, "TIMEOUT_MS", 20)
    found = probe._try("it", attempt, "good")
    assert not found.ok
    assert reason in found.reason
