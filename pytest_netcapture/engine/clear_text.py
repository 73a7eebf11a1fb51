"""SMTP and MySQL until TLS may begin: on bare sockets, so that the ClientHello can be peeked at.

1. The layer is told what comes as on any connection; what it writes waits in the connection's
   outlets, and is written from there.
2. After a STARTTLS that is agreed to, the connection is where one that begins with TLS is. When the
   client says more than hello instead, or anything else happens, transports take over.
3. `catch_up` and `greeted` bring a server that is dialled again to the same point, by the client's
   own words.
4. A MySQL client does not wait between its request for TLS and the ClientHello: no more is read.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING

from pytest_netcapture.engine.first_bytes import peeked
from pytest_netcapture.engine.layers.mysql import SSL_REQUEST, MysqlLayer, asks_for_tls
from pytest_netcapture.engine.layers.smtp import SmtpLayer
from pytest_netcapture.mysql_messages import Splitter
from pytest_netcapture.unreadable import Unreadable

if TYPE_CHECKING:
    from pytest_netcapture.engine.connection import Connection

_PIECE = 1 << 16
_PATIENCE = 30.0
"""Seconds that a server may take for a reply."""


async def speak(loop: asyncio.AbstractEventLoop, connection: Connection, layer: SmtpLayer) -> bool:
    """Let `layer` speak with both sides; tell whether TLS begins now."""
    connection.layer = layer
    layer.begin()
    while connection.layer is layer and not connection.over:
        if not await _written(loop, connection):
            return False
        if layer.smtp.encrypts:
            connection.prelude = partial(catch_up, lines=tuple(layer.smtp.said))
            return True
        if layer.smtp.beyond:
            return False
        for side, sock in await _readable(loop, connection):
            if not peeked(sock, 1):
                return False
            data = sock.recv(_PIECE)
            (layer.client_data if side == "client" else layer.server_data)(data)
    return False


async def ask_for_tls(
    loop: asyncio.AbstractEventLoop, connection: Connection, layer: MysqlLayer
) -> bool:
    """Let `layer` pass the greeting on, and the request for TLS; tell whether there is one."""
    connection.layer = layer
    layer.begin()
    while connection.layer is layer and not connection.over:
        if not await _written(loop, connection):
            return False
        for side, sock in await _readable(loop, connection):
            if side == "server":
                if not peeked(sock, 1):
                    return False
                layer.server_data(sock.recv(_PIECE))
                continue
            request = peeked(sock, SSL_REQUEST) or b""
            if not layer.mysql.greeted or not asks_for_tls(request):
                return False
            layer.client_data(sock.recv(SSL_REQUEST))
            connection.prelude = partial(greeted, request=request)
            return await _written(loop, connection)
    return False


async def greeted(loop: asyncio.AbstractEventLoop, sock: socket.socket, *, request: bytes) -> None:
    """Read a MySQL server's greeting and ask it for TLS. Raises `OSError` if it ends."""
    splitter, greetings = Splitter(), list[bytes]()
    try:
        while not greetings:
            data = await asyncio.wait_for(loop.sock_recv(sock, _PIECE), _PATIENCE)
            if not data:
                raise ConnectionError("the server ended it")
            greetings += splitter.feed(data)
    except Unreadable as problem:
        raise ConnectionError(f"the server does not greet: {problem}") from None
    await loop.sock_sendall(sock, request)


async def catch_up(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, *, lines: tuple[bytes, ...]
) -> None:
    """Say `lines` to a server after its greeting. Raises `OSError` if it does not agree."""
    reply = await _reply(loop, sock)
    for line in lines:
        await loop.sock_sendall(sock, line)
        reply = await _reply(loop, sock)
    if not reply.startswith(b"220"):
        raise ConnectionError("the server does not change to TLS now")


async def _reply(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    """Read one reply: lines up to one whose code is followed by a space."""
    held = b""
    while not held.endswith(b"\r\n") or held.splitlines()[-1][3:4] == b"-":
        data = await asyncio.wait_for(loop.sock_recv(sock, _PIECE), _PATIENCE)
        if not data or len(held) > _PIECE:
            raise ConnectionError("the server ended it")
        held += data
    return held.splitlines()[-1]


async def _written(loop: asyncio.AbstractEventLoop, connection: Connection) -> bool:
    """Write what waits for either side; tell whether that could be."""
    try:
        for sock, data in connection.take_waiting():
            await loop.sock_sendall(sock, data)
    except OSError:
        return False
    return True


async def _readable(
    loop: asyncio.AbstractEventLoop, connection: Connection
) -> list[tuple[str, socket.socket]]:
    """Wait until something can be read; return from whom, the server first."""
    sides = [("server", connection.server_socket), ("client", connection.client_socket)]
    there = [(side, sock) for side, sock in sides if sock is not None]
    future: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not future.done():
            future.set_result(None)

    for _, sock in there:
        loop.add_reader(sock.fileno(), settle)
    try:
        await future
    finally:
        for _, sock in there:
            loop.remove_reader(sock.fileno())
    return [(side, sock) for side, sock in there if peeked(sock, 1) is not None]
