"""A recorded WebSocket while it is played: what the server says next, and what the client should.

1. A message of the server's follows those of the client's that were recorded before it.
2. The client's texts and binaries must be the recorded ones, in their order, compared as request
   bodies are: without secrets, JSON by its meaning. Its pings and pongs come when they come.
3. A client may close earlier than it did.

Proven by tests/engine/layers/test_websocket.py.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_netcapture.cassettes.keys import canonical_body
from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.cassettes.nearest import message_differences
from pytest_netcapture.flows import FlowError, WebSocketFlow, WebSocketMessage

_SPOKEN = ("text", "binary", "close")
_RECORD = "record it again with --netcapture-record-mode=rewrite"


class Conversation:
    """`error` is how it ended, once all is said; None after a close, or when it was left open."""

    def __init__(
        self, flow: WebSocketFlow, scrub: Callable[[WebSocketMessage], WebSocketMessage]
    ) -> None:
        self._flow = flow
        self._scrub = scrub
        self._left = [m for m in flow.messages if m.kind in _SPOKEN or not (m.sent or _pong(m))]
        self._left.reverse()
        pairs = zip(flow.messages, flow.messages[1:], strict=False)
        self._waits = {id(after): after.time - before.time for before, after in pairs}
        self._count = 0
        self.error: FlowError | None = flow.error

    @property
    def over(self) -> bool:
        """Tell whether all was said."""
        return not self._left

    def wait(self, message: WebSocketMessage) -> int:
        """Return the nanoseconds between a recorded message and the one before it."""
        return self._waits.get(id(message), 0)

    def due(self) -> list[WebSocketMessage]:
        """Return what the server says now, before the client says more."""
        out = []
        while self._left and not self._left[-1].sent:
            out.append(self._left.pop())
        return out

    def said(self, message: WebSocketMessage) -> Miss | None:
        """Take a text or binary of the client's; return how it differs from the recorded one."""
        self._count += 1
        expected = self._left[-1] if self._left else None
        if expected is None or expected.kind == "close":
            what = "closed it" if expected else "said no more"
            reason = f"message {self._count} of the client is new: when recorded, it {what}"
            return Miss(MissKind.NEVER, reason, self._flow, advice=_RECORD)
        actual = self._scrub(message)
        if expected.kind == actual.kind and _meaning(expected) == _meaning(actual):
            self._left.pop()
            return None
        reason = f"message {self._count} of the client is not the recorded one"
        differences = message_differences(expected, actual)
        return Miss(MissKind.NEVER, reason, self._flow, differences, _RECORD)

    def closed(self) -> WebSocketMessage | None:
        """Take the client's close; return the one that the server sent."""
        left, self._left = self._left, []
        return next((m for m in left if m.kind == "close" and not m.sent), None)


class MockedConversation(Conversation):
    """What a mock says on a WebSocket, and awaits; `mock` describes it."""

    def __init__(self, flow: WebSocketFlow, mock: str) -> None:
        super().__init__(flow, lambda message: message)
        self._mock = mock

    def said(self, message: WebSocketMessage) -> Miss | None:
        missed = super().said(message)
        if missed is None:
            return None
        awaited = "is not the one that is awaited" if missed.differences else "is one too many"
        reason = f"message {self._count} of the client {awaited} by the mock of {self._mock}"
        advice = 'add ("<", ...) and (">", ...) to the mock as the client says it'
        return Miss(missed.kind, reason, self._flow, missed.differences, advice)


def _pong(message: WebSocketMessage) -> bool:
    return message.kind == "pong"


def _meaning(message: WebSocketMessage) -> bytes:
    return canonical_body(message.data, "")
