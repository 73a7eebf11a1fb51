"""The first bytes of a connection, looked at and left where they are (recv(2), MSG_PEEK).

1. A transport that does TLS gets the ClientHello whole, and a relay passes it on as it came.
2. What has been peeked at can still be read, so waiting for more takes an edge (epoll(7), EPOLLET).
3. A client that hangs up while nobody reads from it is noticed only by its socket's state, which
   is asked for in a way that a TCP socket and a socket pair both know (poll(2), POLLRDHUP).
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_netcapture.engine.layers.opening import PATIENCE
from pytest_netcapture.engine.layers.sniff import HEAD, ClientHello, NeedMore, parse_client_hello

if TYPE_CHECKING:
    from pytest_netcapture.engine.connection import Connection

PEEK = 1 << 16
FIRST_BYTES_TIMEOUT = 3.0
"""Seconds that a client without a server (replay) may take to say what it wants."""
_VIGIL = 0.25
"""Seconds that a server may take for its handshake until the client is watched meanwhile."""


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
        if len(data) >= PEEK or not await _wait_for(loop, connection, sock, len(data)):
            return None


def has_left(sock: socket.socket) -> bool:
    """Tell whether the peer has ended its side of a connection, or reset it."""
    asked = select.poll()
    asked.register(sock, select.POLLRDHUP)
    return bool(asked.poll(0))


def peeked(sock: socket.socket, size: int) -> bytes | None:
    """Return what can be read; b"" at the end, or after a reset; None while there is nothing.

    A reset is left for the transport: recv(2) would tell of it once only.
    """
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    found = dict(poll.poll(0)).get(sock.fileno(), 0)
    if found & select.POLLERR:
        return b""
    try:
        return sock.recv(size, socket.MSG_PEEK) if found else None
    except ConnectionError:  # of a socket pair, which tells of it each time
        return b""


class Vigil:
    """Calls `left` when the client of a peeked socket hangs up; `end` it before the socket is used.

    It begins late, since most servers are quick and watching costs more than waiting for them.
    """

    def __init__(self, loop: Any, sock: socket.socket, left: Callable[[], None]) -> None:
        self._loop = loop
        self._sock = sock
        self._left = left
        self._watching: select.epoll | None = None
        self._timer = loop.call_later(_VIGIL, self._begin)

    def end(self) -> None:
        self._timer.cancel()
        if self._watching is not None:
            self._loop.remove_reader(self._watching.fileno())
            self._watching.close()
            self._watching = None

    def _begin(self) -> None:
        self._watching = select.epoll()
        self._watching.register(self._sock, select.EPOLLRDHUP)
        self._loop.add_reader(self._watching.fileno(), self._hung_up)

    def _hung_up(self) -> None:
        self.end()
        self._left()


async def _peek(loop: Any, connection: Connection, sock: socket.socket) -> bytes:
    """Peek at the first bytes; b"" when the client ends or is silent, or the server speaks."""
    with contextlib.suppress(BlockingIOError, ConnectionError):
        return sock.recv(PEEK, socket.MSG_PEEK)
    waits = connection.server_socket is not None or connection.expects_client
    patience = None if waits else FIRST_BYTES_TIMEOUT
    if not await _any_readable(loop, _descriptors(connection, sock), patience):
        connection.silent()
        return b""
    try:
        return sock.recv(PEEK, socket.MSG_PEEK)
    except OSError:
        return b""


async def _wait_for(loop: Any, connection: Connection, sock: socket.socket, have: int) -> bool:
    """Wait until more than `have` bytes can be read; False when either side ends before.

    What is too short to be told from TLS is not waited for long: its client may wait, too.
    """
    with select.epoll() as arrivals:
        try:
            arrivals.register(sock, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
            arrivals.poll(0)  # what is there by now
            if len(sock.recv(PEEK, socket.MSG_PEEK)) <= have and not has_left(sock):
                watched = [arrivals.fileno(), *_descriptors(connection, sock)[1:]]
                await _any_readable(loop, watched, PATIENCE if have < HEAD else None)
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
