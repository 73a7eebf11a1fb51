"""One recorded conversation of bytes, followed: what is expected, and what the server says then.

1. What the server said follows what of the client's bytes had come before it. How they are cut into
   segments means nothing over TCP; over UDP datagrams are compared whole.
2. What the client says must be what it said, but for masks. What the server says is what it said,
   but for echoes of what was masked.

Proven by tests/cassettes/test_script.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from pytest_netcapture.cassettes.masks import Span, blanked, first_difference
from pytest_netcapture.flows import AnyRaw, Body, Turn

_PIECE = 1 << 16


@dataclass
class Speech:
    """What the server says now: `pieces`, and then how it ends, if it does ("fin", "reset")."""

    pieces: list[Callable[[], Iterator[bytes]]] = field(default_factory=list)
    end: str = ""

    def __bool__(self) -> bool:
        return bool(self.pieces or self.end)

    def content(self) -> Iterator[bytes]:
        for piece in self.pieces:
            yield from piece()

    def datagrams(self) -> list[bytes]:
        return [b"".join(piece()) for piece in self.pieces]


class Part:
    """One recording, followed as far as the conversation has come.

    `key` identifies the recording; one that is `shared` may be played by several at a time.
    """

    def __init__(
        self, key: object, flow: AnyRaw, masks: Iterable[Span] = (), *, shared: bool = False
    ) -> None:
        self.key = key
        self.flow = flow
        self.shared = shared
        self.heard = 0
        self.ended = False
        self._masks = [*flow.masks, *masks]
        self._step = 0
        self._asked = 0
        self._said = 0
        self._live: dict[int, bytes] = {}

    @property
    def speaks_first(self) -> bool:
        """Tell whether the server spoke before the client did."""
        return bool(self.flow.turns) and not self.flow.turns[0].sent

    @property
    def total(self) -> int:
        """How many bytes the client said."""
        return self.flow.outgoing.size

    @property
    def turn(self) -> Turn | None:
        """The step that is waited for."""
        turns = self.flow.turns
        return turns[self._step] if self._step < len(turns) else None

    @property
    def over(self) -> bool:
        return self.turn is None

    @property
    def stalled(self) -> bool:
        """Tell whether the server waits in the middle of something, with more to say after it."""
        turn = self.turn
        if turn is None or not turn.sent:
            return False
        later = any(one.size and not one.sent for one in self.flow.turns[self._step :])
        return later and (bool(turn.end) or self._asked < self.heard < self._asked + turn.size)

    def hear(self, data: bytes) -> int:
        """Take what the client says; return the first offset that is another, -1 if none is."""
        recorded = _read(self.flow.outgoing, self.heard, len(data))
        if recorded != data:
            masks = self._masks
            one, other = (blanked(each, self.heard, masks) for each in (recorded, data))
            at = first_difference(one, other)
            if at < len(data):
                return self.heard + at
        self._remember(data)
        self.heard += len(data)
        return -1

    def hear_datagram(self, data: bytes) -> int:
        """Take a datagram; return the first offset that is another, -1 if none is."""
        turn = self.turn
        if turn is None:
            return self.heard
        recorded = _read(self.flow.outgoing, self.heard, turn.size)
        one, other = (blanked(each, self.heard, self._masks) for each in (recorded, data))
        if one != other:
            return self.heard + first_difference(one, other)
        self._remember(data)
        self.heard += len(data)
        return -1

    def due(self) -> Speech:
        """Return what follows what was heard so far."""
        speech = Speech()
        while (turn := self.turn) is not None:
            if not turn.sent:
                self._say(turn, speech)
                continue
            if not (self.ended if turn.end else self.heard >= self._asked + turn.size):
                break
            self._asked += turn.size
            self._step += 1
        return speech

    def due_datagrams(self) -> Speech:
        """Return what followed the datagram that was just heard, before the next."""
        self._step += 1
        speech = Speech()
        while (turn := self.turn) is not None and not turn.sent:
            self._say(turn, speech)
        return speech

    def _say(self, turn: Turn, speech: Speech) -> None:
        self._step += 1
        if turn.end:
            speech.end = turn.end
        else:
            speech.pieces.append(partial(self._incoming, self._said, turn.size))
            self._said += turn.size

    def expected(self, offset: int, size: int) -> bytes:
        return _read(self.flow.outgoing, offset, size)

    def _remember(self, data: bytes) -> None:
        """Keep what the server says again."""
        for _, place, length in self.flow.echoes:
            left, right = max(place, self.heard), min(place + length, self.heard + len(data))
            if left < right:
                known = self._live.get(place, b"")
                self._live[place] = known + data[left - self.heard : right - self.heard]

    def _incoming(self, start: int, size: int) -> Iterator[bytes]:
        for at in range(start, start + size, _PIECE):
            piece = bytearray(_read(self.flow.incoming, at, min(_PIECE, start + size - at)))
            for place, source, length in self.flow.echoes:
                live = self._live.get(source, b"")
                left, right = max(place, at), min(place + length, at + len(piece))
                if len(live) == length and left < right:
                    piece[left - at : right - at] = live[left - place : right - place]
            yield bytes(piece)


def _read(body: Body, start: int, size: int) -> bytes:
    if not body.path:
        return body.data[start : start + size]
    descriptor = os.open(body.path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)
