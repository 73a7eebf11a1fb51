"""Write down a conversation of bytes: who said how much, in which order, after which waits.

1. Bytes in a row from one side are one turn, however they were cut into segments, unless a tenth of
   a second or more lay between them; so the same conversation is written the same way.
2. The flow is right at every moment: it may be looked at, and saved, while the talk goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pytest_netcapture.flows import Body, RawFlow, Turn

_GAP = 100_000_000


class Growing(Protocol):
    """Where the bytes of one direction are kept."""

    body: Body

    def write(self, data: bytes) -> None: ...

    def finish(self) -> None:
        """Take no more."""


class Talk:
    """The turns of one flow. `now` gives monotonic nanoseconds."""

    def __init__(
        self, flow: RawFlow, outgoing: Growing, incoming: Growing, now: Callable[[], int]
    ) -> None:
        self._flow = flow
        self._ways = {True: outgoing, False: incoming}
        self._now = now
        self._last = now()
        flow.outgoing, flow.incoming = outgoing.body, incoming.body

    def said(self, data: bytes, *, sent: bool) -> None:
        """Take a piece of a stream; `sent` by the client or not."""
        gap, turns = self._gap(), self._flow.turns
        if turns and turns[-1].sent is sent and not gap and not turns[-1].end:
            turns[-1].size += len(data)
        else:
            turns.append(Turn(sent, len(data), gap))
        self._ways[sent].write(data)

    def datagram(self, data: bytes, *, sent: bool) -> None:
        self._flow.turns.append(Turn(sent, len(data), self._gap()))
        self._ways[sent].write(data)

    def ended(self, end: str, *, sent: bool) -> None:
        """Note how a side ended: "fin", "reset" or "refused"; what follows its end is left out."""
        gap = self._gap()
        if not any(turn.end and turn.sent is sent for turn in self._flow.turns):
            self._flow.turns.append(Turn(sent, 0, gap, end))

    def finish(self) -> None:
        for way in self._ways.values():
            way.finish()

    def forget(self, reason: str) -> None:
        """Drop what was written down: it cannot be played, and `reason` says why."""
        self.finish()
        flow = self._flow
        flow.reason, flow.outgoing, flow.incoming, flow.turns = reason, Body(), Body(), []

    def _gap(self) -> int:
        before, self._last = self._last, self._now()
        return (self._last - before) // _GAP
