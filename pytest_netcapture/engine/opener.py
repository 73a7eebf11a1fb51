"""What happens between an accepted connection and its first decoded byte.

1. The ClientHello is read by peeking, so the transport that does TLS gets it whole.
2. What begins with one goes through `Interception`; what does not, to the layer that looks further.
3. A PostgreSQL client asks before its ClientHello whether it may send one: encryption.py.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from pytest_netcapture.engine.clear_text import ask_for_tls, speak
from pytest_netcapture.engine.connection import Connection
from pytest_netcapture.engine.dns_layers import QueryLayer
from pytest_netcapture.engine.encryption import Encryption
from pytest_netcapture.engine.first_bytes import client_hello, peeked
from pytest_netcapture.engine.interception import Interception, start
from pytest_netcapture.engine.layers.mysql import MysqlLayer, greets_like_mysql
from pytest_netcapture.engine.layers.opening import SERVER_FIRST
from pytest_netcapture.engine.layers.smtp import SmtpLayer, greets_like_smtp
from pytest_netcapture.engine.layers.sniff import ClientHello
from pytest_netcapture.engine.opaque import Opaque
from pytest_netcapture.engine.upstream_tls import UpstreamTlsError
from pytest_netcapture.flows import FlowError

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine

DNS_PORT = 53


def _greeting(server: socket.socket | None) -> bytes:
    """Return how a server begins that has spoken first."""
    return peeked(server, 5) or b"" if server is not None else b""


class DialError(OSError):
    """A server that was dialled late could not be reached; `error` is what the client feels."""

    def __init__(self, error: FlowError) -> None:
        super().__init__(error.detail or error.kind)
        self.error = error


class Opener:
    """Opens connections, and dials late for those that begin with a recording."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._interception = Interception(engine)
        self._encryption = Encryption(engine)

    @property
    def undecrypted(self) -> dict[str, str]:
        """The places that were relayed undecrypted unasked, and why."""
        return self._interception.opaque.named

    @property
    def opaque(self) -> Opaque:
        return self._interception.opaque

    async def open(self, connection: Connection) -> None:
        """See the first bytes of `connection` and set its layer going."""
        if connection.plan.address[1] == DNS_PORT:
            await connection.start(QueryLayer(connection, self._engine))
            return
        if connection.server_socket is None and await self._greet(connection):
            return
        if connection.speaks_first:
            await start(connection)
            connection.become_raw(SERVER_FIRST)
            return
        hello = await client_hello(self._engine.loop, connection)
        greeting = _greeting(connection.server_socket) if hello is None else b""
        if greets_like_smtp(greeting) or greets_like_mysql(greeting):
            hello = await self._until_tls(connection, mysql=greets_like_mysql(greeting))
            if hello is None:
                return
        while hello is None and await self._encryption.asked(connection):
            hello = await client_hello(self._engine.loop, connection)
        if connection.over:
            return
        if hello is None:
            await start(connection)
        else:
            await self._interception.open(connection, hello)

    async def _greet(self, connection: Connection) -> bool:
        """Play a server that speaks first, or dial one; tell whether it is played."""
        scope, plan = connection.scope, connection.plan
        cassette = scope.cassette
        service = cassette.greeting(plan.names, *plan.address) if cassette and scope.plays else ""
        if not service:
            return False
        if scope.records:
            try:
                connection.give_server_socket(await self.dial(connection))
            except OSError:
                connection.reset()
            return connection.server_socket is None
        hello = await self._until_tls(connection, mysql=service == "mysql")
        if hello is not None:
            await self._interception.open(connection, hello)
        return True

    async def _until_tls(self, connection: Connection, *, mysql: bool) -> ClientHello | None:
        """Speak until TLS begins; return the hello, or None when transports have it."""
        loop, plan, cassette = self._engine.loop, connection.plan, connection.scope.cassette
        if mysql:
            encrypted = bool(cassette and cassette.encrypted(plan.names, *plan.address))
            layer = MysqlLayer(connection, with_tls=encrypted or connection.has_server)
            begins = await ask_for_tls(loop, connection, layer)
            connection.inner, connection.goes_without = layer.inner, True
        else:
            begins = await speak(loop, connection, SmtpLayer(connection))
            connection.inner = SmtpLayer
        if begins:
            hello = await client_hello(loop, connection)
            if hello is not None:
                if mysql:
                    await self._interception.look(connection, hello)
                return hello
        connection.inner = None
        if not connection.over and connection.client_socket is not None:
            await start(connection, connection.layer)
        return None

    def connect(self, connection: Connection) -> None:
        """Dial the server late, for an exchange that is to be forwarded."""
        self._engine.spawn(self._connect(connection))

    async def dial(self, connection: Connection) -> socket.socket:
        """Return a socket connected to the server. Raises `DialError` with what happened."""
        candidates = await self._engine.late_candidates(connection)
        future: asyncio.Future[socket.socket] = self._engine.loop.create_future()

        def done(sock: socket.socket | None, error: FlowError | None) -> None:
            if sock is None:
                future.set_exception(DialError(error or FlowError("refused")))
            else:
                future.set_result(sock)

        self._engine.dialer.dial(candidates, done)
        sock = await future
        await self._encryption.ask_again(connection, sock)
        if connection.prelude is not None:
            await connection.prelude(self._engine.loop, sock)
        return sock

    async def _connect(self, connection: Connection) -> None:
        try:
            sock = await self.dial(connection)
            upstream = None
            if connection.endpoint.tls:
                upstream = await self._interception.late(connection, sock)
            else:
                side = connection.server_side()
                await self._engine.loop.create_connection(lambda: side, sock=sock)
        except (DialError, UpstreamTlsError) as failed:
            connection.connected(None, failed.error)
        except OSError as error:
            connection.connected(None, FlowError("refused", str(error)))
        else:
            if upstream is None:
                connection.connected(side, None)
            elif upstream.problem:  # the client was shown a good certificate already
                upstream.transport.abort()
                connection.connected(None, FlowError("tls", upstream.problem))
            else:
                connection.connected(upstream.protocol, None)
