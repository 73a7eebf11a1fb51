"""For what threads wait, as the kernel tells: whether they would wait for ever.

Read from `/proc/<pid>/task/<tid>/syscall` (proc(5)): the number of the call in which a thread
sleeps and its arguments, "running" when it does not.
"""

from __future__ import annotations

import math
import os
import platform
import stat
import struct
from collections.abc import Iterator
from typing import NamedTuple

RUNNING = "running"

_X86 = {
    7: ("poll", 2, "ms"),
    271: ("ppoll", 2, "ns"),
    23: ("select", 4, "us"),
    270: ("pselect6", 4, "ns"),
    232: ("epoll_wait", 3, "ms"),
    281: ("epoll_pwait", 3, "ms"),
    441: ("epoll_pwait2", 3, "ns"),
    202: ("futex", 3, "some"),
    35: ("nanosleep", 0, "ns"),
    230: ("clock_nanosleep", 2, "ns"),
}
_ARM = {
    73: ("ppoll", 2, "ns"),
    72: ("pselect6", 4, "ns"),
    22: ("epoll_pwait", 3, "ms"),
    441: ("epoll_pwait2", 3, "ns"),
    98: ("futex", 3, "some"),
    101: ("nanosleep", 0, "ns"),
    115: ("clock_nanosleep", 2, "ns"),
}
_CALLS = {"x86_64": _X86, "aarch64": _ARM}.get(platform.machine(), {})
_SOME = 60.0
"""Seconds that stand for a time that cannot be read."""
_POLLED = struct.Struct("=ihh")


class Wait(NamedTuple):
    """A thread sleeps in `call`, for `seconds` at most (math.inf: for ever)."""

    call: str
    seconds: float
    first: int
    """The call's first argument."""


def of_thread(pid: int, tid: int) -> Wait | None:
    """Return for what a thread waits; None when it runs. Raises `OSError` if it cannot be told."""
    with open(f"/proc/{pid}/task/{tid}/syscall") as file:
        words = file.read().split()
    if not words or words[0] == RUNNING or int(words[0]) < 0:
        return None
    arguments = [int(word, 16) for word in words[1:7]]
    call, where, unit = _CALLS.get(int(words[0]), ("", 0, ""))
    return Wait(call, _seconds(pid, arguments[where], unit) if unit else math.inf, arguments[0])


def _seconds(pid: int, value: int, unit: str) -> float:
    if unit == "ms":
        signed = struct.unpack("=i", struct.pack("=I", value & 0xFFFFFFFF))[0]
        return math.inf if signed < 0 else signed / 1000
    if not value:
        return math.inf
    if unit == "some":
        return _SOME
    try:
        whole, part = struct.unpack("=qq", _memory(pid, value, 16))
    except (OSError, struct.error):
        return _SOME
    return float(whole + part / (1e6 if unit == "us" else 1e9))


def _memory(pid: int, address: int, size: int) -> bytes:
    descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        return os.pread(descriptor, size, address)
    finally:
        os.close(descriptor)


def on_socket(wait: Wait) -> bool:
    """Tell whether a wait of a thread of ours is a poll(2) of one descriptor, a socket."""
    if wait.call not in ("poll", "ppoll"):
        return False
    try:
        descriptor = _POLLED.unpack(_memory(os.getpid(), wait.first, _POLLED.size))[0]
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except (OSError, struct.error):
        return False


def of_all(but: int) -> dict[int, Wait] | None:
    """Return the waits of all threads of this process, but one, and of those that it has started.

    None when any runs. A process that cannot be looked into counts as one that waits some time.
    """
    found: dict[int, Wait] = {}
    for pid in _family(os.getpid()):
        try:
            threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
        except OSError:
            continue
        for tid in threads:
            if tid == but:
                continue
            try:
                wait = of_thread(pid, tid)
            except OSError:
                wait = Wait("", _SOME, 0)
            if wait is None:
                return None
            found[tid] = wait
    return found


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        for tid in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{tid}/children") as file:
                children = [int(word) for word in file.read().split()]
            for child in children:
                yield from _family(child)
    except OSError:
        return
