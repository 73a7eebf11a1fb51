"""The kernel's numbers for seccomp filters and their notifications, in one place.

1. From linux/seccomp.h, linux/filter.h, linux/audit.h, asm-generic/ioctl.h and the tables of system
   calls. Little-endian 64-bit machines; `machine` raises for others.
2. A 32-bit program on the same machine has other numbers and layouts. The calls that could reach
   the network are listed as well, to be refused.

Kernel: Documentation/userspace-api/seccomp_filter.rst, seccomp_unotify(2).
"""

from __future__ import annotations

import platform
import struct
from typing import NamedTuple

from pytest_netcapture.errors import EnvironmentProblem

# linux/seccomp.h
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
SECCOMP_FILTER_FLAG_TSYNC_ESRCH = 16
SECCOMP_RET_ERRNO = 0x0005_0000
SECCOMP_RET_USER_NOTIF = 0x7FC0_0000
SECCOMP_RET_ALLOW = 0x7FFF_0000
SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1
SECCOMP_ADDFD_FLAG_SETFD = 1
SECCOMP_ADDFD_FLAG_SEND = 2
SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP = 1

# _IOWR('!', nr, size) and _IOW
NOTIF_RECV = 0xC050_2100
NOTIF_SEND = 0xC018_2101
NOTIF_ID_VALID = 0x8008_2102
"""With the wrong direction that it had before Linux 5.17, and which is understood since, too."""
NOTIF_ADDFD = 0x4018_2103
NOTIF_SET_FLAGS = 0x4008_2104

NOTIF = struct.Struct("<QIIiIQ6Q")
"""struct seccomp_notif: id, pid, flags; number, arch, instruction pointer and six arguments."""
NOTIF_RESP = struct.Struct("<QqiI")
"""id, value, error (negative), flags."""
NOTIF_ADDFD_STRUCT = struct.Struct("<QIIII")
"""id, flags, our descriptor, theirs, its flags."""

# struct seccomp_data: offsets of what a filter loads
DATA_NUMBER = 0
DATA_ARCH = 4
DATA_ARGUMENTS = 16

# linux/filter.h: code, jump if true, jump if false, operand
INSTRUCTION = struct.Struct("<HBBI")
LOAD = 0x20
JUMP_IF_EQUAL = 0x15
JUMP_IF_AT_LEAST = 0x35
JUMP_IF_ANY_BIT = 0x45
AND = 0x54
RETURN = 0x06

# linux/prctl.h, linux/socket.h
PR_SET_NO_NEW_PRIVS = 38
MSG_FASTOPEN = 0x2000_0000

X32_SYSCALL_BIT = 0x4000_0000


class Machine(NamedTuple):
    """One kind of machine: its number for auditing, its system calls, those of 32-bit programs."""

    audit: int
    calls: dict[str, int]
    audit_32: int
    calls_32: tuple[int, ...]
    seccomp: int
    """The number of seccomp(2) itself."""
    pidfd_getfd: int = 438
    pidfd_open: int = 434


_X86_64 = Machine(
    audit=0xC000_003E,
    calls={
        "socket": 41,
        "connect": 42,
        "sendto": 44,
        "recvfrom": 45,
        "sendmsg": 46,
        "recvmsg": 47,
        "bind": 49,
        "getsockname": 51,
        "getpeername": 52,
        "recvmmsg": 299,
        "sendmmsg": 307,
        "io_uring_setup": 425,
    },
    audit_32=0x4000_0003,
    calls_32=(102, 345, 362, 369, 370, 425),  # socketcall, sendmmsg, connect, sendto, sendmsg, ...
    seccomp=317,
)
_GENERIC = {
    "socket": 198,
    "bind": 200,
    "connect": 203,
    "sendto": 206,
    "recvfrom": 207,
    "sendmsg": 211,
    "recvmsg": 212,
    "getsockname": 204,
    "getpeername": 205,
    "recvmmsg": 243,
    "sendmmsg": 269,
    "io_uring_setup": 425,
}
_AARCH64 = Machine(0xC000_00B7, _GENERIC, 0x4000_0028, (283, 290, 296, 374, 425), 277)
_RISCV64 = Machine(0xC000_00F3, _GENERIC, 0x4000_00F3, (), 277)
_MACHINES = {"x86_64": _X86_64, "aarch64": _AARCH64, "riscv64": _RISCV64}


def machine(name: str = "") -> Machine:
    """Return the numbers of this machine. Raises `EnvironmentProblem` for an unknown kind."""
    name = name or platform.machine()
    found = _MACHINES.get(name)
    if found is None:
        raise EnvironmentProblem(
            f"seccomp: the system calls of a {name} machine are not known here",
            cure=f"use a machine that is one of: {', '.join(_MACHINES)}",
            slug="docs/redirectors.md#seccomp",
        )
    return found
