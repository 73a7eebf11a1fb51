"""What happens between an accepted connection and its first decoded byte.

1. The ClientHello is read by peeking, so the transport that does TLS gets it whole.
2. Where nothing can be played, the real server's handshake comes first, and the client is shown a
   certificate with the same names and faults; otherwise one for the name it asked for.
3. The client gets the protocol (ALPN) that the server chose; without a server, the one in which the
   host was recorded. A server that is dialled later is asked for that one only.
4. Whatever cannot be decoded (a passthrough host, a client that refused us before) is relayed as it
   is, and listed with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import socket
import ssl
from typing import TYPE_CHECKING

from pytest_netcapture.engine.authority import names_of, validity_of
from pytest_netcapture.engine.connection import Connection
from pytest_netcapture.engine.dns_server import QueryLayer
from pytest_netcapture.engine.layers.raw import RawLayer
from pytest_netcapture.engine.layers.sniff import ClientHello, NeedMore, parse_client_hello
from pytest_netcapture.engine.upstream_tls import Upstream, UpstreamTlsError
from pytest_netcapture.flows import FlowError, TlsFailure

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine

PEEK = 1 << 16
H2, HTTP1 = "h2", "http/1.1"
_DECODED = (H2, HTTP1)
DNS_PORT = 53
FIRST_BYTES_TIMEOUT = 3.0
"""Seconds that a client without a server (replay) may take to say what it wants."""

_REFUSALS = (
    "UNKNOWN_CA",
    "BAD_CERTIFICATE",
    "CERTIFICATE_UNKNOWN",
    "UNKNOWN CA",
    "BAD CERTIFICATE",
    "CERTIFICATE UNKNOWN",
)


class Opener:
    """Opens connections; remembers which clients and servers refuse to be decoded."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._refused: dict[tuple[str, int], str] = {}

    async def open(self, connection: Connection) -> None:
        """See the first bytes of `connection` and set its layer going."""
        if connection.plan.address[1] == DNS_PORT:
            await connection.start(QueryLayer(connection, self._engine))
            return
        hello = await self._client_hello(connection)
        if connection.over:
            return
        if hello is None:
            await connection.start()
            return
        connection.tls_name = hello.sni
        reason = self._why_opaque(connection, hello)
        if reason:
            await self._pass_through(connection, reason)
        elif connection.server_socket is not None:
            await self._server_first(connection)
        else:
            await self._client_only(connection, hello)

    def connect(self, connection: Connection) -> None:
        """Dial the server late, for an exchange that is to be forwarded."""
        self._engine.spawn(self._connect(connection))

    async def dial(self, connection: Connection) -> socket.socket:
        """Return a socket connected to the server. Raises `UpstreamTlsError` with what happened."""
        candidates = await self._engine.late_candidates(connection)
        future: asyncio.Future[socket.socket] = self._engine.loop.create_future()

        def done(sock: socket.socket | None, error: FlowError | None) -> None:
            if sock is None:
                future.set_exception(UpstreamTlsError(error or FlowError("refused")))
            else:
                future.set_result(sock)

        self._engine.dialer.dial(candidates, done)
        return await future

    # ── TLS ──────────────────────────────────────────────────────────────────────────────────

    async def _server_first(self, connection: Connection) -> None:
        sock = connection.take_server_socket()
        assert sock is not None
        connection.endpoint.tls = True
        offered = tuple(name for name in connection.tls_alpn if name in _DECODED)
        try:
            upstream = await self._handshake(connection, sock, offered)
        except UpstreamTlsError as failed:
            self._tls_failure(connection, "server", failed.error.detail)
            connection.reset()
            return
        connection.adopt_upstream(upstream)
        connection.endpoint.alpn = upstream.alpn
        await self._client_side(connection, self._mirror(upstream, connection), upstream.trusted)

    async def _client_only(self, connection: Connection, hello: ClientHello) -> None:
        name = hello.sni or connection.endpoint.host
        connection.endpoint.tls = True
        connection.endpoint.alpn = self._recorded_protocol(connection, hello.alpn, name)
        context = self._engine.authority.server_context((name,), alpn=_alpn(connection))
        await self._client_side(connection, context, True)

    @staticmethod
    def _recorded_protocol(connection: Connection, offered: tuple[str, ...], host: str) -> str:
        """Return which of the offered protocols the client spoke with this host when recorded."""
        cassette = connection.scope.cassette
        port = connection.plan.address[1]
        recorded = cassette.http_versions(host, port) if cassette is not None else set()
        if H2 in offered and ("2" in recorded or HTTP1 not in offered):
            return H2
        return HTTP1 if HTTP1 in offered else ""

    async def _client_side(
        self, connection: Connection, context: ssl.SSLContext, trusted: bool
    ) -> None:
        if connection.tls_name:
            connection.endpoint.host = connection.tls_name.lower().rstrip(".")
        try:
            await connection.start(None, context)
        except (ssl.SSLError, OSError, asyncio.TimeoutError) as error:
            detail = getattr(error, "reason", None) or str(error) or type(error).__name__
            self._tls_failure(connection, "client", detail)
            if trusted and _is_refusal(error, detail):
                key = (connection.endpoint.host, connection.endpoint.port)
                self._refused[key] = f"the client refused our certificate ({detail})"
            connection.reset()

    def _mirror(self, upstream: Upstream, connection: Connection) -> ssl.SSLContext:
        """Return a context whose leaf is as good or as bad as the server's own."""
        alpn = _alpn(connection)
        names = names_of(upstream.certificate) or (connection.endpoint.host,)
        if not upstream.problem:
            return self._engine.authority.server_context(names, alpn=alpn)
        not_before, not_after = validity_of(upstream.certificate)
        return self._engine.authority.server_context(
            names, alpn=alpn, not_before=not_before, not_after=not_after, trusted=upstream.trusted
        )

    async def _handshake(
        self, connection: Connection, sock: socket.socket, alpn: tuple[str, ...]
    ) -> Upstream:
        def redial() -> asyncio.Future[socket.socket]:
            return asyncio.ensure_future(self.dial(connection))

        settings = connection.scope.settings
        name = connection.tls_name or connection.endpoint.host
        return await self._engine.upstream_tls.connect(
            connection.server_side,
            sock,
            redial=redial,
            server_name=_idna(name),
            alpn=alpn,
            upstream_ca=settings.upstream_ca,
        )

    async def _connect(self, connection: Connection) -> None:
        try:
            sock = await self.dial(connection)
            upstream = None
            if connection.endpoint.tls:
                upstream = await self._handshake(connection, sock, _alpn(connection))
            else:
                side = connection.server_side()
                await self._engine.loop.create_connection(lambda: side, sock=sock)
        except UpstreamTlsError as failed:
            connection.connected(None, failed.error)
        except OSError as error:
            connection.connected(None, FlowError("refused", str(error)))
        else:
            if upstream is None:
                connection.connected(side, None)
            elif problem := upstream.problem or _changed(connection, upstream):
                # The client was shown a good certificate already, and speaks what was recorded.
                upstream.transport.abort()
                connection.connected(None, FlowError("tls", problem))
            else:
                connection.connected(upstream.protocol, None)

    # ── opaque ───────────────────────────────────────────────────────────────────────────────

    def _why_opaque(self, connection: Connection, hello: ClientHello) -> str:
        names = (hello.sni,) if hello.sni else connection.plan.names
        address, port = connection.plan.address
        for pattern in connection.scope.settings.passthrough:
            if pattern.matches(names, address, port):
                return f"passthrough ({pattern.text})"
        refused = self._refused.get(((hello.sni or connection.endpoint.host).lower(), port))
        if refused:
            return refused
        connection.tls_alpn = tuple(hello.alpn)
        return ""

    async def _pass_through(self, connection: Connection, reason: str) -> None:
        scope = connection.scope
        if connection.server_socket is None and scope.plays and not scope.records:
            connection.give_up(reason)
            return
        await connection.start(RawLayer(connection, reason=reason, sni=connection.tls_name))
        if not connection.has_server:
            connection.connect()

    def _tls_failure(self, connection: Connection, side: str, detail: str) -> None:
        flow = TlsFailure(
            side=side, sni=connection.tls_name, detail=detail, error=FlowError("tls", detail)
        )
        connection.begin(flow)
        connection.record(flow)

    # ── first bytes ──────────────────────────────────────────────────────────────────────────

    async def _client_hello(self, connection: Connection) -> ClientHello | None:
        """Peek until there is a whole ClientHello; None as soon as it is something else."""
        sock = connection.client_socket
        assert sock is not None
        patience = FIRST_BYTES_TIMEOUT if connection.server_socket is None else None
        while True:
            data = await self._peek(connection, sock, patience)
            if not data:
                return None
            parsed = parse_client_hello(data)
            if not isinstance(parsed, NeedMore):
                return parsed if isinstance(parsed, ClientHello) else None
            if len(data) >= PEEK or not await self._wait_for(
                sock, max(parsed.length, len(data) + 1), len(data)
            ):
                return None

    async def _peek(
        self, connection: Connection, sock: socket.socket, patience: float | None
    ) -> bytes:
        """Peek at the first bytes; b"" when the client ends or is silent, or the server speaks."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            return sock.recv(PEEK, socket.MSG_PEEK)
        readable = [sock.fileno()]
        if connection.server_socket is not None:
            readable.append(connection.server_socket.fileno())
        if not await self._any_readable(readable, patience):
            connection.give_up(
                "the client waits for the server to speak first: that is not replayed"
            )
            return b""
        try:
            return sock.recv(PEEK, socket.MSG_PEEK)
        except OSError:
            return b""

    async def _wait_for(self, sock: socket.socket, wanted: int, have: int) -> bool:
        """Wait until `wanted` bytes can be read; False when the client ends before."""
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(wanted, PEEK))
            await self._any_readable([sock.fileno()])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            return len(sock.recv(PEEK, socket.MSG_PEEK)) > have
        except OSError:
            return False

    async def _any_readable(self, descriptors: list[int], patience: float | None = None) -> bool:
        """Wait until one can be read; return False after `patience` seconds."""
        loop = self._engine.loop
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


def _is_refusal(error: Exception, detail: str) -> bool:
    """Tell whether a handshake's end says that the client does not trust us.

    By an alert, or, as Node does, by hanging up without one when it has seen the certificate.
    """
    return isinstance(error, ConnectionError) or any(w in detail.upper() for w in _REFUSALS)


def _alpn(connection: Connection) -> tuple[str, ...]:
    """Return what is agreed on with the client, as an offer."""
    return (connection.endpoint.alpn,) if connection.endpoint.alpn else ()


def _changed(connection: Connection, upstream: Upstream) -> str:
    if connection.endpoint.alpn == H2 and upstream.alpn != H2:
        return "recorded over HTTP/2, which the server does not speak now"
    return ""


@functools.lru_cache(256)
def _idna(name: str) -> str:
    """Return `name` as TLS wants it; an address stays one."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name))
    return name.rstrip(".")
