"""A connection that is left alone: bytes both ways between two sockets, nothing else.

1. No transport, no layer, no task: setting one up costs a client that only looks whether a port is
   open more than the rest of its connection.
2. What one side does not take is kept, one piece at most, and the other is not read meanwhile.
3. An end is passed on as an end, a reset as a reset. `done` is told when both sides are.

Tests: tests/engine/test_connections.py, test_publisher.py.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_netcapture.flows import FlowError

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine

Done = Callable[[int, int, "FlowError | None"], None]
"""Bytes from the client, bytes to it, and what ended it if it was not the two of them."""

_BUFFER = memoryview(bytearray(1 << 18))
"""What every relay reads into: a large `recv` of its own is an mmap(2) and a munmap(2)."""


class _Way:
    """One direction: from `source` to `target`."""

    __slots__ = ("ended", "moved", "source", "target", "waiting")

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.target = target
        self.waiting = b""
        self.moved = 0
        self.ended = False


class Relay:
    """One connection; `reset` ends it at once."""

    def __init__(
        self, engine: Engine, client: socket.socket, server: socket.socket, done: Done
    ) -> None:
        self._engine = engine
        self._done = done
        self._over = False
        self._out = _Way(client, server)
        self._back = _Way(server, client)
        for way in (self._out, self._back):
            engine.poller.add_reader(way.source.fileno(), self._readable, way)

    def count_left(self) -> None:
        """Count nothing: loopback does not leave the machine."""

    def reset(self) -> None:
        self._end(FlowError("reset", "the session ended"), reset=True)

    def _readable(self, way: _Way) -> None:
        try:
            size = way.source.recv_into(_BUFFER)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(FlowError("reset", str(error), self._back.moved), reset=True)
            return
        if size:
            self._send(way, _BUFFER[:size])
        else:
            self._engine.poller.remove_reader(way.source.fileno())
            self._pass_end(way)

    def _send(self, way: _Way, data: memoryview | bytes) -> None:
        try:
            sent = way.target.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._end(FlowError("reset", str(error), self._back.moved), reset=True)
            return
        way.moved += sent
        if sent < len(data):
            if not way.waiting:
                self._engine.poller.remove_reader(way.source.fileno())
                self._engine.poller.add_writer(way.target.fileno(), self._writable, way)
            way.waiting = bytes(data[sent:])
        elif way.waiting:
            way.waiting = b""
            self._engine.poller.remove_writer(way.target.fileno())
            self._engine.poller.add_reader(way.source.fileno(), self._readable, way)

    def _writable(self, way: _Way) -> None:
        self._send(way, way.waiting)

    def _pass_end(self, way: _Way) -> None:
        way.ended = True
        if self._out.ended and self._back.ended:
            self._end(None)
            return
        with contextlib.suppress(OSError):
            way.target.shutdown(socket.SHUT_WR)

    def _end(self, error: FlowError | None, *, reset: bool = False) -> None:
        from pytest_netcapture.engine.connection import reset_socket

        if self._over:
            return
        self._over = True
        for sock in (self._out.source, self._back.source):
            self._engine.poller.remove_reader(sock.fileno())
            self._engine.poller.remove_writer(sock.fileno())
            if reset:
                reset_socket(sock)
            else:
                sock.close()
        self._engine.connections.discard(self)
        self._done(self._out.moved, self._back.moved, error)
