"""Hears every packet of a namespace, each once, by a packet socket.

1. What is for the namespace itself passes `lo`, and is heard there when it arrives. What passes
   eth0 (tun) is heard both ways; what its stack gives back on `lo` was heard on its way to it.
2. Packets that come faster than they are read are dropped by the kernel, and counted.

Kernel: packet(7), Documentation/networking/packet_mmap.rst. Tests: test_packet_tap.py.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from pytest_netcapture.redirect import kernel as k

_EVERYTHING = 0x0003
_IP = frozenset({0x0800, 0x86DD})
_TIMESTAMP = 35
_STATISTICS = 6
_BUFFER = 64 << 20
_ROUNDS = 4096
_REMEMBERED = 4096
_TIME = struct.Struct("@qq")

Heard = Callable[[int, bytes], None]
"""Called with nanoseconds since 1970 and an IP packet."""


def open_tap() -> socket.socket:
    """Return a packet socket of the calling thread's namespace."""
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    conn = socket.socket(socket.AF_PACKET, kind, socket.htons(_EVERYTHING))
    with contextlib.suppress(OSError):
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    with contextlib.suppress(OSError):  # beyond rmem_max for real root only
        conn.setsockopt(socket.SOL_SOCKET, k.SO_RCVBUFFORCE, _BUFFER)
    conn.setsockopt(socket.SOL_SOCKET, _TIMESTAMP, 1)
    return conn


class Tap:
    """Reads a packet socket on the loop's thread."""

    def __init__(self, loop: Any, conn: socket.socket, heard: Heard) -> None:
        self._loop = loop
        self._conn = conn
        self._heard = heard
        self._left: OrderedDict[int, int] = OrderedDict()
        self.dropped = 0
        loop.add_reader(conn.fileno(), self.read)

    def read(self) -> None:
        """Take in what has been heard by now."""
        for _ in range(_ROUNDS):
            try:
                data, ancillary, _, address = self._conn.recvmsg(1 << 17, 64)
            except OSError as error:
                if error.errno not in {errno.ENETDOWN, errno.EINTR}:
                    return
                continue
            interface, protocol, kind = address[:3]
            if protocol in _IP and self._is_first(interface, kind, data):
                self._heard(_time(ancillary), data)

    def close(self) -> None:
        """Read what is left, and stop; idempotent."""
        if self._conn.fileno() < 0:
            return
        self.read()
        told = self._conn.getsockopt(k.SOL_PACKET, _STATISTICS, 8)
        self.dropped += int.from_bytes(told[4:], sys.byteorder)
        self._loop.remove_reader(self._conn.fileno())
        self._conn.close()

    def _is_first(self, interface: str, kind: int, data: bytes) -> bool:
        if interface == "lo":
            return kind != socket.PACKET_OUTGOING and not self._was_heard(hash(data))
        if kind == socket.PACKET_OUTGOING:
            self._left[hash(data)] = self._left.get(hash(data), 0) + 1
            if len(self._left) > _REMEMBERED:
                self._left.popitem(last=False)
        return True

    def _was_heard(self, what: int) -> bool:
        count = self._left.pop(what, 0)
        if count > 1:
            self._left[what] = count - 1
        return count > 0


def _time(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _TIMESTAMP) and len(data) >= _TIME.size:
            seconds, nanoseconds = _TIME.unpack_from(data)
            return int(seconds * 1_000_000_000 + nanoseconds)
    return 0
