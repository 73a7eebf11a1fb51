"""The filter: which system calls of captured programs wait for the engine's answer.

1. Installed in the test process, inherited by all that it starts. It is the kernel's program, a few
   nanoseconds a call; calls that it does not name cost nothing (the kernel keeps a bitmap of them).
2. It sees registers, not memory: whether `connect` goes to a Unix socket is the supervisor's to
   find out. What registers do tell is decided here: sending and receiving without an address, and
   receiving descriptors, are let through; addresses shorter than an IPv4 one, too (netlink).
3. Where the engine makes programs' sockets (seccomp_sockets.py), `socket` and `bind` are stopped,
   too.
4. What could carry data past a `connect` is refused: MSG_FASTOPEN (EOPNOTSUPP: clients connect
   instead), io_uring (ENOSYS: they use epoll), 32-bit programs' and x32's network calls (ENOSYS).
5. One filter with a listener is all that the kernel allows a process tree: installing a second
   one fails with EBUSY.
6. Imported by the test process: no more than ctypes.

Tests: test_seccomp_filter.py.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Sequence

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import seccomp_abi as abi

_NOTIFY = (abi.RETURN, 0, 0, abi.SECCOMP_RET_USER_NOTIF)
_ALLOW = (abi.RETURN, 0, 0, abi.SECCOMP_RET_ALLOW)
_KIND = 0xF  # of a socket, without SOCK_NONBLOCK and SOCK_CLOEXEC
_SHORTEST_ADDRESS = 16  # sizeof(struct sockaddr_in)
_OF_UNIX_SOCKETS = socket.MSG_CMSG_CLOEXEC | socket.MSG_ERRQUEUE
"""Flags of receiving calls that expect descriptors, or errors and not datagrams."""

_FLAGS = (
    abi.SECCOMP_FILTER_FLAG_TSYNC
    | abi.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
    | abi.SECCOMP_FILTER_FLAG_NEW_LISTENER
    | abi.SECCOMP_FILTER_FLAG_SPEC_ALLOW
)

Instruction = tuple[int, int, int, int]
_libc = ctypes.CDLL(None, use_errno=True)


def program(machine: abi.Machine, *, sockets: bool = False) -> list[Instruction]:
    """Return the filter for a kind of machine. `sockets`: the engine makes them."""
    calls = machine.calls
    own = [
        _load(abi.DATA_NUMBER),
        *_when(abi.JUMP_IF_AT_LEAST, abi.X32_SYSCALL_BIT, [_refuse(errno.ENOSYS)]),
        *_call(calls["connect"], [*_at_least(2, _SHORTEST_ADDRESS), _NOTIFY]),
        *_call(calls["sendto"], [*_not_fast_open(3), *_pointer(4)]),
        *_call(calls["sendmsg"], [*_not_fast_open(2), _NOTIFY]),
        *_call(calls["sendmmsg"], [*_not_fast_open(3), _NOTIFY]),
        *_call(calls["recvfrom"], _pointer(4)),
        *_call(calls["recvmsg"], [*_unless_flags(2, _OF_UNIX_SOCKETS), _NOTIFY]),
        *_call(calls["recvmmsg"], [*_unless_flags(3, _OF_UNIX_SOCKETS), _NOTIFY]),
        *_call(calls["getpeername"], [_NOTIFY]),
        *_call(calls["getsockname"], [_NOTIFY]),
        *_call(calls["io_uring_setup"], [_refuse(errno.ENOSYS)]),
        *(_call(calls["socket"], _of_ip()) if sockets else ()),
        *(_call(calls["bind"], [*_at_least(2, _SHORTEST_ADDRESS), _NOTIFY]) if sockets else ()),
        _ALLOW,
    ]
    foreign = [_load(abi.DATA_NUMBER)]
    for number in machine.calls_32:
        foreign += _call(number, [_refuse(errno.ENOSYS)])
    foreign.append(_ALLOW)
    head = [_load(abi.DATA_ARCH), *_when(abi.JUMP_IF_EQUAL, machine.audit_32, foreign)]
    other = [*_when(abi.JUMP_IF_EQUAL, machine.audit, own), _refuse(errno.ENOSYS)]
    return [*head, *other]


def install(*, sockets: bool = False) -> int:
    """Install it for all threads of this process; return the listener, close-on-exec.

    Raises `EnvironmentProblem`.
    """
    machine = abi.machine()
    steps = program(machine, sockets=sockets)
    code = b"".join(abi.INSTRUCTION.pack(*step) for step in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = _Program(len(steps), ctypes.addressof(buffer))
    listener = _seccomp(machine, head)
    if listener < 0 and ctypes.get_errno() == errno.EACCES:  # without CAP_SYS_ADMIN
        _libc.prctl(abi.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        listener = _seccomp(machine, head)
    if listener < 0:
        raise _refused(ctypes.get_errno())
    return listener


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _seccomp(machine: abi.Machine, head: _Program) -> int:
    result: int = _libc.syscall(
        ctypes.c_long(machine.seccomp),
        ctypes.c_long(abi.SECCOMP_SET_MODE_FILTER),
        ctypes.c_long(_FLAGS),
        ctypes.byref(head),
    )
    return result


def _refused(number: int) -> EnvironmentProblem:
    cause, cure = {
        errno.EBUSY: (
            "a supervisor watches this process already: an outer netcapture, or the container",
            "run the outer one, or this one, without capture",
        ),
        errno.ENOSYS: ("this kernel has no seccomp filters", "use another kernel"),
        errno.EINVAL: (
            "this kernel is older than Linux 5.7, or only imitates one (gVisor)",
            "use a newer kernel",
        ),
        errno.ESRCH: (
            "a thread of this process has a seccomp filter of its own",
            "start pytest without what starts that thread",
        ),
    }.get(number, ("the kernel gives no other reason", "see `netcapture doctor`"))
    name = errno.errorcode.get(number, str(number))
    return EnvironmentProblem(
        f"seccomp: no filter can be installed: {name} ({os.strerror(number)}): {cause}",
        cure=cure,
        slug="docs/redirectors.md#seccomp",
    )


# ── the assembler ────────────────────────────────────────────────────────────────────────────


def _load(offset: int) -> Instruction:
    return (abi.LOAD, 0, 0, offset)


def _refuse(number: int) -> Instruction:
    return (abi.RETURN, 0, 0, abi.SECCOMP_RET_ERRNO | number)


def _when(jump: int, operand: int, body: Sequence[Instruction]) -> list[Instruction]:
    """Do `body`, which always returns, if what is loaded compares so; else go on behind it."""
    return [(jump, 0, len(body), operand), *body]


def _call(number: int, body: Sequence[Instruction]) -> list[Instruction]:
    return _when(abi.JUMP_IF_EQUAL, number, body)


def _argument(index: int, *, high: bool = False) -> Instruction:
    return _load(abi.DATA_ARGUMENTS + 8 * index + (4 if high else 0))


def _at_least(index: int, least: int) -> list[Instruction]:
    """Go on if the argument is at least so large, else allow the call."""
    return [_argument(index), (abi.JUMP_IF_AT_LEAST, 1, 0, least), _ALLOW]


def _not_fast_open(index: int) -> list[Instruction]:
    refusal = [_refuse(errno.EOPNOTSUPP)]
    return [_argument(index), *_when(abi.JUMP_IF_ANY_BIT, abi.MSG_FASTOPEN, refusal)]


def _of_ip() -> list[Instruction]:
    """Notify of a TCP or UDP socket, allow others."""
    return [
        _argument(0),
        (abi.JUMP_IF_EQUAL, 2, 0, socket.AF_INET),
        (abi.JUMP_IF_EQUAL, 1, 0, socket.AF_INET6),
        _ALLOW,
        _argument(1),
        (abi.AND, 0, 0, _KIND),
        (abi.JUMP_IF_EQUAL, 2, 0, socket.SOCK_STREAM),
        (abi.JUMP_IF_EQUAL, 1, 0, socket.SOCK_DGRAM),
        _ALLOW,
        _NOTIFY,
    ]


def _unless_flags(index: int, flags: int) -> list[Instruction]:
    """Go on if the argument has none of these bits, else allow the call."""
    return [_argument(index), *_when(abi.JUMP_IF_ANY_BIT, flags, [_ALLOW])]


def _pointer(index: int) -> list[Instruction]:
    """Notify if the argument is not NULL, else allow the call."""
    return [
        _argument(index),
        (abi.JUMP_IF_EQUAL, 0, 2, 0),
        _argument(index, high=True),
        (abi.JUMP_IF_EQUAL, 1, 0, 0),
        _NOTIFY,
        _ALLOW,
    ]
