"""The pieces in which a recorded body is sent: where it was cut, coded again, at its own pace.

1. Its pace (`--netcapture-replay-speed=recorded`) is kept in steps of 100 ms (`Body.gaps`), so
   shorter waits are played as none.
2. A `Pause` among the pieces says how long to wait before the next. To who cannot wait it is an
   empty piece. Layers do not wait: the way out does (outlet.py), or a stream's turn
   (http2_sender.py).

Tests: tests/engine/layers/test_played_body.py, tests/engine/test_replay_speed.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat

from pytest_netcapture.engine.codings import encode
from pytest_netcapture.flows import Body

STEP = 0.1
"""Seconds."""
NANOSECONDS = 100_000_000


class Pause(bytes):
    """No bytes for a while."""

    seconds = 0.0


def pause(steps: int) -> Pause:
    made = Pause()
    made.seconds = steps * STEP
    return made


def coded(body: Body, pieces: Iterator[bytes] | None = None) -> Iterator[bytes]:
    """Yield a body, or the `pieces` that it is cut into, with its content coding."""
    pieces = body.pieces() if pieces is None else pieces
    return encode(pieces, body.coding) if body.coding else pieces


def recorded_chunks(body: Body) -> Iterator[bytes]:
    """Cut the body where it was cut; what the sizes do not cover is a last chunk."""
    held = b""
    source = body.pieces()
    for size in body.chunks:
        parts = [held]
        have = len(held)
        while have < size and (piece := next(source, b"")):
            parts.append(piece)
            have += len(piece)
        joined = b"".join(parts)
        yield joined[:size]
        held = joined[size:]
    yield held
    yield from source


def paced(body: Body) -> Iterator[bytes]:
    """Yield a body's chunks, coded, with a pause before each that had to be waited for."""
    steps = [0]

    def chunks() -> Iterator[bytes]:
        for wait, chunk in zip(chain(body.gaps, repeat(0)), recorded_chunks(body), strict=False):
            steps[0] += wait
            yield chunk

    for piece in coded(body, chunks()):
        wait, steps[0] = steps[0], 0
        if wait:
            yield pause(wait)
        if piece:
            yield piece
