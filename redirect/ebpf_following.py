"""Follows targets: children belong to them also when their parents have ended.

1. The kernel's half looks from a process up to its parents. Where a parent has ended that line is
   broken (daemons), so what a child inherits is noted when it is forked, and forgotten when it
   ends, so that its number means nothing for whoever gets it next.
2. The kernel tells of forks, execs and ends in order (the process connector). It tells at once, and
   we write it down a moment later: who loses its parent and connects within that moment is missed.
3. When reports were lost, all processes are looked at again.
4. Without the connector (not in the machine's first network namespace) lines that break are lost.

Kernel: include/uapi/linux/cn_proc.h. Tests: test_ebpf_following.py.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress
from typing import Any, NamedTuple

from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect.ebpf_calls import Map
from pytest_netcapture.redirect.ebpf_records import NAMES, encode_word
from pytest_netcapture.redirect.ebpf_targets import Rules, inherited
from pytest_netcapture.redirect.processes import all_pids
from pytest_netcapture.redirect.seccomp_places import read_start

_CONNECTOR = 11
_PROCESSES = (1, 1)  # CN_IDX_PROC, CN_VAL_PROC
_LISTEN = 1
_DONE = 3
_MESSAGE = struct.Struct("=IIIIHH")
_EVENT = struct.Struct("=IIQ")
_FORK, _EXEC, _EXIT = 1, 2, 0x8000_0000
_BUFFER = 4 << 20
_READ_ROUNDS = 256
_AT = k.NLMSG_HEADER.size + _MESSAGE.size
_LOST = (
    "netcapture: no reports of new processes ({}): a daemon that loses its parents is not followed"
)


class Forked(NamedTuple):
    """A process has a child; threads are not told."""

    parent: int
    child: int


class Executed(NamedTuple):
    """A process has become another program."""

    process: int


class Ended(NamedTuple):
    """A process has ended."""

    process: int


def parse(data: bytes) -> Forked | Executed | Ended | None:
    """Read one report; None if it is of no interest. Never raises."""
    if len(data) < _AT + _EVENT.size + 16:
        return None
    kind = _EVENT.unpack_from(data, _AT)[0]
    first, group, third, fourth = struct.unpack_from("=4I", data, _AT + _EVENT.size)
    if kind == _FORK:
        return Forked(group, fourth) if third == fourth else None
    if first != group:
        return None
    if kind == _EXEC:
        return Executed(group)
    return Ended(group) if kind == _EXIT else None


class Members:
    """What processes have of rules, as the kernel's map has it."""

    def __init__(self, rules: Rules, table: Map) -> None:
        self._rules = rules
        self._table = table
        self._known: dict[int, int] = {}
        self._names_of = names_of if rules.flags & NAMES else _no_names

    def look(self) -> None:
        """Note all processes there are."""
        for process, value in self._rules.processes().items():
            if os.path.exists(f"/proc/{process}"):
                self._set(process, value)
        parents = {pid: s.parent for pid in all_pids() if (s := read_start(pid)) is not None}
        for pid in list(self._known):
            if pid not in parents:
                self.take(Ended(pid))
        for pid in parents:
            self._settle(pid, parents)

    def take(self, event: Forked | Executed | Ended) -> None:
        if isinstance(event, Forked):
            value = self._known.get(event.parent, 0)
            if value:
                self._set(event.child, inherited(value))
        elif isinstance(event, Executed):
            value = self._rules.naming(event.process, self._names_of(event.process))
            if value:
                self._set(event.process, value)
        elif self._known.pop(event.process, 0):
            self._table.discard(encode_word(event.process))

    def _settle(self, pid: int, parents: dict[int, int]) -> None:
        """Note what a process has, and before that what its parents have."""
        line = []
        while pid in parents and pid not in self._known and pid not in line:
            line.append(pid)
            pid = parents[pid]
        above = self._known.get(pid, 0)
        for one in reversed(line):
            above = self._rules.naming(one, self._names_of(one)) or inherited(above)
            if above:
                self._set(one, above)

    def _set(self, process: int, value: int) -> None:
        self._known[process] = value
        with suppress(OSError):  # full: its parents still tell
            self._table.set(encode_word(process), encode_word(value))


class Following:
    """Listens to the kernel's reports. `note` says what is lost without."""

    def __init__(self, members: Members, reports: socket.socket | None, lacking: str) -> None:
        """Listen to `reports` (of `connect_reports`); if there are none, `lacking` says why."""
        self._members = members
        self._loop: Any = None
        self._socket = reports
        self.note = "" if reports is not None else _LOST.format(lacking)

    def watch(self, loop: Any) -> None:
        self._members.look()
        if self._socket is not None:
            self._loop = loop
            loop.add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        if self._socket is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        for _ in range(_READ_ROUNDS):
            if self._socket is None:
                return
            try:
                event = parse(self._socket.recv(4096))
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    self._members.look()
                return
            if event is not None:
                self._members.take(event)


def _no_names(process: int) -> tuple[str, ...]:
    """Return what is enough where rules go by number only."""
    del process
    return ()


def names_of(process: int) -> tuple[str, ...]:
    """Return the name of a process's file, and its own; nothing when it has ended."""
    found = []
    with suppress(OSError):
        path = os.readlink(f"/proc/{process}/exe").removesuffix(" (deleted)")
        found.append(path.rpartition("/")[2])
    with suppress(OSError), open(f"/proc/{process}/comm", "rb") as file:
        found.append(os.fsdecode(file.read().rstrip(b"\n")))
    return tuple(found)


def connect_reports() -> socket.socket:
    """Begin to listen to the kernel. Raises `OSError`."""
    flags = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    conn = socket.socket(socket.AF_NETLINK, flags, _CONNECTOR)
    try:
        conn.setsockopt(socket.SOL_SOCKET, k.SO_RCVBUFFORCE, _BUFFER)
        conn.bind((0, _PROCESSES[0]))
        body = _MESSAGE.pack(*_PROCESSES, 0, 0, 4, 0) + struct.pack("=I", _LISTEN)
        header = k.NLMSG_HEADER.pack(k.NLMSG_HEADER.size + len(body), _DONE, 0, 0, 0)
        conn.send(header + body)
    except BaseException:
        conn.close()
        raise
    return conn
