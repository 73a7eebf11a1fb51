"""The process in the sandbox can do what it could before, and move between networks: no more."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys

import pytest

from pytest_netcapture.sandbox import capabilities, kernel, namespaces

pytestmark = pytest.mark.live

SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")


def _enter():
    namespaces.enter_user_namespace()
    capabilities.keep_only(capabilities.TESTS)


def _sets_of_a_child():
    program = [sys.executable, "-S", "-E", "-c", "print(open('/proc/self/status').read())"]
    status = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return {name: int(lines[name], 16) for name in SETS}


def test_entering_grants_everything_and_one_is_kept(in_child):
    def child():
        before = capabilities.effective()
        namespaces.enter_user_namespace()
        granted = capabilities.effective()
        capabilities.keep_only(capabilities.TESTS)
        return before, len(granted) > 30, capabilities.effective()

    assert in_child(child) == (set(), True, {kernel.CAP_SYS_ADMIN})


def test_what_was_dropped_is_not_gained_again(in_child):
    def child():
        _enter()
        capabilities.keep_only({kernel.CAP_SYS_ADMIN, kernel.CAP_NET_RAW})
        return capabilities.effective()

    assert in_child(child) == {kernel.CAP_SYS_ADMIN}


def test_a_file_without_permissions_stays_unreadable(in_child, scratch):
    def child():
        path = f"{scratch}/secret"
        with open(path, "w"):
            os.chmod(path, 0)
        _enter()
        with pytest.raises(PermissionError):
            open(path).close()
        os.chmod(path, 0o400)
        open(path).close()
        return True

    assert in_child(child)


def test_raw_sockets_stay_refused(in_child):
    def child():
        _enter()
        namespaces.unshare_network()
        with pytest.raises(PermissionError):
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        with socket.socket() as plain, pytest.raises(PermissionError) as caught:
            plain.bind(("127.0.0.1", 80))
        return caught.value.errno

    assert in_child(child) == errno.EACCES


def test_a_child_program_has_no_capability(in_child):
    def child():
        _enter()
        return _sets_of_a_child()

    assert in_child(child) == dict.fromkeys(SETS, 0)


def test_a_program_inside_ambient_has_just_those(in_child):
    def child():
        namespaces.enter_user_namespace()
        with capabilities.ambient(capabilities.ENGINE):
            inside = _sets_of_a_child()
        return inside, _sets_of_a_child()

    mask = sum(1 << cap for cap in capabilities.ENGINE)
    inside, after = in_child(child)
    assert inside == dict.fromkeys(SETS, mask)
    assert after == dict.fromkeys(SETS, 0)


def test_nested_ambient_restores_what_it_found(in_child):
    def child():
        namespaces.enter_user_namespace()
        capabilities.raise_ambient({kernel.CAP_SYS_ADMIN})
        with capabilities.ambient(capabilities.ENGINE):
            pass
        kept = _sets_of_a_child()["CapEff"]
        capabilities.lower_ambient({kernel.CAP_SYS_ADMIN})
        return kept, _sets_of_a_child()["CapEff"]

    assert in_child(child) == (1 << kernel.CAP_SYS_ADMIN, 0)


def test_root_is_left_as_it_is(in_child, as_root):
    def child():
        before = capabilities.effective()
        capabilities.keep_only(())
        with capabilities.ambient(capabilities.ENGINE):
            pass
        return before == capabilities.effective()

    assert in_child(child, rootless=False)


def test_dumpable_stays_so_that_proc_and_debuggers_work(in_child):
    from pytest_netcapture.sandbox.syscalls import prctl

    def child():
        _enter()
        return prctl(kernel.PR_GET_DUMPABLE), os.stat("/proc/self/environ").st_uid == os.getuid()

    assert in_child(child) == (1, True)
