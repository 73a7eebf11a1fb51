"""What the sandbox relies on, one behaviour each. System calls only, no project code above them."""

from __future__ import annotations

import errno
import os
import socket
import threading

import pytest

from pytest_netcapture.sandbox import kernel
from pytest_netcapture.sandbox.syscalls import mount, prctl, setns, unshare

pytestmark = pytest.mark.live

NETWORK = "/proc/thread-self/ns/net"


def _enter() -> None:
    uid, gid = os.getuid(), os.getgid()
    unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _errno(function, *args):
    with pytest.raises(OSError) as caught:
        function(*args)
    return caught.value.errno


def test_a_user_namespace_wants_a_single_thread(in_child):
    def child():
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        try:
            return _errno(unshare, kernel.CLONE_NEWUSER)
        finally:
            stop.set()
            thread.join()

    assert in_child(child) == errno.EINVAL


def test_a_network_namespace_is_entered_by_one_thread_of_many(in_child):
    def child():
        _enter()
        seen = {}

        def hop():
            unshare(kernel.CLONE_NEWNET)
            seen["inside"] = os.stat(NETWORK).st_ino

        thread = threading.Thread(target=hop)
        thread.start()
        thread.join()
        return seen["inside"] != os.stat(NETWORK).st_ino

    assert in_child(child)


def test_who_left_the_hosts_network_rootless_cannot_return(in_child):
    def child():
        host = os.open(NETWORK, os.O_RDONLY)
        _enter()
        unshare(kernel.CLONE_NEWNET)
        return _errno(setns, host, kernel.CLONE_NEWNET)

    assert in_child(child) == errno.EPERM


def test_permission_is_checked_before_flags(in_child):
    both = ("", "/", "", kernel.MS_SHARED | kernel.MS_PRIVATE)

    def child():
        before = _errno(mount, *both)
        _enter()
        return before, _errno(mount, *both)

    assert in_child(child) == (errno.EPERM, errno.EINVAL)


def test_a_file_mounted_over_cannot_be_unlinked(in_child, scratch):
    def child():
        _enter()
        for name in ("above", "below"):
            with open(f"{scratch}/{name}", "w") as file:
                file.write(name)
        mount(f"{scratch}/above", f"{scratch}/below", "", kernel.MS_BIND)
        return _errno(os.unlink, f"{scratch}/below")

    assert in_child(child) == errno.EBUSY


def test_an_overlay_over_mounts_of_the_host_is_refused(in_child, scratch):
    def child():
        _enter()
        os.mkdir(f"{scratch}/etc")
        for name in ("etc/hosts", "runtimes"):
            with open(f"{scratch}/{name}", "w"):
                pass
        mount(f"{scratch}/runtimes", f"{scratch}/etc/hosts", "", kernel.MS_BIND)
        return in_child(inner)

    def inner():
        _enter()
        layers = f"lowerdir={scratch}:{scratch}/etc"
        return _errno(mount, "x", f"{scratch}/etc", "overlay", kernel.MS_RDONLY, layers)

    assert in_child(child) == errno.EINVAL


def test_a_zombie_has_left_its_namespaces(in_child):
    def child():
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return _errno(os.stat, f"/proc/{pid}/ns/net")

    assert in_child(child) == errno.ENOENT


def test_the_last_pid_moves_for_processes_and_threads(in_child):
    def last():
        with open("/proc/loadavg") as file:
            return int(file.read().split()[4])

    def child():
        numbers = [last()]
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        numbers.append(last())
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        numbers.append(last())
        return len(set(numbers))

    assert in_child(child) == 3


def test_lowering_inheritable_lowers_ambient(in_child):
    from pytest_netcapture.sandbox.syscalls import capget, capset

    def child():
        _enter()
        effective, permitted, _ = capget()
        bit = 1 << kernel.CAP_NET_ADMIN
        capset(effective, permitted, bit)
        prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_RAISE, kernel.CAP_NET_ADMIN)
        capset(effective, permitted, 0)
        return prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_IS_SET, kernel.CAP_NET_ADMIN)

    assert in_child(child) == 0


def test_connecting_to_a_file_over_a_socket_is_refused(in_child, scratch):
    def child():
        _enter()
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind(f"{scratch}/socket")
            server.listen()
            with open(f"{scratch}/empty", "w"):
                mount(f"{scratch}/empty", f"{scratch}/socket", "", kernel.MS_BIND)
            return _errno(client.connect, f"{scratch}/socket")

    assert in_child(child) == errno.ECONNREFUSED
