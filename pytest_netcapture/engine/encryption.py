"""A PostgreSQL client's question whether it may encrypt (its manual, "SSL Session Encryption").

1. It is asked of the server, and the answer passed on, while both are sockets: after a yes the
   ClientHello comes as on any other connection, and goes the same way.
2. On replay the answer is that of the recording. Where a server is dialled again, for another look
   at its certificate or to relay to it, it is asked again.
3. GSSAPI encryption is passed on as a question; a yes makes the connection a raw one.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from pytest_netcapture.engine.first_bytes import peeked
from pytest_netcapture.engine.layers.postgresql_session import GSS, SSL

if TYPE_CHECKING:
    from pytest_netcapture.engine.connection import Connection
    from pytest_netcapture.engine.main import Engine

_SIZE = 8
_QUESTIONS = {_SIZE.to_bytes(4, "big") + code.to_bytes(4, "big"): code for code in (SSL, GSS)}
_YES, _NO = b"S", b"N"
_PATIENCE = 30.0
"""Seconds that a server may take for a byte."""


class Encryption:
    """Passes the question on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def asked(self, connection: Connection) -> bool:
        """Answer the client if it asks; tell whether there is more to look at after it."""
        client = connection.client_socket
        if client is None or connection.over:
            return False
        question = peeked(client, _SIZE)
        if question is None or question not in _QUESTIONS:
            return False
        client.recv(_SIZE)
        try:
            answer = await self._answer(connection, question)
            await self._engine.loop.sock_sendall(client, answer)
        except (OSError, asyncio.TimeoutError):
            answer = b""
        if answer not in (_YES, _NO):
            connection.reset()
            return False
        if answer == _YES:
            connection.preamble = question
        return True

    async def ask_again(self, connection: Connection, sock: socket.socket) -> None:
        """Bring a server that was dialled again to where the first one was. Raises `OSError`."""
        if connection.preamble and await self._ask(sock, connection.preamble) != _YES:
            sock.close()
            raise ConnectionError("the server does not encrypt now")

    async def _answer(self, connection: Connection, question: bytes) -> bytes:
        scope, address = connection.scope, connection.plan.address
        if connection.server_socket is None:
            if scope.plays and not scope.records:
                assert scope.cassette is not None
                encrypts = scope.cassette.encrypted(connection.plan.names, *address)
                return _YES if encrypts and _QUESTIONS[question] == SSL else _NO
            connection.give_server_socket(await self._engine.opener.dial(connection))
        assert connection.server_socket is not None
        return await self._ask(connection.server_socket, question)

    async def _ask(self, sock: socket.socket, question: bytes) -> bytes:
        loop = self._engine.loop
        await loop.sock_sendall(sock, question)
        return await asyncio.wait_for(loop.sock_recv(sock, 1), _PATIENCE)
