"""Run a command where no user namespace may be made: `forbidding.py WAY COMMAND...`.

filter: a seccomp filter refuses what Docker's default profile refuses (EPERM).
limit: user.max_user_namespaces is 0, in a user namespace around the command, without capabilities.
chroot: below a directory that is no mount point.
podman: as limit, and a filter refuses what Podman's default profile refuses.
nftables: a filter refuses netfilter's netlink, as a kernel without it does.
neither: as nftables, and there is no /dev/net/tun, in a mount namespace around it.
nothing: as filter, and no other filter may be installed.
yama: as filter, and /proc/sys/kernel/yama/ptrace_scope says 1, in a mount namespace around it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
import tempfile

LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
REFUSE, ALLOW = 0x50000, 0x7FFF0000
CLONE_NEWUSER, CLONE_NEWNS, NEW_NAMESPACES = 0x10000000, 0x00020000, 0x7E020000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
CALLS = {
    "x86_64": {"clone": 56, "mount": 165, "umount2": 166, "pivot_root": 155, "unshare": 272, "setns": 308},
    "aarch64": {"clone": 220, "mount": 40, "umount2": 39, "pivot_root": 41, "unshare": 97, "setns": 268},
}  # fmt: skip
TRACING = {"x86_64": (101, 310, 311, 312), "aarch64": (117, 270, 271, 272)}
"""ptrace, process_vm_readv, process_vm_writev, kcmp."""
SECCOMP = {"x86_64": 317, "aarch64": 277}
CLONE3, PIDFD_GETFD = 435, 438

libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def when(number, body):
    return [(EQUAL, 0, len(body), number), *body]


def forbid_as_docker_does(*, filters=True):
    calls = dict(CALLS[platform.machine()])
    clone = calls.pop("clone")
    steps = [(LOAD, 0, 0, 0)]
    if not filters:
        steps += when(SECCOMP[platform.machine()], [(RETURN, 0, 0, REFUSE | errno.ENOSYS)])
    for number in (*calls.values(), PIDFD_GETFD):
        steps += when(number, [(RETURN, 0, 0, REFUSE | errno.EPERM)])
    steps += when(CLONE3, [(RETURN, 0, 0, REFUSE | errno.ENOSYS)])
    flags = [
        (LOAD, 0, 0, 16),
        (ANY_BIT, 0, 1, NEW_NAMESPACES),
        (RETURN, 0, 0, REFUSE | errno.EPERM),
    ]
    steps += when(clone, [*flags, (RETURN, 0, 0, ALLOW)])
    install([*steps, (RETURN, 0, 0, ALLOW)])


def forbid_nftables():
    """socket(AF_NETLINK, ..., NETLINK_NETFILTER)."""
    refused = [(RETURN, 0, 0, REFUSE | errno.EPROTONOSUPPORT)]
    protocol = [(LOAD, 0, 0, 32), *when(12, refused)]
    family = [(LOAD, 0, 0, 16), *when(16, protocol), (RETURN, 0, 0, ALLOW)]
    number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
    install([(LOAD, 0, 0, 0), *when(number, family), (RETURN, 0, 0, ALLOW)])


def install(steps):
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))
    check(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    check(libc.prctl(22, 2, header))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def enter(flags):
    uid, gid = os.getuid(), os.getgid()
    check(libc.unshare(CLONE_NEWUSER | flags))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        write(f"/proc/self/{name}", text)


def podman():
    limit()
    steps = [(LOAD, 0, 0, 0)]
    for number in TRACING[platform.machine()]:
        steps += when(number, [(RETURN, 0, 0, REFUSE | errno.EPERM)])
    install([*steps, (RETURN, 0, 0, ALLOW)])


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def drop_capabilities():
    """Also what the user id 0 would regain by executing something."""
    check(libc.prctl(28, 0b1111, 0, 0, 0))  # PR_SET_SECUREBITS: NOROOT, NO_SETUID_FIXUP, locked
    check(libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)))


def limit():
    enter(0)
    write("/proc/sys/user/max_user_namespaces", "0")
    drop_capabilities()


def chroot():
    enter(CLONE_NEWNS)
    check(libc.mount(b"", b"/", b"", MS_REC | MS_PRIVATE, None))
    top = tempfile.mkdtemp()
    for name in os.listdir("/"):
        inside, outside = os.path.join(top, name), os.path.join("/", name)
        if os.path.islink(outside):
            os.symlink(os.readlink(outside), inside)
        elif os.path.isdir(outside):
            os.mkdir(inside)
            check(libc.mount(outside.encode(), inside.encode(), b"", MS_BIND | MS_REC, None))
    here = os.getcwd()
    os.chroot(top)
    os.chdir(here)
    drop_capabilities()


def yama():
    """Let a file say so: this kernel has no Yama, perhaps."""
    enter(CLONE_NEWNS)
    check(libc.mount(b"", b"/", b"", MS_REC | MS_PRIVATE, None))
    check(libc.mount(b"sysctls", b"/proc/sys/kernel", b"tmpfs", 0, None))
    os.mkdir("/proc/sys/kernel/yama")
    write("/proc/sys/kernel/yama/ptrace_scope", "1\n")
    drop_capabilities()
    forbid_as_docker_does()


def neither():
    enter(CLONE_NEWNS)
    check(libc.mount(b"", b"/", b"", MS_REC | MS_PRIVATE, None))
    check(libc.mount(b"none", b"/dev/net", b"tmpfs", 0, None))
    forbid_nftables()


if __name__ == "__main__":
    ways = {
        "chroot": chroot,
        "filter": forbid_as_docker_does,
        "limit": limit,
        "neither": neither,
        "nftables": forbid_nftables,
        "podman": podman,
        "nothing": lambda: forbid_as_docker_does(filters=False),
        "yama": yama,
    }
    ways[sys.argv[1]]()
    os.execvp(sys.argv[2], sys.argv[2:])
