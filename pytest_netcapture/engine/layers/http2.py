"""HTTP/2 between one client and at most one server at a time (RFC 9113).

1. There are two connections, each with its own windows, header tables and stream numbers
   (http2_peer.py); what passes from one to the other are header sections, data and resets.
2. Each stream is decided for itself: forwarded, played or denied, side by side on a connection. A
   stream that is denied is reset, the others go on.
3. A decision that needs the body (`Context.decides_late`) holds the request until it is complete;
   if the client waits for 100 Continue it gets ours, and the server's own is swallowed later.
4. The client gets our settings when the server's are there, so that it is told what the server can
   do; without a server they go out at once.
5. Error codes of RST_STREAM and GOAWAY are passed on. A connection that ends ends the other one,
   unless streams were played on it: those do not depend on the server.
6. A recorded body goes out while the client's socket takes it, and waits when that is full.

tests/engine/layers/test_http2.py has playbooks for each; test_http2_split.py cuts them anywhere.
"""

from __future__ import annotations

from pytest_netcapture.engine.layers.http1_exchange import spooled
from pytest_netcapture.engine.layers.http2_answers import Answers
from pytest_netcapture.engine.layers.http2_channel import Channel, Fields
from pytest_netcapture.engine.layers.http2_exchange import Http2Exchange
from pytest_netcapture.engine.layers.http2_fields import (
    MalformedFields,
    read_request,
    read_trailers,
)
from pytest_netcapture.engine.layers.http2_frames import (
    Code,
    ConnectionFailure,
    Setting,
    StreamFailure,
    begins_like_a_server,
)
from pytest_netcapture.engine.layers.http2_peer import Handler, Peer
from pytest_netcapture.engine.layers.http2_playing import Playing
from pytest_netcapture.engine.layers.http2_replay import BY_CLIENT
from pytest_netcapture.engine.layers.http2_sender import Sender
from pytest_netcapture.engine.layers.http2_websocket import watched
from pytest_netcapture.engine.layers.layer import Context, Decision, Forward, Later, Play
from pytest_netcapture.flows import FlowError, Headers, HttpFlow

_CONTINUE: Fields = [(b":status", b"100")]


class Http2Layer:
    """HTTP/2 on one connection; it is the `Handler` of the client's side."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client = self._peer(self, client=False)
        self._answers = Answers(context, self._client, self._finish)
        self._playing = Playing(context, self._client, self._finish)
        self._server: Sender | None = None
        # Exchanges that are not recorded yet, in their order.
        self._open: dict[Http2Exchange, None] = {}
        self._greeted = False
        # No more comes from the client, or the server: close when all is delivered.
        self._ending = False
        self._over = False
        self._awaited: set[str] = set()
        if context.has_server:
            self._upstream()

    def _peer(self, handler: Handler, *, client: bool) -> Sender:
        """Return one side; HTTP/3 has its own."""
        return Peer(handler, client=client)

    def stream_of(self, flow: HttpFlow) -> int:
        """Return the number of the client's stream on which `flow` is."""
        return next(exchange.down.id for exchange in self._open if exchange.flow is flow)

    # What the client does

    def client_data(self, data: bytes) -> None:
        if self._over:
            return
        if not self._context.full("client"):
            self._client.was_read()
        try:
            self._client.receive(data)
        except ConnectionFailure as failure:
            self._client_broke(failure)
        else:
            self._flush()

    def opened(self, channel: Channel, fields: Fields, end: bool) -> None:
        try:
            head = read_request(fields)
        except MalformedFields as problem:
            raise StreamFailure(channel.id, Code.PROTOCOL_ERROR, str(problem)) from problem
        exchange = Http2Exchange(self._context, head, fields, channel, end=end)
        channel.owner = exchange
        self._open[exchange] = None
        self._context.begin(exchange.flow)
        if end or head.method == "CONNECT" or not self._context.decides_late():
            self._decide(exchange)
        elif (decision := self._context.decide_early(exchange.flow)) is not None:
            self._decided(exchange, decision)
        else:
            exchange.hold()
            self._ask_for_body(exchange)

    def headers(self, channel: Channel, fields: Fields, end: bool) -> None:
        """Take the trailers of a request."""
        exchange: Http2Exchange = channel.owner
        try:
            exchange.flow.request.trailers = Headers(read_trailers(fields))
        except MalformedFields as problem:
            raise StreamFailure(channel.id, Code.PROTOCOL_ERROR, str(problem)) from problem
        exchange.trailers = fields
        self._body(exchange, b"", end=end)
        if exchange.up is not None and not exchange.held:
            exchange.up.peer.send_headers(exchange.up, fields, end=True)
        self._tell(exchange, b"", end=end)
        self._received(exchange)

    def data(self, channel: Channel, data: bytes, end: bool) -> None:
        exchange: Http2Exchange = channel.owner
        self._body(exchange, data, end=end)
        watched(exchange, data, self._finish, sent=True)
        up = exchange.up
        if up is not None and not exchange.held and not up.ended_out:
            up.peer.send_data(up, data, end=end)
        else:
            self._client.grant(channel, len(data))
        if exchange.played is not None:
            exchange.played.heard(data, end=end)
        self._tell(exchange, data, end=end)
        if end:
            self._received(exchange)

    def _tell(self, exchange: Http2Exchange, data: bytes, *, end: bool) -> None:
        if exchange.dialogue is not None and not exchange.complete:
            self._playing.say(exchange, exchange.dialogue.heard(data, end=end))

    def _body(self, exchange: Http2Exchange, data: bytes, *, end: bool) -> None:
        if not exchange.complete and not exchange.take_body(data, end=end):
            raise StreamFailure(
                exchange.down.id, Code.PROTOCOL_ERROR, "not as long as its Content-Length"
            )

    def was_reset(self, channel: Channel, code: int, reason: str) -> None:
        exchange: Http2Exchange | None = channel.owner
        if exchange is None:
            return
        kind, detail = ("malformed", reason) if reason else ("reset", BY_CLIENT)
        self._finish(exchange, FlowError(kind, detail, exchange.received, code))
        if exchange.up is not None:
            exchange.up.peer.reset(exchange.up, code)

    def went_away(self, last: int, code: int, debug: bytes) -> None:
        del last  # counts streams of the server's, which are none
        if self._server is not None:
            self._server.go_away(code, debug, 0)

    def settled(self) -> None:
        """Nothing to do: what the client can take, its `Peer` knows."""

    def client_eof(self) -> None:
        if self._over:
            self._context.close()
            return
        for exchange in list(self._open):
            if not exchange.request_done:
                self.was_reset(exchange.down, Code.CANCEL, "")
        self._ending = True
        self._flush()

    # What we do with a request

    def _ask_for_body(self, exchange: Http2Exchange) -> None:
        if exchange.expects and not exchange.continued:
            exchange.continued = True
            self._client.send_headers(exchange.down, _CONTINUE)

    def _received(self, exchange: Http2Exchange) -> None:
        if exchange.complete:
            return
        exchange.finish_request()
        if exchange.decision is not None:
            self._playing.settle(exchange, exchange.decision)
        elif exchange.held:
            self._decide(exchange)

    def _decide(self, exchange: Http2Exchange) -> None:
        decision = self._context.decide(exchange.flow)
        if isinstance(decision, Later):
            decision.then(lambda made: self._decided_late(exchange, made))
        else:
            self._decided(exchange, decision)

    def _decided_late(self, exchange: Http2Exchange, decision: Decision) -> None:
        if not self._over and not exchange.complete:
            self._decided(exchange, decision)
            self._flush()

    def _decided(self, exchange: Http2Exchange, decision: Decision) -> None:
        if isinstance(decision, Forward):
            self._forward(exchange)
        elif isinstance(decision, Play) and decision.conversation is not None:
            self._playing.websocket(exchange, decision)
        elif isinstance(decision, Play) and decision.dialogue is not None:
            self._ask_for_body(exchange)
            self._playing.dialogue(exchange, decision)
        elif not exchange.request_done and isinstance(decision, Play) and decision.response:
            exchange.decision = decision
            exchange.hold()
            self._ask_for_body(exchange)
        else:
            self._playing.settle(exchange, decision)

    def _forward(self, exchange: Http2Exchange) -> None:
        server, down = self._upstream(), exchange.down
        if server.last_allowed is not None:
            refused = FlowError("reset", "the server goes away", 0, Code.REFUSED_STREAM)
            self._finish(exchange, refused)
            self._client.reset(down, Code.REFUSED_STREAM)
            return
        up = exchange.up = down.partner = server.open(exchange)
        if not exchange.held:
            up.partner = down
            server.send_headers(up, exchange.fields, end=exchange.request_done)
            return
        exchange.held = False
        body, own = exchange.held_body()
        server.send_headers(up, exchange.fields, end=not body.size and exchange.trailers is None)
        if body.size:
            server.send_body(up, spooled(body, remove=own))
        if exchange.trailers is not None:
            server.send_headers(up, exchange.trailers, end=True)
        elif body.size:
            server.end(up)

    def _upstream(self) -> Sender:
        if self._server is None:
            self._server = self._peer(self._answers, client=True)
            self._server.greet()
            self._context.connect()
        return self._server

    # What the server does

    def server_connected(self) -> None:
        """Nothing to do: what is for it has been written, and waits in the context."""

    def server_data(self, data: bytes) -> None:
        server = self._server
        if self._over or server is None:
            return
        if not self._greeted and server.settings is None and not begins_like_a_server(data):
            self._not_http2(data)
            return
        try:
            server.receive(data)
        except ConnectionFailure as failure:
            server.go_away(failure.code, failure.reason.encode())
            self._context.to_server(server.take())
            self._lose_server(FlowError("malformed", failure.reason), Code.PROTOCOL_ERROR)
        self._flush()

    def server_failed(self, error: FlowError) -> None:
        self._server_ended(error)

    def server_eof(self) -> None:
        self._server_ended(FlowError("eof", "the server closed before its answer was complete"))

    def aborted(self, side: str, error: FlowError) -> None:
        if self._over:
            return
        if side == "server":
            self._server_ended(error)
            return
        self._over = True
        for exchange in list(self._open):
            self._finish(exchange, FlowError(error.kind, BY_CLIENT, exchange.received))
        self._context.close()

    def _server_ended(self, error: FlowError) -> None:
        """Pass on that the server has ended the connection; played streams do not depend on it."""
        if self._over:
            return
        waited = any(exchange.up is not None for exchange in self._open)
        self._lose_server(error, Code.INTERNAL_ERROR)
        if self._playing.used:
            self._flush()
        elif waited and error.kind != "eof":
            self._over = True
            self._context.reset()
        else:
            self._ending = True
            self._flush()

    def _lose_server(self, error: FlowError, code: Code) -> None:
        """Fail what the server still owed."""
        for exchange in list(self._open):
            if exchange.up is not None:
                self._finish(
                    exchange, FlowError(error.kind, error.detail, exchange.received, error.code)
                )
                self._client.reset_behind(exchange.down, code)
        self._server = None
        self._context.drop_server()

    def _not_http2(self, data: bytes) -> None:
        reason = "the server does not speak HTTP/2"
        self._over = True
        for exchange in list(self._open):
            self._finish(exchange, FlowError("malformed", reason))
        self._context.become_raw(reason, server_pending=data)

    # Both

    def _finish(self, exchange: Http2Exchange, error: FlowError | None) -> None:
        """Complete and record an exchange, if it is not yet."""
        if exchange.complete:
            return
        exchange.finish(error)
        del self._open[exchange]
        self._context.record(exchange.flow)

    def _client_broke(self, failure: ConnectionFailure) -> None:
        self._greet()
        self._client.go_away(failure.code, failure.reason.encode())
        self._over = True
        for exchange in list(self._open):
            error = FlowError("malformed", failure.reason, exchange.received, failure.code)
            self._finish(exchange, error)
        self._context.to_client(self._client.take())
        self._context.close()

    def _greet(self) -> None:
        """Send the client our settings."""
        if not self._greeted:
            settings = self._server.settings if self._server is not None else None
            mirrored = settings is None or settings.get(Setting.ENABLE_CONNECT_PROTOCOL) == 1
            self._greeted = True
            self._client.greet(connect_protocol=mirrored)

    def _flush(self) -> None:
        """Write what is due to both sides, as far as their sockets take it."""
        if self._over:
            return
        server = self._server
        if server is None or server.settings is not None:
            self._greet()
        if self._greeted:
            self._write("client", self._client)
        if server is not None:
            self._write("server", server)
        if self._ending and not self._open and not self._client.busy:
            self._over = True
            self._context.close()

    def _write(self, side: str, peer: Sender) -> None:
        context = self._context
        write = context.to_client if side == "client" else context.to_server
        out = peer.take()
        if out:
            write(out)
        while peer.pumping and not context.full(side):
            peer.pump()
            write(peer.take())
        while peer.pauses:
            self._rest(peer, peer.pauses.pop())
        if peer.pumping and side not in self._awaited:
            self._awaited.add(side)
            context.when_free(side, lambda: self._freed(side))

    def _rest(self, peer: Sender, channel: Channel) -> None:
        """Let a body that is played at its recorded pace go on when it is time."""

        def go_on() -> None:
            peer.resume(channel)
            self._flush()

        pause, channel.pause = channel.pause, 0.0
        self._context.after(pause, go_on)

    def _freed(self, side: str) -> None:
        self._awaited.discard(side)
        self._flush()
