"""The probe says what a session would get: here, and where things are forbidden."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from seccomp_lab import Lab

from pytest_netcapture.redirect import seccomp_probing

pytestmark = pytest.mark.live
FORBIDDING = str(Path(__file__).parent.parent / "plugin" / "forbidding.py")
PROBE = (
    "from pytest_netcapture.redirect.seccomp import probe; from dataclasses import asdict; "
    "import json; print(json.dumps(asdict(probe())))"
)


def probe_in(place):
    command = [sys.executable, FORBIDDING, place, sys.executable, "-c", PROBE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_it_works_here():
    support = seccomp_probing.probe()
    assert support.available, support
    assert (support.name, support.reason) == ("seccomp", "")


def test_a_container_as_docker_makes_it():
    support = probe_in("filter")
    assert support["available"]
    assert any("pidfd_getfd is forbidden" in note for note in support["notes"])


def test_no_user_namespaces_are_no_hindrance():
    support = probe_in("limit")
    assert support["available"]
    assert not any("pidfd_getfd" in note for note in support["notes"])


def test_a_container_as_podman_makes_it():
    support = probe_in("podman")
    assert support["available"]
    assert support["notes"] == []


def test_yama_is_named():
    assert any("ptrace_scope is 1" in note for note in probe_in("yama")["notes"])


def test_under_another_supervisor_it_does_not_work():
    lab = Lab()

    def function():
        return subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True).stdout

    support = json.loads(lab.run(function))
    assert not support["available"]
    assert "EBUSY" in support["reason"]
    assert "without capture" in support["cure"]
    lab.close()


def test_a_bug_is_a_finding(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nobody/is/here")
    support = seccomp_probing.probe()
    assert not support.available
    assert "no process can be started" in support.reason
