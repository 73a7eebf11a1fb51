"""TLS between a client and its server, decrypted in the middle; or relayed, and said why.

1. Where nothing can be played the server's handshake comes first, and the client is shown a
   certificate that is as good or as bad; otherwise one for the name that it asked for.
2. Where that cannot be (upstream_tls.py has the cases) the client's own hello, which is still
   unread, goes to the server over a relay, so even a first connection works as without us.
3. A client refuses our certificate if it sends an alert that says so (alerts.py), or if it hangs up
   in order, without a reset, having read the certificate: so do aiohttp, Node and Java's
   HttpClient. One that finishes the handshake and then hangs up (wget, git and aria2 with GnuTLS,
   curl_cffi, fingerprints in urllib3 and aiohttp) looks like one that only tries the port: it is
   not taken for a refusal.
4. A server's bad certificate is what failed, whatever its client says of the mirrored one.
5. On replay a server's failure is what its recording says: as bad a certificate, the same alert.
6. The client gets the protocol (ALPN) that the server chose; without a server, the one in which the
   host was recorded. A server that is dialled later is asked for that one only.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
import ssl
from typing import TYPE_CHECKING, NamedTuple

from pytest_netcapture.engine.connection import Connection, reset_socket
from pytest_netcapture.engine.dialer import Candidate
from pytest_netcapture.engine.dns_layers import DOT_PORT, TlsQueryLayer
from pytest_netcapture.engine.first_bytes import Vigil, has_left
from pytest_netcapture.engine.layers.alerts import HUNG_UP, OF_CERTIFICATES, alert_in, record_of
from pytest_netcapture.engine.layers.layer import Layer
from pytest_netcapture.engine.layers.opening import SERVER_FIRST, OpeningLayer
from pytest_netcapture.engine.layers.sniff import TLS_1_2, TLS_1_3, ClientHello
from pytest_netcapture.engine.layers.tls_refusal import TlsRefusal
from pytest_netcapture.engine.layers.tls_relay import TlsRelay
from pytest_netcapture.engine.opaque import Opaque
from pytest_netcapture.engine.upstream_tls import (
    Offer,
    ProtocolFactory,
    Upstream,
    UpstreamTlsError,
    describe,
)
from pytest_netcapture.flows import FlowError, Origin, TlsFailure

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine

H2, HTTP1, POSTGRESQL = "h2", "http/1.1", "postgresql"


class Bad(NamedTuple):
    """What is wrong with a server's certificate, and the certificate if it was seen."""

    problem: str
    certificate: bytes


class Interception:
    """Opens connections whose client has sent a ClientHello."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.opaque = Opaque()
        self._seen: set[tuple[str, tuple[Candidate, ...]]] = set()
        """Servers whose TLS `look` has found that it can be taken off."""

    async def open(self, connection: Connection, hello: ClientHello) -> None:
        connection.tls_name = hello.sni
        reason = self.opaque.why(connection, hello)
        if problem := self._engine.faulting.handshake(connection):
            await self._spoil(connection, hello, problem)
        elif reason:
            await self._relay(connection, reason)
        elif connection.server_socket is not None:
            await self._server_first(connection, hello)
        elif failure := _recorded_failure(connection):
            await self._fail_again(connection, hello, failure)
        else:
            await self._client_only(connection, hello)

    async def look(self, connection: Connection, hello: ClientHello) -> None:
        """Find out over another connection whether this one's TLS can be taken off.

        For servers whose greeting a login depends on: there is no second try on a connection.
        """
        connection.tls_name = hello.sni
        place = hello.sni, connection.plan.candidates
        if (
            connection.server_socket is None
            or place in self._seen
            or self.opaque.why(connection, hello)
        ):
            return
        try:
            sock = await self._engine.opener.dial(connection)
            name, offer = _server_name(connection, hello), _offer(connection, hello)
            upstream = await self._handshake(connection, sock, name, offer, asyncio.Protocol)
        except UpstreamTlsError as failed:
            self.opaque.learn(connection, failed.reason)
        except OSError as error:
            self.opaque.learn(connection, str(error))
        else:
            upstream.transport.abort()
            if upstream.problem:
                self.opaque.learn(connection, upstream.problem)
            else:
                self._seen.add(place)

    async def late(self, connection: Connection, sock: socket.socket) -> Upstream:
        """Shake hands with a server whose client has been shown a certificate already."""
        name = connection.tls_name or connection.endpoint.host
        upstream = await self._handshake(
            connection, sock, name, Offer(_agreed(connection), goes_without=connection.goes_without)
        )
        if connection.endpoint.alpn == H2 != upstream.alpn:
            upstream.problem = "recorded over HTTP/2, which the server does not speak now"
        return upstream

    # ── the server ───────────────────────────────────────────────────────────────────────────

    async def _server_first(self, connection: Connection, hello: ClientHello) -> None:
        sock, client = connection.take_server_socket(), connection.client_socket
        assert sock is not None
        assert client is not None
        connection.endpoint.tls = True
        vigil = Vigil(self._engine.loop, client, functools.partial(_hang_up, sock))
        try:
            name = _server_name(connection, hello)
            upstream = await self._handshake(connection, sock, name, _offer(connection, hello))
            connection.endpoint.alpn = upstream.alpn
            context = self._mirror(upstream, _agreed(connection))
        except UpstreamTlsError as failed:
            vigil.end()
            await self._let_it_see(connection, client, failed)
            return
        vigil.end()
        if has_left(client):
            self._gone_early(connection)
            return
        connection.adopt_upstream(upstream)
        bad = Bad(upstream.problem, upstream.certificate) if upstream.problem else None
        await self._client_side(connection, context, bad)

    async def _handshake(
        self,
        connection: Connection,
        sock: socket.socket,
        name: str,
        offer: Offer,
        factory: ProtocolFactory | None = None,
    ) -> Upstream:
        def redial() -> asyncio.Future[socket.socket]:
            return asyncio.ensure_future(self._engine.opener.dial(connection))

        return await self._engine.upstream_tls.connect(
            factory or connection.server_side,
            sock,
            redial=redial,
            server_name=name,
            offer=offer,
            upstream_ca=connection.scope.settings.upstream_ca,
        )

    def _mirror(self, upstream: Upstream, alpn: tuple[str, ...]) -> ssl.SSLContext:
        try:
            if upstream.is_like_its_leaf:
                return self._engine.authority.mirror(upstream.certificate, alpn=alpn)
        except ValueError as error:
            raise UpstreamTlsError(str(error), "its certificate cannot be mirrored") from error
        raise UpstreamTlsError(upstream.problem, "its issuer's certificate is bad", lasting=True)

    async def _let_it_see(
        self, connection: Connection, client: socket.socket, failed: UpstreamTlsError
    ) -> None:
        """Put the client through to its server, since we get no further than this."""
        connection.drop_server()
        if has_left(client):
            self._gone_early(connection)
            return
        if failed.lasting:
            self.opaque.learn(connection, failed.reason)
        self.opaque.name(connection, failed.reason)
        await self._relay(connection, failed.reason, failed.blame)

    # ── the client ───────────────────────────────────────────────────────────────────────────

    async def _client_only(self, connection: Connection, hello: ClientHello) -> None:
        names, alpn = _without_server(connection, hello)
        context = self._engine.authority.server_context(names, alpn=alpn)
        await self._client_side(connection, context)

    async def _fail_again(
        self, connection: Connection, hello: ClientHello, failure: TlsFailure
    ) -> None:
        """Play a handshake that failed on the server's side."""
        if not failure.is_of_certificate:
            _failure(connection, "server", failure.detail)
            await start(connection, TlsRefusal(connection, record_of(failure.detail)))
            return
        names, alpn = _without_server(connection, hello)
        authority = self._engine.authority
        if failure.certificate:
            context = authority.mirror(failure.certificate, alpn=alpn)
        else:
            context = authority.bad_context(names, failure.detail, alpn=alpn)
        await self._client_side(connection, context, Bad(failure.detail, failure.certificate))

    async def _spoil(self, connection: Connection, hello: ClientHello, problem: str) -> None:
        """Show a bad certificate, whatever the server's is; one who minds not is served late."""
        reset_socket(connection.take_server_socket())
        names, alpn = _without_server(connection, hello)
        authority = self._engine.authority
        if problem == "wrong_host":
            context = authority.server_context(("wrong.host.invalid",), alpn=alpn)
        else:
            context = authority.bad_context(names, problem, alpn=alpn)
        await self._client_side(connection, context, Bad(problem, b""))

    async def _client_side(
        self, connection: Connection, context: ssl.SSLContext, bad: Bad | None = None
    ) -> None:
        if connection.tls_name:
            connection.endpoint.host = connection.tls_name.lower().rstrip(".")
        silent = functools.partial(self._silent, connection, bad)
        try:
            layer: Layer = OpeningLayer(connection, silent, connection.inner)
            if connection.plan.address[1] == DOT_PORT:
                layer = TlsQueryLayer(connection, self._engine)
            await start(connection, layer, context)
            if connection.speaks_first and not connection.over:
                connection.become_raw(SERVER_FIRST)
        except (ssl.SSLError, OSError, asyncio.TimeoutError) as failed:
            error = failed
            if describe(failed) == HUNG_UP:  # else it said why before
                error = connection.client_reset_error() or failed
            self._refused(connection, error, bad)
            connection._client_reset = getattr(error, "errno", None) == errno.ECONNRESET
            connection.reset()  # and the server's side as the client ended its own

    def _refused(self, connection: Connection, error: Exception, bad: Bad | None) -> None:
        """Note how a handshake with the client ended."""
        detail = describe(error)
        if bad:
            _failure(connection, "server", *bad)
            return
        if detail == HUNG_UP or detail in OF_CERTIFICATES:
            self.opaque.refused(connection, detail)
        _failure(connection, "client", detail)

    def _silent(self, connection: Connection, bad: Bad | None, error: str) -> bool:
        """Note that a client ended after the handshake without a word; tell if that is failing."""
        alert = alert_in(error)
        if bad:
            _failure(connection, "server", *bad)
        elif alert:
            if alert in OF_CERTIFICATES:
                self.opaque.refused(connection, alert)
            _failure(connection, "client", alert)
        return bool(bad or alert)

    def _gone_early(self, connection: Connection) -> None:
        """Note that the client did not wait for a certificate."""
        _failure(connection, "client", "hung up before the server's certificate came")
        connection.reset()

    # ── neither ──────────────────────────────────────────────────────────────────────────────

    async def _relay(self, connection: Connection, reason: str, blame: str = "") -> None:
        scope = connection.scope
        if connection.server_socket is None and scope.plays and not scope.records:
            connection.give_up(reason)
            return
        connection.endpoint.tls = False
        await start(connection, TlsRelay(connection, reason, sni=connection.tls_name, blame=blame))
        if not connection.has_server:
            connection.connect()


async def start(
    connection: Connection, layer: Layer | None = None, context: ssl.SSLContext | None = None
) -> None:
    """Set a connection going; or end it, if its server has reset it before it could be."""
    await connection.start(layer, context)
    if connection.over:
        connection.reset()


def _recorded_protocol(connection: Connection, offered: tuple[str, ...], host: str) -> str:
    """Return which of the offered protocols the client spoke with this host when recorded."""
    cassette = connection.scope.cassette
    port = connection.plan.address[1]
    recorded = cassette.http_versions(host, port) if cassette is not None else set()
    if POSTGRESQL in offered:
        return POSTGRESQL
    if H2 in offered and ("2" in recorded or HTTP1 not in offered):
        return H2
    return HTTP1 if HTTP1 in offered else ""


def _agreed(connection: Connection) -> tuple[str, ...]:
    """Return what is agreed on with the client, as an offer."""
    return (connection.endpoint.alpn,) if connection.endpoint.alpn else ()


def _without_server(
    connection: Connection, hello: ClientHello
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Settle what a client is shown whose server is not asked: names, and the protocol offered."""
    names = names_shown(connection)
    connection.endpoint.tls = True
    connection.endpoint.alpn = _recorded_protocol(connection, hello.alpn, names[0])
    return names, _agreed(connection)


def names_shown(connection: Connection) -> tuple[str, ...]:
    """Return for which names a certificate of ours is: the one that was asked for, or all known."""
    plan, name = connection.plan, connection.tls_name
    return (name,) if name else tuple(dict.fromkeys((*plan.names, plan.address[0])))


def _places(connection: Connection) -> tuple[str, ...]:
    return *names_shown(connection), connection.plan.address[0]


def _recorded_failure(connection: Connection) -> TlsFailure | None:
    cassette, port = connection.scope.cassette, connection.plan.address[1]
    return cassette.tls_failure(_places(connection), port) if cassette is not None else None


def _failure(connection: Connection, side: str, detail: str, certificate: bytes = b"") -> None:
    sni, error = connection.tls_name, FlowError("tls", detail)
    flow = TlsFailure(side=side, sni=sni, detail=detail, error=error, certificate=certificate)
    cassette, port = connection.scope.cassette, connection.plan.address[1]
    if not connection.has_server and cassette and cassette.tls_failed(_places(connection), port):
        flow.origin = Origin.PLAYED
        connection.scope.counts.played += 1
    connection.begin(flow)
    connection.record(flow)


def _hang_up(sock: socket.socket) -> None:
    """End the handshake on `sock`, whose transport then says so."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _server_name(connection: Connection, hello: ClientHello) -> str:
    """Return whom a server's certificate should name.

    Where there is no second try, a client that does not say it means the name that it looked up.
    """
    names = connection.plan.names if connection.goes_without else ()
    return hello.sni or next(iter(names), connection.plan.address[0])


def _offer(connection: Connection, hello: ClientHello) -> Offer:
    alpn = tuple(p for p in hello.alpn if p.isascii() and p)
    versions = tuple(v for v in (TLS_1_2, TLS_1_3) if v in hello.versions)
    return Offer(alpn, versions, connection.goes_without)
