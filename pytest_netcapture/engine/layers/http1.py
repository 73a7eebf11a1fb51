"""HTTP/1.0 and HTTP/1.1 on one connection (RFC 9112).

1. Bytes pass unchanged; the parser observes. Only what we answer ourselves is written by us, and
   the offer to go on as HTTP/2 (Upgrade: h2c) is left out: a proxy may (RFC 9110 §7.8).
2. Requests are parsed and forwarded as they come, pipelined ones too; answers keep their order.
   While one waits to be answered from here behind forwarded ones, or may switch protocols, the
   bytes after it wait.
3. A decision that needs the body (`Context.decides_late`) holds the request until it is complete;
   if the client waits for 100 Continue it gets ours, and the server's own is swallowed later.
4. A flow is recorded when its answer is complete, even if its request is not (413 and close).
5. What cannot be read is recorded as malformed and relayed raw from its first byte on.
6. Effects that may call back come after all state has changed.

tests/engine/layers/test_http1.py has playbooks for each; test_http1_split.py cuts them anywhere.
"""

from __future__ import annotations

from pytest_netcapture.cassettes.conversation import Conversation
from pytest_netcapture.engine.layers.http1_answers import SWITCHING, Answers, switch_reason
from pytest_netcapture.engine.layers.http1_exchange import Exchange, locate, spooled
from pytest_netcapture.engine.layers.http1_head import (
    Malformed,
    head_end,
    offers_h2c,
    parse_request,
    skip_blank,
    without_h2c,
)
from pytest_netcapture.engine.layers.http1_replay import Renderer
from pytest_netcapture.engine.layers.layer import Context, Decision, Deny, Forward, Later, Play
from pytest_netcapture.engine.layers.websocket import switch
from pytest_netcapture.flows import FlowError, WebSocketFlow

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Http1Layer:
    """HTTP/1 between one client and at most one server at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        # From the client, not parsed yet; parsed, to be sent to the server.
        self._inbox = b""
        self._outbox: list[bytes] = []
        # An exchange is received, then due from the server or waiting for its turn to be played.
        self._receiving: Exchange | None = None
        self._answers = Answers(context)
        self._renderer = Renderer()
        self._due = self._answers.due
        self._waiting: tuple[Exchange, Play | Deny] | None = None
        # Its decision is still to be made.
        self._undecided: Exchange | None = None
        self._place: tuple[str, tuple[str, int]] = ("", ("", 0))
        self._upstream = False
        self._played = False
        self._client_done = False
        self._server_done = False
        # Why the bytes in the inbox are no request.
        self._broken = ""
        self._pumping = False
        self._over = False

    # What the client does

    def client_data(self, data: bytes) -> None:
        if self._over:
            return
        self._inbox = self._inbox + data if self._inbox else data
        self._pump()

    def client_eof(self) -> None:
        if self._over:
            self._context.close()
        if self._over or self._client_done:
            return
        self._client_done = True
        self._pump()
        if not self._over:
            self._client_ended()

    def _client_ended(self) -> None:
        """Pass on that the client will send no more, once all that it sent is through."""
        receiving = self._receiving
        if self._undecided is not None:
            return
        if self._inbox and receiving is None and self._blocked():
            return
        if self._server_done:
            self._close()
        elif receiving is not None:
            self._cut_off(receiving)
        elif self._inbox and skip_blank(self._inbox) < len(self._inbox):
            self._give_up("the client closed in the middle of a request head")
        elif self._due:
            self._context.eof_server()
        else:
            self._close()

    def _cut_off(self, exchange: Exchange) -> None:
        self._receiving = None
        error = FlowError("eof", "the client closed in the middle of its request")
        if exchange.held:
            exchange.finish(error)
            self._context.record(exchange.flow)
            if not self._due:
                self._close()
            return
        if not exchange.complete:
            exchange.flow.error = error
        self._context.eof_server()

    def _pump(self) -> None:
        """Take what the client has sent as far as it goes."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._inbox and not self._over and self._take():
                pass
        except Malformed as problem:
            self._broken = f"malformed request: {problem}"
        finally:
            self._pumping = False
        if self._broken and not self._over and (self._receiving or not self._due):
            self._give_up(self._broken)
        if not self._over:
            self._flush_server()

    def _take(self) -> bool:
        """Take one head, or one piece of a body; tell whether there may be more."""
        if self._receiving is None:
            return not self._blocked() and self._take_head()
        exchange = self._receiving
        data = self._inbox
        self._inbox = b""
        try:
            end = exchange.take_body(data, 0)
        except Malformed:
            self._inbox = data
            raise
        if not exchange.held:
            self._outbox.append(data[:end])
        self._inbox = data[end:]
        if exchange.framing_in is not None and exchange.framing_in.done:
            self._received(exchange)
        return True

    def _blocked(self) -> bool:
        """Tell whether the next request must wait for the answer to an earlier one."""
        if self._waiting is not None or self._undecided is not None or self._broken:
            return True
        return bool(self._due) and self._due[-1].switches

    def _take_head(self) -> bool:
        data = self._inbox
        start = skip_blank(data) if data[0] in b"\r\n" else 0
        end = head_end(data, start)
        if end < 0:
            return False
        head = parse_request(data[start:end] if start else data[:end])
        host = head.special.get("host", "")
        if head.target[0] == "/" and host == self._place[0] and host:
            place = self._place[1]
        else:
            place = locate(self._context, head)
            self._place = (host, place) if head.target[0] == "/" else ("", place)
        raw = without_h2c(data[:end]) if offers_h2c(head) else data[:end]
        exchange = Exchange(self._context, head, raw, place)
        self._inbox = data[end:]
        self._started(exchange)
        return not self._over

    def _started(self, exchange: Exchange) -> None:
        context = self._context
        context.begin(exchange.flow)
        if exchange.framing_in is None:
            self._decide(exchange)
            return
        self._receiving = exchange
        if context.decides_late():
            exchange.hold()
            self._ask_for_body(exchange)
            return
        self._decide(exchange)

    def _ask_for_body(self, exchange: Exchange) -> None:
        """Send 100 Continue ourselves, once its turn has come."""
        if exchange.expects and not exchange.continued and not self._due:
            exchange.continued = True
            self._context.to_client(_CONTINUE)

    def _received(self, exchange: Exchange) -> None:
        self._receiving = None
        exchange.finish_request()
        if exchange.decision is not None:
            self._settle(exchange, exchange.decision)
        elif exchange.held:
            self._decide(exchange)
        elif self._server_done:
            self._close()

    def _decide(self, exchange: Exchange) -> None:
        decision = self._context.decide(exchange.flow)
        if self._over:
            return
        if isinstance(decision, Later):
            self._undecided = exchange
            decision.then(lambda made: self._decided_late(exchange, made))
        else:
            self._decided(exchange, decision)

    def _decided_late(self, exchange: Exchange, decision: Decision) -> None:
        """Go on with what waited for a decision, unless the client is gone."""
        if self._over or self._undecided is not exchange:
            return
        self._undecided = None
        self._decided(exchange, decision)
        if not self._over:
            self._pump()
        if self._client_done and not self._over and not self._due:
            self._client_ended()

    def _decided(self, exchange: Exchange, decision: Decision) -> None:
        if isinstance(decision, Forward):
            self._forward(exchange)
        elif self._receiving is exchange and isinstance(decision, Play) and decision.response:
            exchange.decision = decision
            exchange.hold()
            self._ask_for_body(exchange)
        else:
            self._settle(exchange, decision)

    # What we do with a request

    def _forward(self, exchange: Exchange) -> None:
        self._due.append(exchange)
        self._outbox.append(exchange.head)
        if exchange.held:
            self._forward_held(exchange)
        if not self._upstream:
            self._upstream = True
            self._context.connect()

    def _forward_held(self, exchange: Exchange) -> None:
        body, own = exchange.held_body()
        if not body.path:
            self._outbox.append(body.data)
            return
        self._flush_server()
        self._context.to_server_stream(spooled(body, remove=own))

    def _settle(self, exchange: Exchange, decision: Play | Deny) -> None:
        """Answer from here, after the answers that are due before."""
        if self._due:
            self._waiting = (exchange, decision)
        elif isinstance(decision, Deny):
            self._deny(exchange, decision)
        else:
            self._play(exchange, decision)

    def _deny(self, exchange: Exchange, decision: Deny) -> None:
        self._over = True
        exchange.flow.origin = decision.origin
        exchange.finish(FlowError("reset", decision.origin.value))
        self._context.record(exchange.flow)
        self._context.reset()

    def _play(self, exchange: Exchange, decision: Play) -> None:
        context = self._context
        flow = exchange.flow
        flow.origin = decision.origin
        flow.response = decision.response
        exchange.finish(decision.error)
        self._played = True
        answer = self._renderer.render(
            flow.request, decision, asked=exchange.connection, continued=exchange.continued
        )
        if answer.closes or decision.error is not None:
            self._over = True
        if decision.conversation is None:
            context.record(flow)
        if answer.data:
            context.to_client(answer.data)
        if isinstance(flow, WebSocketFlow) and decision.conversation is not None:
            self._switch(flow, decision.conversation, paced=decision.paced)
            return
        if answer.stream is not None:
            context.to_client_stream(answer.stream)
        if answer.resets:
            context.reset()
        elif answer.closes:
            context.close()
        elif flow.response is not None and flow.response.status == SWITCHING:
            self._become_raw(switch_reason(flow.response.headers.fields))

    # What the server does

    def server_connected(self) -> None:
        self._upstream = True

    def server_failed(self, error: FlowError) -> None:
        if self._over:
            return
        self._upstream = False
        self._fail(error)
        self._over = True
        self._context.reset()

    def server_data(self, data: bytes) -> None:
        if self._over:
            return
        taken = self._answers.take(data)
        if taken.out:
            self._context.to_client(taken.out)
        if taken.websocket is not None:
            self._switch(taken.websocket, None, server_pending=taken.rest)
        elif taken.raw:
            self._give_up(taken.raw, server_pending=taken.rest)
        elif not self._due:
            self._drained()

    def _drained(self) -> None:
        """Go on with what waited for the answers before it."""
        if self._waiting is not None:
            (exchange, decision), self._waiting = self._waiting, None
            self._settle(exchange, decision)
        elif self._receiving is not None and self._receiving.held:
            self._ask_for_body(self._receiving)
        if self._broken and not self._over:
            self._give_up(self._broken)
        if self._inbox and not self._over:
            self._pump()
        if self._client_done and not self._over and not self._due:
            self._client_ended()

    def server_eof(self) -> None:
        if self._over:
            return
        if self._answers.held:
            self._context.to_client(self._answers.held)
        if self._due:
            self._answers.ended()
            self._fail(FlowError("eof", "the server closed before its answer was complete"))
            self._close()
        elif self._receiving is not None and not self._receiving.held:
            self._server_done = True
            self._context.eof_client()
        else:
            self._server_idle_end()

    def _server_idle_end(self) -> None:
        """Drop a server that is not needed for now; without it, the connection is over."""
        if self._played or self._receiving is not None or self._undecided is not None:
            self._upstream = False
            self._context.drop_server()
        else:
            self._close()

    def aborted(self, side: str, error: FlowError) -> None:
        if self._over:
            return
        if side == "client":
            self._fail(error)
            self._close()
        elif self._due:
            if self._answers.held:
                self._context.to_client(self._answers.held)
            self._fail(error)
            self._over = True
            self._context.reset()
        elif self._receiving is not None and not self._receiving.held:
            self._close()
        else:
            self._server_idle_end()

    # Ends

    def _fail(self, error: FlowError) -> None:
        """Record every exchange that is still open as failed."""
        exchanges = list(self._due)
        if self._receiving is not None and self._receiving not in exchanges:
            exchanges.append(self._receiving)
        if self._waiting is not None:
            exchanges.append(self._waiting[0])
        if self._undecided is not None:
            exchanges.append(self._undecided)
        self._due.clear()
        self._receiving = self._waiting = self._undecided = None
        for exchange in exchanges:
            if exchange.complete:
                continue
            after = exchange.received
            exchange.finish(exchange.flow.error or FlowError(error.kind, error.detail, after))
            self._context.record(exchange.flow)

    def _give_up(self, reason: str, *, server_pending: bytes = b"") -> None:
        """Relay everything that was not passed on yet, and all that follows, as it is."""
        receiving = self._receiving
        pending = b""
        if receiving is not None and receiving.held:
            body, own = receiving.held_body()
            pending = receiving.head + b"".join(spooled(body, remove=own))
        self._fail(FlowError("malformed", reason))
        self._become_raw(reason, pending=pending, server_pending=server_pending)

    def _become_raw(
        self, reason: str, *, pending: bytes = b"", server_pending: bytes = b""
    ) -> None:
        self._over = True
        self._flush_server()
        pending += self._inbox
        self._inbox = b""
        self._context.become_raw(reason, client_pending=pending, server_pending=server_pending)
        if self._client_done:
            self._context.eof_server()

    def _switch(
        self,
        flow: WebSocketFlow,
        played: Conversation | None,
        *,
        server_pending: bytes = b"",
        paced: bool = False,
    ) -> None:
        self._over = True
        self._flush_server()
        pending, self._inbox = self._inbox, b""
        flow.ended = 0
        switch(
            self._context,
            flow,
            played,
            client_pending=pending,
            server_pending=server_pending,
            paced=paced,
        )
        if self._client_done:
            self._context.layer.client_eof()

    def _close(self) -> None:
        self._over = True
        self._context.close()

    def _flush_server(self) -> None:
        out = self._outbox
        if not out:
            return
        self._outbox = []
        self._context.to_server(out[0] if len(out) == 1 else b"".join(out))
