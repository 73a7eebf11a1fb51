"""What goes out on an HTTP/2 connection: streams' data in turns, as far as windows let it.

1. What was not delivered is not granted: the peer gets window back for a body when its bytes have
   left on the channel's `partner`, the other side's half of the same exchange. So a slow reader
   slows the writer down, and a stream holds at most `STREAM_WINDOW` bytes here.
2. What a channel sends keeps its order: data waits for window, trailers and resets wait behind it.
3. Channels that wait for window take turns, a frame each. Bodies that are read from a recording
   are sent by `pump` only, so that whoever calls it stops when the socket is full.
4. A client's channel beyond what the server allows at a time waits for its number.

tests/engine/layers/test_http2.py and test_http2_split.py prove them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import hpack

from pytest_netcapture.engine.layers import http2_frames as wire
from pytest_netcapture.engine.layers.http2_channel import (
    STREAM_WINDOW,
    Channel,
    Fields,
    Reset,
    close_pieces,
)
from pytest_netcapture.engine.layers.http2_frames import Code, ConnectionFailure, Setting

CONNECTION_WINDOW = 1 << 24
STREAMS = 128
"""How many streams a client may have open at a time."""
HEADERS_LIMIT = 1 << 18
_UNREAD_LIMIT = 10_000
"""Answers that a peer may cause (to PING, SETTINGS, errors) while it reads none (§10.5)."""
_REMEMBERED = 1000
_PORTION = 1 << 17


class Sender:
    """The sending half of a connection; `client` says that we are its client."""

    version = "2"
    step = 2
    """Between the numbers of a client's streams."""

    def __init__(self, *, client: bool) -> None:
        self._client = client
        self._encoder = hpack.Encoder()
        self._out: list[bytes] = []
        self._unread = 0
        self._frame_limit = wire.FRAME_LIMIT
        self.initial_room = wire.DEFAULT_WINDOW
        self._room = wire.DEFAULT_WINDOW
        self._blocked: dict[Channel, None] = {}
        # What the peer may send us, and what of it was delivered and not told yet.
        self._grantable = CONNECTION_WINDOW
        self._owed = 0
        self._owing: set[Channel] = set()
        self.channels: dict[int, Channel] = {}
        self._waiting: deque[Channel] = deque()
        self._next = 1
        self._streams = 1 << 31
        self._highest = 0
        self._forgotten: dict[int, None] = {}
        self.settings: dict[int, int] | None = None
        """What the peer has set; None until it has."""
        self.pauses: list[Channel] = []
        """Channels whose recorded body goes on later: whoever takes them calls `resume` then."""
        self.last_allowed: int | None = None
        """The last stream that is looked at, once the server, or we as one, said goodbye."""

    def receive(self, data: bytes) -> None:
        """Take what has come from the peer. Raises `ConnectionFailure`."""
        raise NotImplementedError

    def greet(self, *, connect_protocol: bool = False) -> None:
        """Send our settings, before everything else."""
        values: dict[int, int] = {
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            Setting.MAX_HEADER_LIST_SIZE: HEADERS_LIMIT,
        }
        if self._client:
            values[Setting.ENABLE_PUSH] = 0
        else:
            values[Setting.MAX_CONCURRENT_STREAMS] = STREAMS
        if connect_protocol:
            values[Setting.ENABLE_CONNECT_PROTOCOL] = 1
        more = wire.word(CONNECTION_WINDOW - wire.DEFAULT_WINDOW)
        first = wire.settings_frame(values) + wire.frame(wire.WINDOW_UPDATE, 0, 0, more)
        self._out.insert(0, wire.PREFACE + first if self._client else first)

    def take(self) -> bytes:
        """Return what is to be written now."""
        if self._owing or self._owed >= CONNECTION_WINDOW // 4:
            self._send_grants()
        out = self._out
        if not out:
            return b""
        self._out = []
        return out[0] if len(out) == 1 else b"".join(out)

    def was_read(self) -> None:
        """Take note that the peer reads what we write."""
        self._unread = 0

    def open(self, owner: Any) -> Channel:
        """Begin a stream as the client; it has its number now, or when the server lets us."""
        channel = Channel(self, 0, owner)
        self._waiting.append(channel)
        self._let_in()
        return channel

    def send_headers(self, channel: Channel, fields: Fields, *, end: bool = False) -> None:
        """Send a header section; as trailers it waits for the data before it."""
        if channel.ended_out:
            return
        channel.finishing |= end
        if channel.waits:
            channel.queue.append(fields)
        elif channel.id:
            self._write_headers(channel, fields, end)
        else:
            channel.opening = fields

    def send_data(self, channel: Channel, data: bytes, *, end: bool = False) -> None:
        """Send a piece of a body; `end`, with or without data, ends the stream."""
        size = len(data)
        if channel.ended_out or not (size or end):
            return
        channel.finishing |= end
        if channel.waits or not channel.id:
            channel.queue.append(data)
        elif size <= channel.room and size <= self._room and size <= self._frame_limit:
            self._write_data(channel, data, end)
        else:
            channel.queue.append(data)
            self._drain(channel)

    def send_body(self, channel: Channel, pieces: Iterator[bytes]) -> None:
        """Send a whole body, piece by piece as there is room for it; `pump` does it."""
        if channel.ended_out:
            close_pieces(pieces)
            return
        channel.source = pieces
        if channel.id:
            self._blocked[channel] = None

    def end(self, channel: Channel) -> None:
        """End a stream behind what waits on it."""
        channel.finishing = True
        if not channel.waits:
            self.send_data(channel, b"", end=True)

    def reset(self, channel: Channel, code: int) -> None:
        """Reset a stream at once, whatever waits on it."""
        if self.channels.pop(channel.id, None) is not None:
            self._out.append(wire.frame(wire.RST_STREAM, 0, channel.id, wire.word(code)))
            self._remember(channel.id)
        self._over(channel)
        self._let_in()

    def reset_behind(self, channel: Channel, code: int) -> None:
        """Reset a stream once what waits on it is sent."""
        if channel.waits:
            channel.queue.append(Reset(code))
        else:
            self.reset(channel, code)

    def grant(self, channel: Channel, size: int) -> None:
        """Let the peer send `size` more bytes: as many were delivered."""
        self._owed += size
        if not channel.ended_in:
            channel.owed += size
            if channel.owed >= STREAM_WINDOW // 4:
                self._owing.add(channel)

    def go_away(self, code: int, debug: bytes = b"", last: int | None = None) -> None:
        """Say that streams after `last`, by default the newest, are not looked at."""
        last = self._highest if last is None else last
        self._out.append(wire.goaway_frame(last, code, debug))
        if not self._client:
            self.last_allowed = last

    @property
    def pumping(self) -> bool:
        """Tell whether `pump` would send anything."""
        return self._room > 0 and any(c.room > 0 for c in self._blocked)

    @property
    def busy(self) -> bool:
        """Tell whether anything waits to be sent."""
        return any(channel.waits for channel in self.channels.values())

    def pump(self) -> None:
        """Send about `_PORTION` bytes of the channels that wait, in turns."""
        end = self._room - _PORTION
        while self._room > end and self.pumping:
            for channel in [c for c in self._blocked if c.room > 0]:
                if self._room > 0 and channel in self._blocked:
                    del self._blocked[channel]
                    if self._one(channel):
                        self._blocked[channel] = None

    def resume(self, channel: Channel) -> None:
        """Let a channel that rested go on."""
        channel.resting = False
        if not channel.ended_out:
            self._blocked[channel] = None

    # Inside

    def _let_in(self) -> None:
        """Give numbers to the channels that wait for them, as many as may be open."""
        while self._waiting and self.settings is not None and self.last_allowed is None:
            if len(self.channels) >= self._streams:
                return
            channel = self._waiting.popleft()
            if channel.ended_out:
                continue
            channel.id, self._next = self._next, self._next + self.step
            channel.room = self.initial_room
            self.channels[channel.id] = channel
            self._drain(channel)

    def _drain(self, channel: Channel) -> None:
        """Send what there is of a channel, but of a source one frame only."""
        while channel.waits and not (channel.ended_out or channel.resting):
            more = self._one(channel)
            if more and (channel.source is not None or channel.room <= 0 or self._room <= 0):
                self._blocked[channel] = None
                return

    def _one(self, channel: Channel) -> bool:
        """Send the next thing of a channel; tell whether more of it waits."""
        if channel.opening is not None:
            fields, channel.opening = channel.opening, None
            self._write_headers(channel, fields, channel.finishing and not channel.waits)
            return channel.waits
        if channel.source is not None:
            if not channel.rest and not channel.pause:
                channel.refill()
            if channel.rest:
                return self._some_of_source(channel)
            if channel.pause:
                channel.resting = True
                self.pauses.append(channel)
                return False
            if not channel.queue:
                if channel.finishing:
                    self._write_data(channel, b"", True)
                return False
        if not channel.queue:
            return False
        first = channel.queue[0]
        if isinstance(first, bytes):
            return self._some_of_queue(channel, first)
        channel.queue.popleft()
        if isinstance(first, Reset):
            self.reset(channel, first.code)
            return False
        self._write_headers(channel, first, channel.finishing and not channel.waits)
        return channel.waits

    def _some_of_source(self, channel: Channel) -> bool:
        size = min(len(channel.rest), channel.room, self._room, self._frame_limit)
        if size > 0:
            data, channel.rest = channel.rest[:size], channel.rest[size:]
            if not channel.rest:
                channel.refill()
            self._write_data(channel, data, channel.finishing and not channel.waits)
        return channel.waits

    def _some_of_queue(self, channel: Channel, first: bytes) -> bool:
        size = min(len(first), channel.room, self._room, self._frame_limit)
        if size <= 0 and first:
            return True
        if size == len(first):
            channel.queue.popleft()
        else:
            channel.queue[0] = first[size:]
            first = first[:size]
        self._write_data(channel, first, channel.finishing and not channel.waits)
        return channel.waits

    def _write_headers(self, channel: Channel, fields: Fields, end: bool) -> None:
        block = self._encoder.encode(fields)
        limit = self._frame_limit
        self._out.append(wire.header_block(channel.id, block, end=end, limit=limit))
        if end:
            self._ended_out(channel)

    def _write_data(self, channel: Channel, data: bytes, end: bool) -> None:
        size = len(data)
        channel.room -= size
        self._room -= size
        self._out.append(wire.frame(wire.DATA, wire.END_STREAM if end else 0, channel.id, data))
        partner = channel.partner
        if partner is not None:
            partner.peer.grant(partner, size)
        if end:
            self._ended_out(channel)

    def _ended_out(self, channel: Channel) -> None:
        channel.ended_out = True
        self._blocked.pop(channel, None)
        if channel.ended_in:
            self._closed(channel)

    def _closed(self, channel: Channel) -> None:
        self.channels.pop(channel.id, None)
        self._owing.discard(channel)
        self._let_in()

    def _over(self, channel: Channel) -> None:
        """Drop what waits on a channel; its sender may send as much of something else."""
        channel.ended_in = channel.ended_out = True
        if channel.source is not None:
            close_pieces(channel.source)
            channel.source = None
        size = sum(len(item) for item in channel.queue if isinstance(item, bytes))
        channel.queue.clear()
        channel.opening = None
        self._blocked.pop(channel, None)
        self._owing.discard(channel)
        if size and channel.partner is not None:
            channel.partner.peer.grant(channel.partner, size)

    def _unblock(self) -> None:
        """Send what waited for window, in turns; what comes from a source waits for `pump`."""
        moved = True
        while moved and self._room > 0:
            moved = False
            for channel in [c for c in self._blocked if c.source is None and c.room > 0]:
                before = self._room
                del self._blocked[channel]
                if self._one(channel):
                    self._blocked[channel] = None
                moved |= self._room < before

    def _answer(self, data: bytes) -> None:
        """Send what the peer made us send; one that makes us and does not read is cut off."""
        self._unread += 1
        if self._unread > _UNREAD_LIMIT:
            raise ConnectionFailure(Code.ENHANCE_YOUR_CALM, "too many frames to answer")
        self._out.append(data)

    def _remember(self, number: int) -> None:
        """Know for a while that we reset this stream: frames that were on their way may come."""
        self._forgotten[number] = None
        if len(self._forgotten) > _REMEMBERED:
            del self._forgotten[next(iter(self._forgotten))]

    def _send_grants(self) -> None:
        for channel in self._owing:
            owed = wire.word(channel.owed)
            self._out.append(wire.frame(wire.WINDOW_UPDATE, 0, channel.id, owed))
            channel.grantable += channel.owed
            channel.owed = 0
        self._owing.clear()
        if self._owed:
            self._out.append(wire.frame(wire.WINDOW_UPDATE, 0, 0, wire.word(self._owed)))
            self._grantable += self._owed
            self._owed = 0
