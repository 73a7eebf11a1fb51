"""One captured QUIC connection: its client's side, its server's, and the layer between them.

1. What the client is shown is decided before it is answered; until then its datagrams wait.
2. A connection is closed when what was sent on it has arrived, or with the other side's own error.
3. A client that closes, for whatever reason, takes the server's side with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aioquic.h3.connection import ErrorCode

from pytest_netcapture.engine.connection import Connection, Pending
from pytest_netcapture.engine.layers.alerts import OF_CERTIFICATES, name_of
from pytest_netcapture.engine.layers.http3 import Http3Layer
from pytest_netcapture.engine.layers.layer import Endpoint, Ignoring
from pytest_netcapture.engine.layers.quic_transport import Transport
from pytest_netcapture.engine.opener import DialError
from pytest_netcapture.engine.quic_link import Link, ServerLink
from pytest_netcapture.engine.upstream_tls import UpstreamTlsError
from pytest_netcapture.flows import FlowError, TlsFailure
from pytest_netcapture.redirect.base import DatagramFlow

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pytest_netcapture.engine.main import Engine


class QuicSession(Connection):
    """The `Context` of an `Http3Layer`, live."""

    def __init__(self, engine: Engine, flow: DatagramFlow, pending: Pending, sni: str) -> None:
        super().__init__(engine, None, pending)
        name = sni.lower().rstrip(".") or self.endpoint.host
        self.endpoint = Endpoint(name, self.plan.address[1], tls=True, alpn="h3")
        self.tls_name = sni
        self.layer = Ignoring()
        self._flow = flow
        self._down: Link | None = None
        self._up: ServerLink | None = None
        self._closing = self._settles = False
        self.dial: Callable[[], Awaitable[ServerLink]] | None = None
        """Connects to the server late; `refused` is told of a client that does not trust us."""
        self.refused: Callable[[str], None] = lambda _: None

    def open(self, transport: Transport, server: ServerLink | None) -> None:
        """Answer the client on `transport`."""
        self._down = Link(self.engine, transport, self._flow.reply)
        self._down.woke = self._settle
        if server is not None:
            self._adopt(server)
        self.layer = Http3Layer(self, transport, server.transport if server else None)

    def client_datagram(self, data: bytes) -> None:
        if not self._closed:
            self.layer.client_data(data)
            self._settle_soon()

    def client_gone(self) -> None:
        """Take note that nothing more will come from the client."""
        if not self._closed:
            self.layer.aborted("client", FlowError("eof", "the connection ended first"))
            self._end(ErrorCode.H3_NO_ERROR)

    # ── Context ──────────────────────────────────────────────────────────────────────────────

    @property
    def has_server(self) -> bool:
        return self._up is not None or self._connecting

    def to_client(self, data: bytes) -> None:
        """Nothing to do: the transport has it."""

    def to_server(self, data: bytes) -> None:
        """Nothing to do: the transport has it."""

    def full(self, side: str) -> bool:
        del side
        return False  # a stream's room bounds what is written

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        def due() -> None:
            function()
            self._settle()

        super().after(seconds, due)

    def connect(self) -> None:
        if self._up is None and not self._connecting:
            self._connecting = True
            self.engine.spawn(self._connect())

    def drop_server(self) -> None:
        up, self._up = self._up, None
        if up is not None:
            up.close()

    def close(self) -> None:
        self._closing = True

    def reset(self) -> None:
        end = self._up.transport.end if self._up is not None else None
        self._end(end.error_code if end is not None else ErrorCode.H3_INTERNAL_ERROR)

    # ── inside ───────────────────────────────────────────────────────────────────────────────

    def _adopt(self, server: ServerLink) -> None:
        self._up = server
        server.heard = self._server_datagram
        server.woke = self._settle

    def _server_datagram(self, data: bytes) -> None:
        if not self._closed:
            self.layer.server_data(data)
            self._settle_soon()

    async def _connect(self) -> None:
        assert self.dial is not None
        try:
            server = await self.dial()
        except (DialError, UpstreamTlsError) as failed:
            self._connecting = False
            self.layer.server_failed(failed.error)
            self._settle()
            return
        self._connecting = False
        if self._closed:
            server.close()
            return
        self._adopt(server)
        assert isinstance(self.layer, Http3Layer)
        self.layer.use_server(server.transport)
        self._settle()

    def _settle_soon(self) -> None:
        """Settle once for all the datagrams that have come."""
        if not self._settles:
            self._settles = True
            self.engine.loop.call_soon(self._settle)

    def _settle(self) -> None:
        """Send what is due, and look whether a side has ended."""
        self._settles = False
        for link in (self._down, self._up):
            if link is not None:
                link.transmit()
        if self._closed or self._down is None:
            return
        if self._up is not None and self._up.transport.end is not None:
            self._server_ended(self._up.transport)
        if self._down is not None and self._down.transport.end is not None and not self._closed:
            self._client_ended(self._down.transport)
        elif self._closing and not self._closed and self._down.transport.settled:
            self._end(ErrorCode.H3_NO_ERROR)

    def _server_ended(self, transport: Transport) -> None:
        end = transport.end
        assert end is not None
        if transport.ended_quietly:
            self.layer.server_eof()
        else:
            detail = end.reason_phrase or f"QUIC error 0x{end.error_code:x}"
            self.layer.aborted("server", FlowError("reset", detail, code=end.error_code))
        if self._down is not None:
            self._down.transmit()

    def _client_ended(self, transport: Transport) -> None:
        alert = transport.alert
        if alert is not None:
            self._no_handshake(name_of(alert))
        self.layer.aborted("client", FlowError("reset", "the client closed the connection"))
        self._end(ErrorCode.H3_NO_ERROR)

    def _no_handshake(self, alert: str) -> None:
        """Note how the client ended the handshake."""
        if alert in OF_CERTIFICATES:
            self.refused(alert)
        failure = FlowError("tls", alert)
        flow = TlsFailure(side="client", sni=self.tls_name, detail=alert, error=failure)
        self.begin(flow)
        self.record(flow)

    def _end(self, code: int) -> None:
        """Close both sides."""
        if not self._closed:
            self._closed = True
            self.layer = Ignoring()
            if self._down is not None:
                self._down.close(code)
            self._finish()

    def _end_server(self) -> None:
        self.drop_server()
