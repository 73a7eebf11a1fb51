"""HTTP/3 between one client and at most one server at a time (RFC 9114).

What is done with streams is HTTP/2's (http2.py, and the modules beside it): each is decided for
itself, forwarded, played or denied. Only the sides differ (http3_peer.py): each is a QUIC
connection of its own, and what `receive` takes is a datagram.

1. A transport is the connection's: it shakes hands before there is a layer, sends, and has timers.
2. The server is spoken to over HTTP/3 too. What waits for it waits in its `Peer`.

tests/engine/layers/test_http3.py proves them.
"""

from __future__ import annotations

from pytest_netcapture.engine.layers.http2 import Http2Layer
from pytest_netcapture.engine.layers.http2_frames import Code
from pytest_netcapture.engine.layers.http2_peer import Handler
from pytest_netcapture.engine.layers.http2_sender import Sender
from pytest_netcapture.engine.layers.http3_peer import Http3Peer
from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.engine.layers.quic_transport import Transport
from pytest_netcapture.flows import FlowError


class Http3Layer(Http2Layer):
    """HTTP/3 on one connection, whose client is at `transport`."""

    def __init__(
        self, context: Context, transport: Transport, server: Transport | None = None
    ) -> None:
        self._transports = {False: transport, True: server}
        super().__init__(context)

    def _peer(self, handler: Handler, *, client: bool) -> Sender:
        peer = Http3Peer(handler, self._context.now, client=client)
        transport = self._transports[client]
        if transport is not None:
            peer.attach(transport)
        return peer

    def use_server(self, transport: Transport) -> None:
        """Take the connection that was asked for."""
        self._transports[True] = transport
        if isinstance(self._server, Http3Peer):
            self._server.attach(transport)
        self._flush()

    def server_data(self, data: bytes) -> None:
        if self._server is not None and not self._over:
            self._server.receive(data)
            self._flush()

    def _lose_server(self, error: FlowError, code: Code) -> None:
        self._transports[True] = None
        super()._lose_server(error, code)
