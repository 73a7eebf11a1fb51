"""Each refusal is named, with its cure: as a table, and live where it can be provoked."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import threading

import pytest

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox import kernel, mounts, namespaces, refusals
from pytest_netcapture.sandbox.refusals import Facts
from pytest_netcapture.sandbox.syscalls import mount, prctl

UBUNTU = Facts(apparmor_restrict=1, apparmor_label="unconfined")

USER = [
    (errno.EINVAL, Facts(threads=("pydevd.Writer",)), "another thread runs in this process already: pydevd.Writer", "netcapture run"),
    (errno.EINVAL, Facts(threads=tuple("abcdefghij")), "10 other threads run in this process already: a, b, c, d, e, f, g, h, ...", ""),
    (errno.EINVAL, Facts(user_namespaces_built=False), "CONFIG_USER_NS", "kernel that has them"),
    (errno.EINVAL, Facts(), "CLONE_FS", ""),
    (errno.ENOSYS, Facts(), "CONFIG_USER_NS", ""),
    (errno.ENOSPC, Facts(max_user_namespaces=0), "user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=28633"),
    (errno.ENOSPC, Facts(max_user_namespaces=99), "(99) of this or of an outer user namespace allows, or they are nested deeper than 32", "raise"),
    (errno.EUSERS, Facts(max_user_namespaces=99), "nested deeper", ""),
    (errno.EPERM, Facts(unprivileged_userns_clone=0), "kernel.unprivileged_userns_clone is 0", "kernel.unprivileged_userns_clone=1"),
    (errno.EPERM, UBUNTU, "apparmor_restrict_unprivileged_userns is 1", "apparmor_restrict_unprivileged_userns=0"),
    (errno.EPERM, Facts(chrooted=True), "chroot", "outside"),
    (errno.EPERM, Facts(seccomp=2, container="Docker"), "a seccomp filter of Docker forbids it", "--security-opt seccomp=unconfined"),
    (errno.EPERM, Facts(seccomp=2), "a seccomp filter of the container or service manager", ""),
    (errno.EPERM, Facts(container="Podman"), "Podman forbids it", "--privileged"),
    (errno.EPERM, Facts(selinux_enforcing=True), "SELinux", "ausearch"),
    (errno.EPERM, Facts(apparmor_label="snap.code (enforce)"), "profile 'snap.code (enforce)'", "userns,"),
    (errno.EPERM, Facts(), "the kernel gives no reason", "doctor"),
    (errno.EINVAL, Facts(kernel="Linux version 4.4.0-19041-Microsoft"), "only imitates", "virtual machine"),
    (errno.EPERM, Facts(kernel="Linux version 5.15-microsoft-standard-WSL2", container="Docker"), "Docker forbids", ""),
]  # fmt: skip


@pytest.mark.parametrize(("number", "facts", "cause", "cure"), USER)
def test_refused_user_namespaces(number, facts, cause, cure):
    problem = refusals.user_namespace_problem(number, facts)
    assert problem.message.startswith(f"cannot make a user namespace: {errno.errorcode[number]} (")
    assert cause in problem.message
    assert cure in problem.cure
    assert problem.slug


@pytest.mark.parametrize(
    ("kind", "number", "facts", "cause"),
    [
        ("network", errno.ENOSPC, Facts(max_net_namespaces=0), "user.max_net_namespaces is 0"),
        ("mount", errno.ENOSPC, Facts(max_mnt_namespaces=5), "user.max_mnt_namespaces (5)"),
        ("mount", errno.EPERM, UBUNTU, "apparmor_restrict"),
        ("network", errno.EINVAL, Facts(), "built without network namespaces"),
        ("network", errno.EPERM, Facts(seccomp=2), "seccomp"),
    ],
)
def test_refused_other_namespaces(kind, number, facts, cause):
    problem = refusals.namespace_problem(kind, number, facts)
    assert problem.message.startswith(f"cannot make a {kind} namespace: ")
    assert cause in problem.message


def _refusal(function=namespaces.enter_user_namespace):
    uid = os.getuid()
    with pytest.raises(EnvironmentProblem) as caught:
        function()
    assert os.getuid() == uid
    assert not isinstance(caught.value, namespaces.Stranded)
    return str(caught.value)


@pytest.mark.live
def test_a_second_thread_is_named(in_child):
    def child():
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait, name="pydevd.Writer")
        thread.start()
        try:
            return _refusal()
        finally:
            stop.set()
            thread.join()

    text = in_child(child)
    assert "EINVAL" in text
    assert (
        "another thread runs in this process already: pydevd.Writer\n  cure: start pytest without"
        in text
    )


@pytest.mark.live
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("user", namespaces.enter_user_namespace),
        ("mnt", namespaces.unshare_mounts),
        ("net", namespaces.unshare_network),
    ],
)
def test_a_limit_of_zero_is_named(in_child, name, function):
    def child():
        namespaces.enter_user_namespace()
        with open(f"/proc/sys/user/max_{name}_namespaces", "w") as file:
            file.write("0")
        return _refusal(function)

    text = in_child(child)
    assert "ENOSPC" in text
    assert f"user.max_{name}_namespaces is 0\n  cure: sudo sysctl -w" in text


@pytest.mark.live
def test_nesting_too_deep_is_named(in_child):
    def child():
        with pytest.raises(EnvironmentProblem) as caught:
            for _ in range(40):
                namespaces.enter_user_namespace()
        return str(caught.value)

    assert "nested deeper than 32" in in_child(child)


@pytest.mark.live
def test_a_chroot_is_named(in_child, scratch):
    def child():
        namespaces.enter_user_namespace()
        namespaces.unshare_mounts()
        os.mkdir(f"{scratch}/proc")
        mount("/proc", f"{scratch}/proc", "", kernel.MS_BIND | kernel.MS_REC)
        os.chroot(scratch)
        os.chdir("/")
        return _refusal()

    text = in_child(child)
    assert "EPERM" in text
    assert "runs in a chroot" in text


@pytest.mark.live
@pytest.mark.skipif(platform.machine() not in {"x86_64", "aarch64"}, reason="system call numbers")
def test_a_seccomp_filter_is_named(in_child):
    def child():
        _forbid({"x86_64": 272, "aarch64": 97}[platform.machine()])
        return _refusal()

    text = in_child(child)
    assert "EPERM" in text
    assert "a seccomp filter of" in text
    assert "seccomp=unconfined" in text


def _forbid(number):
    """Let one system call fail with EPERM, as a container's profile does (seccomp(2))."""
    load, equal, give = 0x20, 0x15, 0x06
    steps = [
        (load, 0, 0, 0),
        (equal, 0, 1, number),
        (give, 0, 0, 0x50000 | errno.EPERM),
        (give, 0, 0, 0x7FFF0000),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))
    prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
    prctl(22, 2, ctypes.addressof(header))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def test_a_refusal_known_beforehand_changes_nothing(in_child, monkeypatch):
    monkeypatch.setattr(namespaces, "read_text", lambda _path: "1")
    monkeypatch.setattr(refusals, "gather", lambda: UBUNTU)

    def child():
        before = os.readlink("/proc/self/ns/user")
        return _refusal(), before == os.readlink("/proc/self/ns/user")

    text, unchanged = in_child(child)
    assert "apparmor_restrict_unprivileged_userns" in text
    assert unchanged


def test_a_refusal_at_the_maps_says_that_the_process_must_end(in_child, monkeypatch):
    def refuse(_path, _text):
        raise PermissionError(errno.EPERM, "refused")

    monkeypatch.setattr(namespaces, "write_proc", refuse)

    def child():
        with pytest.raises(namespaces.Stranded):
            namespaces.enter_user_namespace()
        return os.getuid()

    assert in_child(child) == 65534


@pytest.mark.live
def test_who_may_not_is_told_why(in_child, scratch):
    def child():
        source = f"{scratch}/source"
        open(source, "w").close()
        with pytest.raises(EnvironmentProblem) as caught:
            mounts.bind_file(source, source)
        return str(caught.value)

    assert "EPERM: this process may not mount\n  cure: containers:" in in_child(child)
