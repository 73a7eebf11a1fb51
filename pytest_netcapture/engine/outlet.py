"""One way out of a connection: what is to be written, in order, as fast as the other side reads.

1. Before there is a transport, and behind a stream that is being written, writes wait in order.
2. A stream's pieces are taken one by one while the transport is not full, so a large body is never
   in memory whole.
3. A `Pause` among a stream's pieces holds the queue back for as long. A slow way out (`pace`) rests
   after each portion, less if it woke up late from the last rest, so that a busy machine does not
   make it slower than asked.
4. `then` runs a function when everything before it has been handed to the transport.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from pytest_netcapture.engine.layers.played_body import Pause

_PORTIONS = 20
"""How many times a second a slow way out takes something."""
_SHORTEST = 0.002
"""Seconds; what is shorter is rested together with the next."""
_CATCH_UP = 0.25
"""Seconds of lateness that are made up for; more is no late timer, but a slow reader."""


class Clock(Protocol):
    """What a slow way out needs of an event loop."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], None], /) -> object: ...


class Outlet:
    """A queue before a transport."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.full = False
        self.waiting = 0
        """Bytes that wait for a transport, streams not counted."""
        self._queue: deque[Iterator[bytes] | Callable[[], None]] = deque()
        self._paused = False
        self._clock: Clock | None = None
        self._rate = 0
        self._due = 0.0
        self._behind = 0.0

    def pace(self, rate: int, clock: Clock | None) -> None:
        """Write at most `rate` bytes a second from now on, 0 for as many as there are."""
        self._rate, self._clock = rate, clock

    @property
    def slow(self) -> bool:
        return self._rate > 0

    def __bool__(self) -> bool:
        """Tell whether anything waits."""
        return bool(self._queue)

    def attach(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.full = False
        self.pump()

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self._queue and not self._rate:
            if not self.transport.is_closing():  # else nobody is there to read it
                self.transport.write(data)
        else:
            self.waiting += len(data)
            self._queue.append(iter((data,)))
            if self._rate:
                self.pump()

    def stream(self, pieces: Iterable[bytes]) -> None:
        self._queue.append(iter(pieces))
        self.pump()

    def then(self, function: Callable[[], None]) -> None:
        self._queue.append(function)
        self.pump()

    def set_full(self, full: bool) -> None:
        self.full = full
        if not full:
            self.pump()

    def pump(self) -> None:
        """Write what waits until the transport is full."""
        while self._queue and self.transport is not None and not (self.full or self._paused):
            first = self._queue[0]
            if callable(first):
                self._queue.popleft()
                if not self._queue:
                    self.waiting = 0  # which whoever is told may look at
                first()
                continue
            piece = next(first, None)
            if piece is None:
                self._queue.popleft()
            elif self.transport.is_closing():
                self.clear()
            elif isinstance(piece, Pause):
                self._paused = True
                asyncio.get_running_loop().call_later(piece.seconds, self._go_on)
            else:
                self.transport.write(self._portion(piece) if self._rate else piece)
        if not self._queue:
            self.waiting = 0
            self._behind = 0  # idle: what comes next is not late

    def take(self) -> bytes:
        """Take the bytes that wait for a transport, up to where there is something else to do."""
        taken = []
        while self._queue and not callable(first := self._queue[0]):
            taken += list(first)
            self._queue.popleft()
        data = b"".join(taken)
        self.waiting = max(self.waiting - len(data), 0)
        return data

    def _portion(self, piece: bytes) -> bytes:
        """Return what may go out now; the rest of a piece is the next one."""
        size = max(1, self._rate // _PORTIONS)
        if len(piece) > size:
            self._queue.appendleft(iter((piece[size:],)))
        self._rest(min(size, len(piece)))
        return piece[:size]

    def _rest(self, size: int) -> None:
        assert self._clock is not None
        now = self._clock.time()
        self._due = max(self._due, now - self._behind) + size / self._rate
        if self._due - now > _SHORTEST:
            self._paused = True
            self._clock.call_later(self._due - now, self._go_on)

    def _go_on(self) -> None:
        self._paused = False
        if self._clock is not None and self._rate:
            self._behind = min(max(self._clock.time() - self._due, 0), _CATCH_UP)
        self.pump()

    def clear(self) -> None:
        for waiting in self._queue:
            close = getattr(waiting, "close", None)
            if close is not None:
                close()  # a stream's generator may hold a file
        self._queue.clear()
        self.waiting = 0
