"""A WebSocket on one HTTP/2 stream, after Extended CONNECT was accepted (RFC 8441).

1. Live, DATA passes as it comes and is watched; the flow is recorded when both sides have closed,
   or the stream ends, before the bytes that say so go out.
2. On replay the stream is spoken on as a WebSocket over HTTP/1 is (websocket_frames.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from pytest_netcapture.cassettes.conversation import Conversation
from pytest_netcapture.engine.layers.http2_exchange import Http2Exchange
from pytest_netcapture.engine.layers.http2_frames import Code
from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.engine.layers.websocket_frames import Player, Tap
from pytest_netcapture.flows import FlowError, Origin, WebSocketFlow
from pytest_netcapture.unreadable import Unreadable

Finish: TypeAlias = Callable[[Http2Exchange, FlowError | None], None]


def watch(context: Context, exchange: Http2Exchange, finish: Finish) -> None:
    """Begin to read what is said on a stream whose CONNECT the server has accepted."""
    assert isinstance(exchange.flow, WebSocketFlow)
    try:
        exchange.tap = Tap(exchange.flow, context.now)
    except Unreadable as problem:
        finish(exchange, FlowError("malformed", str(problem)))


def watched(exchange: Http2Exchange, data: bytes, finish: Finish, *, sent: bool) -> None:
    """Read what one side said, if that is still of interest."""
    if exchange.tap is None or exchange.complete:
        return
    try:
        exchange.tap.feed(data, sent=sent)
    except Unreadable as problem:
        finish(exchange, FlowError("malformed", str(problem)))
        return
    if exchange.tap.over:
        finish(exchange, None)


class PlayedStream:
    """Speaks for the server on a stream."""

    def __init__(
        self, context: Context, exchange: Http2Exchange, said: Conversation, finish: Finish
    ) -> None:
        """Take the exchange, whose flow has its response. Raises `Unreadable`."""
        assert isinstance(exchange.flow, WebSocketFlow)
        self._context = context
        self._exchange = exchange
        self._finish = finish
        self._player = Player(exchange.flow, said, context.now)

    def begin(self) -> None:
        self._say(self._player.begin())

    def heard(self, data: bytes, *, end: bool) -> None:
        """Take what the client says."""
        exchange, down = self._exchange, self._exchange.down
        if exchange.complete:
            return
        try:
            answer = self._player.feed(data)
        except Unreadable as problem:
            self._finish(exchange, FlowError("malformed", str(problem)))
            down.peer.reset(down, Code.PROTOCOL_ERROR)
            return
        self._say(answer)
        if end and not exchange.complete:
            self._finish(exchange, None)
            down.peer.end(down)

    def _say(self, pieces: list[bytes]) -> None:
        data = b"".join(pieces)
        player, exchange, down = self._player, self._exchange, self._exchange.down
        if player.miss is not None:
            exchange.flow.origin = Origin.UNMATCHED
            self._context.unlike(exchange.flow, player.miss)
            self._finish(exchange, FlowError("reset", player.miss.reason))
            down.peer.reset(down, Code.INTERNAL_ERROR)
            return
        if player.ended:
            self._finish(exchange, player.error)
        if data:
            down.peer.send_data(down, data)
        if player.ended and player.error is not None and player.error.kind != "eof":
            down.peer.reset_behind(down, player.error.code or Code.INTERNAL_ERROR)
        elif player.ended:
            down.peer.end(down)
