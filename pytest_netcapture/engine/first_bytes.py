"""The first bytes of a connection, looked at and left where they are (recv(2), MSG_PEEK).

1. A transport that does TLS gets the ClientHello whole, and a relay passes it on as it came.
2. Waiting for the rest of one costs no polling: SO_RCVLOWAT (socket(7)) wakes when it is there.
3. A client that hangs up while nobody reads from it is noticed only by its socket's state.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_netcapture.engine.layers.sniff import ClientHello, NeedMore, parse_client_hello

if TYPE_CHECKING:
    from pytest_netcapture.engine.connection import Connection

PEEK = 1 << 16
FIRST_BYTES_TIMEOUT = 3.0
"""Seconds that a client without a server (replay) may take to say what it wants."""
_VIGIL = 0.25
"""Seconds that a server may take for its handshake until the client is watched meanwhile."""
_ESTABLISHED = 1
"""tcpi_state, the first byte of struct tcp_info (linux/tcp.h)."""


async def client_hello(loop: Any, connection: Connection) -> ClientHello | None:
    """Peek until there is a whole ClientHello; None as soon as it is something else."""
    sock = connection.client_socket
    assert sock is not None
    while True:
        data = await _peek(loop, connection, sock)
        if not data:
            return None
        parsed = parse_client_hello(data)
        if not isinstance(parsed, NeedMore):
            return parsed if isinstance(parsed, ClientHello) else None
        wanted = max(parsed.length, len(data) + 1)
        if len(data) >= PEEK or not await _wait_for(loop, connection, sock, wanted, len(data)):
            return None


def has_left(sock: socket.socket) -> bool:
    """Tell whether the peer has ended its side of a connection, or reset it."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _ESTABLISHED


def peeked(sock: socket.socket, size: int) -> bytes | None:
    """Return what can be read; b"" at the end, or after a reset; None while there is nothing.

    A reset is left for the transport: recv(2) would tell of it once only.
    """
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    found = dict(poll.poll(0)).get(sock.fileno(), 0)
    if found & select.POLLERR:
        return b""
    return sock.recv(size, socket.MSG_PEEK) if found else None


class Vigil:
    """Calls `left` when the client of a peeked socket hangs up; `end` it before the socket is used.

    It begins late, since most servers are quick and watching costs more than waiting for them.
    """

    def __init__(self, loop: Any, sock: socket.socket, left: Callable[[], None]) -> None:
        self._loop = loop
        self._sock = sock
        self._left = left
        self._watching = False
        self._timer = loop.call_later(_VIGIL, self._begin)

    def end(self) -> None:
        self._timer.cancel()
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._sock.fileno())
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _begin(self) -> None:
        # An end wakes whatever the mark is (tcp_poll); what has been peeked at does not.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, PEEK)
        self._loop.add_reader(self._sock.fileno(), self._readable)
        self._watching = True

    def _readable(self) -> None:
        self.end()
        if has_left(self._sock):
            self._left()


async def _peek(loop: Any, connection: Connection, sock: socket.socket) -> bytes:
    """Peek at the first bytes; b"" when the client ends or is silent, or the server speaks."""
    with contextlib.suppress(BlockingIOError, ConnectionError):
        return sock.recv(PEEK, socket.MSG_PEEK)
    patience = None if connection.server_socket is not None else FIRST_BYTES_TIMEOUT
    if not await _any_readable(loop, _descriptors(connection, sock), patience):
        connection.give_up("the client waits for the server to speak first: that is not replayed")
        return b""
    try:
        return sock.recv(PEEK, socket.MSG_PEEK)
    except OSError:
        return b""


async def _wait_for(
    loop: Any, connection: Connection, sock: socket.socket, wanted: int, have: int
) -> bool:
    """Wait until `wanted` bytes can be read; False when either side ends before."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(wanted, PEEK))
        await _any_readable(loop, _descriptors(connection, sock))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        return len(sock.recv(PEEK, socket.MSG_PEEK)) > have
    except OSError:
        return False


def _descriptors(connection: Connection, sock: socket.socket) -> list[int]:
    server = connection.server_socket
    return [sock.fileno()] if server is None else [sock.fileno(), server.fileno()]


async def _any_readable(loop: Any, descriptors: list[int], patience: float | None = None) -> bool:
    """Wait until one can be read; return False after `patience` seconds."""
    future: asyncio.Future[bool] = loop.create_future()

    def settle(readable: bool) -> None:
        if not future.done():
            future.set_result(readable)

    timer = None if patience is None else loop.call_later(patience, settle, False)
    for fd in descriptors:
        loop.add_reader(fd, settle, True)
    try:
        return await future
    finally:
        if timer is not None:
            timer.cancel()
        for fd in descriptors:
            loop.remove_reader(fd)
