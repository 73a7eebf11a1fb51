"""Entering namespaces, live."""

from __future__ import annotations

import os
import threading
from unittest import mock

import pytest

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox import capabilities, kernel, namespaces
from pytest_netcapture.sandbox.syscalls import mount

pytestmark = pytest.mark.live


def _who():
    found = os.stat(".")
    return os.getresuid(), os.getresgid(), os.environ.get("HOME"), os.getcwd(), found.st_mode


def test_ids_and_home_stay_as_they_were(in_child, scratch):
    def child():
        own = f"{scratch}/own"
        with open(own, "w"):
            before = (_who(), os.stat(own).st_uid, os.stat(own).st_gid)
        assert namespaces.enter_user_namespace()
        return before, (_who(), os.stat(own).st_uid, os.stat(own).st_gid)

    before, after = in_child(child)
    assert before == after


def test_files_of_other_users_show_as_nobodys(in_child):
    def child():
        namespaces.enter_user_namespace()
        return os.stat("/").st_uid

    assert in_child(child) == 65534


def test_real_root_needs_no_user_namespace(in_child, as_root):
    def child():
        before = os.readlink("/proc/self/ns/user")
        return namespaces.enter_user_namespace(), before == os.readlink("/proc/self/ns/user")

    assert in_child(child, rootless=False) == (False, True)


@pytest.mark.parametrize("rootless", [True, False])
def test_mounts_do_not_get_out(in_child, scratch, rootless):
    def child():
        # This child plays the host: a mount table of its own, shared as systemd leaves it.
        namespaces.enter_user_namespace()
        namespaces.unshare_mounts()
        mount("", "/", "", kernel.MS_REC | kernel.MS_SHARED)
        return in_child(inner, rootless=False), os.path.ismount(scratch)

    def inner():
        namespaces.enter_user_namespace()
        namespaces.unshare_mounts()
        mount("ours", scratch, "tmpfs", 0)
        return os.path.ismount(scratch)

    assert in_child(child, rootless=rootless) == (True, False)


def test_host_mounts_still_appear(in_child, scratch):
    def child():
        namespaces.enter_user_namespace()
        namespaces.unshare_mounts()
        mount("", "/", "", kernel.MS_REC | kernel.MS_SHARED)
        ready, entered = os.pipe()
        mounted, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            namespaces.enter_user_namespace()
            namespaces.unshare_mounts()
            os.write(entered, b".")
            os.read(mounted, 1)
            os._exit(0 if os.path.ismount(scratch) else 1)
        os.read(ready, 1)
        mount("hosts", scratch, "tmpfs", 0)
        os.write(go, b".")
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert in_child(child) == 0


def test_hopping_between_networks(in_child):
    def child():
        namespaces.enter_user_namespace()
        first, second = namespaces.unshare_network(), namespaces.unshare_network()
        capabilities.keep_only(capabilities.TESTS)
        inodes = [namespaces.network_inode(first), namespaces.network_inode(second)]
        seen = []
        for descriptor in (first, second, first):
            namespaces.enter_network(descriptor)
            seen.append(inodes.index(namespaces.current_network_inode()))
        with open("/proc/net/dev") as file:
            devices = [line.partition(":")[0].strip() for line in file.readlines()[2:]]
        return seen, os.get_inheritable(first), devices[:1]

    assert in_child(child) == ([0, 1, 0], False, ["lo"])


def test_another_thread_keeps_its_network(in_child):
    def child():
        namespaces.enter_user_namespace()
        seen, go = [], threading.Event()

        def look():
            go.wait()
            seen.append(namespaces.current_network_inode())

        home = namespaces.current_network_inode()
        thread = threading.Thread(target=look)
        thread.start()
        namespaces.unshare_network()
        go.set()
        thread.join()
        return seen == [home], namespaces.current_network_inode() != home

    assert in_child(child) == (True, True)


def test_hopping_survives_a_patched_os(in_child):
    def child():
        namespaces.enter_user_namespace()
        home = namespaces.unshare_network()
        with mock.patch("os.open"), mock.patch("os.stat"), mock.patch("builtins.open"):
            away = namespaces.unshare_network()
            namespaces.enter_network(home)
            inode = namespaces.current_network_inode()
        return isinstance(away, int), inode == namespaces.network_inode(home)

    assert in_child(child) == (True, True)


def _problem(function):
    with pytest.raises(EnvironmentProblem) as caught:
        function()
    return str(caught.value)


def test_a_closed_descriptor_is_named(in_child):
    def child():
        namespaces.enter_user_namespace()
        descriptor = namespaces.unshare_network()
        os.close(descriptor)
        return _problem(lambda: namespaces.enter_network(descriptor)).replace(str(descriptor), "N")

    assert "descriptor N was closed" in in_child(child)


def test_lost_capabilities_are_named(in_child):
    def child():
        namespaces.enter_user_namespace()
        descriptor = namespaces.unshare_network()
        capabilities.keep_only(())
        return _problem(lambda: namespaces.enter_network(descriptor))

    assert "lost CAP_SYS_ADMIN" in in_child(child)
