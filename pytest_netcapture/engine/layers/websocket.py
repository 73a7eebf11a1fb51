"""A WebSocket on an HTTP/1 connection after its 101 (RFC 6455).

1. Live, bytes pass unchanged and are watched. The flow is recorded when both sides have closed, or
   one is gone, before the bytes that say so are passed on.
2. What cannot be read is recorded as malformed so far, and relayed from there on.
3. On replay the server's messages are sent as recorded, after the client's that came before them; a
   client that says something else fails the test and is reset.
4. Two layers: who watches never plays.

tests/engine/layers/test_websocket.py has playbooks for each.
"""

from __future__ import annotations

from pytest_netcapture.cassettes.conversation import Conversation
from pytest_netcapture.engine.layers.layer import Context, Ignoring, Layer
from pytest_netcapture.engine.layers.played_body import Pause
from pytest_netcapture.engine.layers.websocket_frames import Player, Tap
from pytest_netcapture.flows import FlowError, Origin, WebSocketFlow
from pytest_netcapture.unreadable import Unreadable


def switch(
    context: Context,
    flow: WebSocketFlow,
    conversation: Conversation | None,
    *,
    client_pending: bytes = b"",
    server_pending: bytes = b"",
    paced: bool = False,
) -> None:
    """Let a WebSocket go on on `context`; pending bytes were received and not passed on."""
    layer: Layer
    try:
        if conversation is None:
            layer = WatchedWebSocket(context, flow)
        else:
            layer = PlayedWebSocket(context, flow, conversation, paced=paced)
    except Unreadable as problem:
        context.record(flow)
        context.become_raw(
            str(problem), client_pending=client_pending, server_pending=server_pending
        )
        return
    context.layer = layer
    if isinstance(layer, PlayedWebSocket):
        layer.begin()
    if server_pending:
        layer.server_data(server_pending)
    if client_pending:
        layer.client_data(client_pending)


class WatchedWebSocket:
    """A live one."""

    def __init__(self, context: Context, flow: WebSocketFlow) -> None:
        self._context = context
        self._flow = flow
        self._tap = Tap(flow, context.now)
        self._recorded = False
        self._ended: set[str] = set()

    def client_data(self, data: bytes) -> None:
        problem = self._watch(data, sent=True)
        if problem:
            self._context.become_raw(problem, client_pending=data)
        else:
            self._context.to_server(data)

    def server_data(self, data: bytes) -> None:
        problem = self._watch(data, sent=False)
        if problem:
            self._context.become_raw(problem, server_pending=data)
        else:
            self._context.to_client(data)

    def _watch(self, data: bytes, *, sent: bool) -> str:
        if self._recorded:
            return ""
        try:
            said = self._tap.feed(data, sent=sent)
        except Unreadable as problem:
            self._record(FlowError("malformed", str(problem)))
            return str(problem)
        if self._tap.over:
            self._record(None)
        elif said:
            self._context.changed()
        return ""

    def client_eof(self) -> None:
        self._end("client", self._context.eof_server)

    def server_eof(self) -> None:
        self._end("server", self._context.eof_client)

    def _end(self, side: str, pass_on: object) -> None:
        if side in self._ended:
            return
        self._ended.add(side)
        self._record(FlowError("eof", f"the {side} ended it without a close"))
        if len(self._ended) == 2:
            self._context.close()
        else:
            assert callable(pass_on)
            pass_on()

    def server_connected(self) -> None:
        """Nothing waits for it."""

    def server_failed(self, error: FlowError) -> None:
        self.aborted("server", error)

    def aborted(self, side: str, error: FlowError) -> None:
        self._record(error)
        if side == "server":
            self._context.reset()
        else:
            self._context.close()

    def _record(self, error: FlowError | None) -> None:
        if not self._recorded:
            self._recorded = True
            self._flow.error = error
            self._context.record(self._flow)


class PlayedWebSocket(Ignoring):
    """One that is on replay."""

    def __init__(
        self,
        context: Context,
        flow: WebSocketFlow,
        conversation: Conversation,
        *,
        paced: bool = False,
    ) -> None:
        self._context = context
        self._flow = flow
        self._player = Player(flow, conversation, context.now, paced=paced)
        self._over = False

    def begin(self) -> None:
        self._say(self._player.begin())

    def client_data(self, data: bytes) -> None:
        if self._over:
            return
        try:
            answer = self._player.feed(data)
        except Unreadable as problem:
            self._finish(FlowError("malformed", str(problem)))
            self._context.reset()
            return
        self._say(answer)

    def _say(self, pieces: list[bytes]) -> None:
        player, context = self._player, self._context
        if player.miss is not None:
            self._flow.origin = Origin.UNMATCHED
            context.unlike(self._flow, player.miss)
            self._finish(FlowError("reset", player.miss.reason))
            context.reset()
            return
        if player.ended:
            self._finish(player.error)
        if any(isinstance(piece, Pause) for piece in pieces):
            context.to_client_stream(pieces)
        elif pieces:
            context.to_client(b"".join(pieces))
        if player.ended and player.error is not None and player.error.kind != "eof":
            context.reset()
        elif player.ended:
            context.close()
        else:
            context.changed()

    def client_eof(self) -> None:
        self._finish(None)
        self._context.close()

    def aborted(self, side: str, error: FlowError) -> None:
        if side == "client":
            self._finish(error)
            self._context.close()

    def _finish(self, error: FlowError | None) -> None:
        if not self._over:
            self._over = True
            self._flow.error = error
            self._context.record(self._flow)
