"""One HTTP/2 stream as one of its connections sees it: what is to be sent, how much may be."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_netcapture.engine.layers.played_body import Pause

if TYPE_CHECKING:
    from pytest_netcapture.engine.layers.http2_sender import Sender

Fields: TypeAlias = list[tuple[bytes, bytes]]

STREAM_WINDOW = 1 << 20


class Reset:
    """The last thing that a channel sends: RST_STREAM."""

    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        self.code = code


class Channel:
    """One stream on one connection; `owner` is the exchange, `partner` its other side.

    `queue` is what is to be sent: data, trailers, a reset; `opening`, the first header section of a
    stream without a number, goes before it, and so does what `source` yields, `rest` first. While
    it is `resting`, for `pause` seconds, its source is left alone.
    `finishing` says that no more will be queued: the last of it ends the stream.
    """

    __slots__ = (
        "ended_in",
        "ended_out",
        "finishing",
        "grantable",
        "id",
        "opening",
        "owed",
        "owner",
        "partner",
        "pause",
        "peer",
        "queue",
        "rest",
        "resting",
        "room",
        "source",
    )

    def __init__(self, peer: Sender, number: int, owner: Any) -> None:
        self.peer = peer
        self.id = number
        self.owner = owner
        self.partner: Channel | None = None
        self.room = peer.initial_room
        self.grantable = STREAM_WINDOW
        self.owed = 0
        self.ended_in = self.ended_out = self.finishing = False
        self.opening: Fields | None = None
        self.queue: deque[bytes | Fields | Reset] = deque()
        self.source: Iterator[bytes] | None = None
        self.rest = b""
        self.pause = 0.0
        self.resting = False

    @property
    def waits(self) -> bool:
        """Tell whether anything is to be sent."""
        return bool(self.queue) or self.source is not None or self.opening is not None

    def refill(self) -> None:
        """Take the next piece of the source into `rest`; at its end there is no source."""
        assert self.source is not None
        for piece in self.source:
            if isinstance(piece, Pause):
                self.pause += piece.seconds
                return
            if piece:
                self.rest = piece
                return
        self.source = None


def close_pieces(pieces: Iterator[bytes]) -> None:
    """End a generator that nobody will read: it may hold a file."""
    close = getattr(pieces, "close", None)
    if close is not None:
        close()
