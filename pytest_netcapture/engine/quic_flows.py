"""QUIC from captured clients: which of it is HTTP/3 that we decode, refuse, or relay as it is.

1. A connection is known by its ID: clients use one socket for several, and are given others.
2. Its ClientHello decides, before the client has an answer. Refused means CONNECTION_REFUSED (RFC
   9000 §20.1): clients that also speak TCP turn to it at once.
3. Where nothing can be played the server's handshake comes first, and the client is shown a
   certificate like the server's. If there is none, or it is bad, the client's datagrams go to the
   server as they came: it sees for itself.
4. A program that refused our certificate for a host is relayed from then on, as over TCP.
5. What is relayed is said in its flow's `reason`, and on replay fails the test.

Tests: tests/engine/test_http3.py, test_quic_relayed.py.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding

from pytest_netcapture.engine.attribution import Owner
from pytest_netcapture.engine.connection import Pending, Plan
from pytest_netcapture.engine.interception import names_shown
from pytest_netcapture.engine.layers.quic_hello import HelloReader, NotQuic, destination
from pytest_netcapture.engine.layers.quic_transport import Transport, as_server
from pytest_netcapture.engine.layers.sniff import ClientHello, looks_like_quic
from pytest_netcapture.engine.opener import DialError
from pytest_netcapture.engine.quic_link import ServerLink, dial
from pytest_netcapture.engine.quic_session import QuicSession
from pytest_netcapture.engine.upstream_tls import UpstreamTlsError
from pytest_netcapture.flows import FlowError, UdpFlow
from pytest_netcapture.redirect.base import DatagramFlow

if TYPE_CHECKING:
    from pytest_netcapture.engine.datagram_exchange import DatagramExchange
    from pytest_netcapture.engine.datagrams import Datagrams
    from pytest_netcapture.engine.main import Engine
    from pytest_netcapture.engine.scopes import Scope

_HTTP3 = "h3"
REFUSED = "HTTP/3 is refused (--netcapture-http3=refuse)"


class QuicFlow:
    """The datagrams of one client socket to one destination, sorted by connection."""

    def __init__(
        self, engine: Engine, datagrams: Datagrams, flow: DatagramFlow, owner: Owner
    ) -> None:
        self.engine = engine
        self.datagrams = datagrams
        self.flow = flow
        self.owner = owner
        self._takers: dict[bytes, Callable[[bytes], None]] = {}
        self._sessions: list[QuicSession] = []
        self._relay: DatagramExchange | None = None
        self.over = False
        """The client is gone, or has said nothing for long."""

    def open(self, seen: UdpFlow) -> None:
        """Take the first datagram, then all others."""
        self._begin(self.flow.first, seen)
        self.flow.listen(self._from_client)
        self.flow.on_end(self._ended)

    def serve(self, session: QuicSession, transport: Transport, connection_id: bytes) -> None:
        """Give `session` what comes for `transport`."""
        self._sessions.append(session)
        for one in (connection_id, transport.host_cid):
            self._takers[one] = session.client_datagram
        transport.issued = lambda one: self._takers.setdefault(one, session.client_datagram)

    def relay(self, seen: UdpFlow, scope: Scope, held: list[bytes]) -> None:
        """Send `held`, and what no session takes, to the server."""
        if self._relay is None:
            self._relay = self.datagrams.relay(self.flow, self.owner, seen, scope)
        if self._relay is not None:
            for data in held:
                self._relay.send(data)

    def drop(self, connection_id: bytes) -> None:
        """Forget a connection that has not begun: its next datagram is a new one's first."""
        self._takers.pop(connection_id, None)

    def _from_client(self, data: bytes) -> None:
        self.engine.control.catch_up()
        take = self._takers.get(destination(data))
        if take is not None:
            take(data)
        elif looks_like_quic(data) and self._relay is None:
            seen, _ = self.datagrams.begin(self.flow, self.owner, data)
            self._begin(data, seen)
        elif self._relay is not None:
            self._relay.from_client(data)

    def _begin(self, data: bytes, seen: UdpFlow) -> None:
        opening = Opening(self, seen)
        self._takers[destination(data)] = opening.take
        opening.take(data)

    def _ended(self) -> None:
        self.over = True
        for session in self._sessions:
            session.client_gone()
        if self._relay is not None:
            self._relay.close()


class Opening:
    """A connection whose client waits for an answer."""

    def __init__(self, flow: QuicFlow, seen: UdpFlow) -> None:
        self._flow = flow
        self._engine = flow.engine
        self._seen = seen
        self._reader = HelloReader()
        self._held: list[bytes] = []
        self._deciding = False

    def take(self, data: bytes) -> None:
        self._held.append(data)
        if self._deciding:
            return
        try:
            hello = self._reader.feed(data)
        except NotQuic as problem:
            self._relay(str(problem))
        else:
            if hello is not None:
                self._deciding = True
                self._engine.spawn(self._decide(hello))

    @property
    def _scope(self) -> Scope:
        return self._engine.scopes.find(self._seen.scope) or self._engine.scopes.session

    async def _decide(self, hello: ClientHello) -> None:
        session = self._session(hello)
        scope, settings = self._scope, self._scope.settings
        if _HTTP3 not in hello.alpn:
            protocols = ", ".join(hello.alpn) or "no protocol"
            self._relay(f"QUIC for {protocols} is not decoded", session)
        elif settings.http3 == "refuse":
            self._refuse(session)
        elif reason := self._engine.opener.opaque.why(session, hello):
            self._relay(reason)
        elif self._plays(scope, session.plan):
            self._answer(session, names_shown(session), None)
        elif not self._flow.datagrams.refused(scope, self._seen):
            await self._server_first(session)

    def _session(self, hello: ClientHello) -> QuicSession:
        flow, engine = self._flow.flow, self._engine
        names = engine.names.of(flow.original_dst[0])
        settings = self._scope.settings
        candidates = engine.candidates(flow.namespace, names, flow.original_dst, settings)
        plan = Plan(flow.namespace, flow.client, flow.original_dst, names, tuple(candidates))
        pending = Pending(plan, None, self._seen, self._flow.owner)
        session = QuicSession(engine, flow, pending, hello.sni)
        session.dial = functools.partial(self._dial, session, late=True)
        session.refused = functools.partial(engine.opener.opaque.refused, session)
        return session

    @staticmethod
    def _plays(scope: Scope, plan: Plan) -> bool:
        """Tell whether the client may be answered without its server."""
        cassette, port = scope.cassette, plan.address[1]
        if cassette is None or not scope.plays:
            return False
        hosts = (*plan.names, plan.address[0])
        return not scope.records or any(cassette.knows(host, port) for host in hosts)

    async def _dial(self, session: QuicSession, *, late: bool = False) -> ServerLink:
        engine = self._engine
        found = await engine.late_candidates(session) if late else list(session.plan.candidates)
        roots = self._flow.datagrams.roots(session.scope.settings.upstream_ca)
        return await dial(engine, found, session.tls_name or session.endpoint.host, roots)

    async def _server_first(self, session: QuicSession) -> None:
        try:
            server = await self._dial(session)
        except DialError as failed:
            self._relay(failed.error.detail or failed.error.kind)
            return
        except UpstreamTlsError as failed:
            if failed.lasting:
                self._engine.opener.opaque.learn(session, failed.reason)
            self._relay(failed.reason, session)
            return
        certificate = server.transport.certificate()
        assert certificate is not None
        like = certificate.public_bytes(Encoding.DER)
        try:
            self._engine.authority.leaf(like)
        except ValueError as error:
            server.close()
            self._relay(f"its certificate cannot be mirrored: {error}", session)
        else:
            self._answer(session, like, server)

    def _answer(
        self, session: QuicSession, like: tuple[str, ...] | bytes, server: ServerLink | None
    ) -> None:
        if self._flow.over:
            if server is not None:
                server.close()
            return
        transport = self._transport(like)
        self._engine.connections.add(session)
        self._flow.serve(session, transport, self._reader.connection_id)
        session.open(transport, server)
        for data in self._held:
            session.client_datagram(data)

    def _refuse(self, session: QuicSession) -> None:
        self._seen.reason, self._seen.error = REFUSED, FlowError("refused", REFUSED)
        transport = self._transport((session.endpoint.host,))
        now = self._engine.now() / 1e9
        for data in self._held:
            transport.receive(data, now)
        transport.refuse(REFUSED)
        for data in transport.to_send(now):
            self._flow.flow.reply(data)
        self._engine.scopes.changed()
        self._flow.drop(self._reader.connection_id)

    def _transport(self, like: tuple[str, ...] | bytes) -> Transport:
        certificate, key = self._engine.authority.leaf(like)
        return Transport(as_server(certificate, key), self._reader.connection_id)

    def _relay(self, reason: str, session: QuicSession | None = None) -> None:
        self._seen.reason = reason
        if session is not None:
            self._engine.opener.opaque.name(session, reason)
        for one in (self._reader.connection_id, destination(self._held[0])):
            self._flow.drop(one)
        self._flow.relay(self._seen, self._scope, self._held)


def combined_roots(directory: str, files: tuple[str, ...]) -> str:
    """Return the path of a PEM file with all of `files`; those that cannot be read trust nobody."""
    if len(files) == 1:
        return files[0]
    path = os.path.join(directory, f"roots-{abs(hash(files)):x}.pem")
    with open(path, "wb") as out:
        for name in files:
            try:
                with open(name, "rb") as file:
                    out.write(file.read() + b"\n")
            except OSError:
                continue
    return path
