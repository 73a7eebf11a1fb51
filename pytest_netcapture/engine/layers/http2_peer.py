"""One side of an HTTP/2 connection: what comes in is checked, and told (RFC 9113).

1. No effects but bytes in `take`; what came in is told to a `Handler`, in the order of the wire.
2. PRIORITY means nothing, PING and SETTINGS are answered here, pushes are refused.
3. An error of one stream resets that stream; another raises `ConnectionFailure`.
4. Frames for a stream that we have reset may be on their way, and are ignored.
5. Header blocks are decoded whatever comes of their stream: their table is the connection's.

tests/engine/layers/test_http2.py and test_http2_split.py prove them.
"""

from __future__ import annotations

from typing import Protocol

import hpack

from pytest_netcapture.engine.layers import http2_frames as wire
from pytest_netcapture.engine.layers.http2_channel import Channel, Fields
from pytest_netcapture.engine.layers.http2_frames import (
    Code,
    ConnectionFailure,
    Frame,
    Setting,
    StreamFailure,
)
from pytest_netcapture.engine.layers.http2_sender import HEADERS_LIMIT, STREAMS, Sender

_TABLE = 4096
_PARTS_LIMIT = 256
"""CONTINUATION frames that one header block may have."""


class Handler(Protocol):
    """Who is told what a peer sent."""

    def opened(self, channel: Channel, fields: Fields, end: bool) -> None: ...

    def headers(self, channel: Channel, fields: Fields, end: bool) -> None: ...

    def data(self, channel: Channel, data: bytes, end: bool) -> None: ...

    def was_reset(self, channel: Channel, code: int, reason: str) -> None:
        """Take note that the peer, or with a `reason` an error of its, ended a stream."""

    def went_away(self, last: int, code: int, debug: bytes) -> None: ...

    def settled(self) -> None:
        """Take note that the peer's settings have come."""


class Peer(Sender):
    """A connection; `client` says that we are its client."""

    def __init__(self, handler: Handler, *, client: bool) -> None:
        super().__init__(client=client)
        self._handler = handler
        self._frames = wire.FrameReader()
        self._preface = b"" if client else wire.PREFACE
        self._decoder = hpack.Decoder(HEADERS_LIMIT)
        self._block: tuple[int, int, list[bytes]] | None = None

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer. Raises `ConnectionFailure`."""
        if self._preface:
            data = self._without_preface(data)
        for frame in self._frames.feed(data):
            try:
                self._take(frame)
            except StreamFailure as failure:
                self._fail(failure)

    def _without_preface(self, data: bytes) -> bytes:
        size = min(len(data), len(self._preface))
        if data[:size] != self._preface[:size]:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "no connection preface")
        self._preface = self._preface[size:]
        return data[size:]

    def _take(self, frame: Frame) -> None:
        kind = frame.kind
        if self.settings is None and kind != wire.SETTINGS:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._block is not None and (
            kind != wire.CONTINUATION or frame.stream != self._block[0]
        ):
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "a header block is interrupted")
        take = _TAKE.get(kind)
        if take is not None:
            take(self, frame)

    def _fail(self, failure: StreamFailure) -> None:
        self._answer(wire.frame(wire.RST_STREAM, 0, failure.stream, wire.word(failure.code)))
        self._remember(failure.stream)
        channel = self.channels.pop(failure.stream, None)
        if channel is not None:
            self._over(channel)
            self._handler.was_reset(channel, failure.code, failure.reason)
            self._let_in()

    def _channel(self, frame: Frame) -> Channel | None:
        """Return the channel of a frame; None for one that is over. An idle one is an error."""
        channel = self.channels.get(frame.stream)
        if channel is None:
            if not frame.stream:
                raise ConnectionFailure(Code.PROTOCOL_ERROR, f"frame {frame.kind} on stream 0")
            ours = frame.stream % 2 == 1 and frame.stream < self._next
            if not (ours if self._client else 0 < frame.stream <= self._highest):
                raise ConnectionFailure(
                    Code.PROTOCOL_ERROR, f"frame {frame.kind} on an idle stream"
                )
        return channel

    def _take_data(self, frame: Frame) -> None:
        channel = self._channel(frame)
        self._grantable -= frame.size
        if self._grantable < 0:
            raise ConnectionFailure(Code.FLOW_CONTROL_ERROR, "more data than granted")
        if channel is None:
            self._owed += frame.size
            self._late(frame)
            return
        if channel.ended_in:
            self._owed += frame.size
            raise StreamFailure(frame.stream, Code.STREAM_CLOSED, "data after the end")
        data = frame.payload
        padding = frame.size - len(data)
        channel.grantable -= frame.size
        if channel.grantable < 0:
            self._owed += frame.size
            raise StreamFailure(frame.stream, Code.FLOW_CONTROL_ERROR, "more data than granted")
        end = bool(frame.flags & wire.END_STREAM)
        if end:
            self._ended_in(channel)
        if padding:
            self.grant(channel, padding)
        if data or end:
            self._handler.data(channel, data, end)

    def _ended_in(self, channel: Channel) -> None:
        channel.ended_in = True
        if channel.ended_out:
            self._closed(channel)

    def _late(self, frame: Frame) -> None:
        """Accept a frame for a stream that is over only if the peer may not know that yet."""
        if frame.stream in self._forgotten or self._refused(frame.stream):
            return
        raise ConnectionFailure(Code.STREAM_CLOSED, f"frame {frame.kind} on a closed stream")

    def _refused(self, stream: int) -> bool:
        return not self._client and self.last_allowed is not None and stream > self.last_allowed

    def _take_headers(self, frame: Frame) -> None:
        if not frame.stream:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "HEADERS on stream 0")
        block = frame.payload
        if frame.flags & wire.PRIORITIZED:
            if len(block) < 5:
                raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "HEADERS without its priority")
            if wire.read_word(block) & 0x7FFFFFFF == frame.stream:
                raise ConnectionFailure(Code.PROTOCOL_ERROR, "a stream depends on itself")
            block = block[5:]
        if frame.flags & wire.END_HEADERS:
            self._take_block(frame.stream, frame.flags, block)
        else:
            self._block = (frame.stream, frame.flags, [block])

    def _take_continuation(self, frame: Frame) -> None:
        if self._block is None:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        stream, flags, parts = self._block
        parts.append(frame.payload)
        if sum(map(len, parts)) > HEADERS_LIMIT or len(parts) > _PARTS_LIMIT:
            raise ConnectionFailure(Code.ENHANCE_YOUR_CALM, "header block too large")
        if frame.flags & wire.END_HEADERS:
            self._block = None
            self._take_block(stream, flags, b"".join(parts))

    def _decode(self, block: bytes) -> Fields:
        try:
            return list(self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError as error:
            raise ConnectionFailure(Code.ENHANCE_YOUR_CALM, str(error)) from error
        except (hpack.HPACKError, ValueError, IndexError) as error:
            raise ConnectionFailure(Code.COMPRESSION_ERROR, str(error)) from error

    def _take_block(self, stream: int, flags: int, block: bytes) -> None:
        fields = self._decode(block)
        end = bool(flags & wire.END_STREAM)
        channel = self.channels.get(stream)
        if channel is None:
            self._take_new(stream, fields, end)
            return
        if channel.ended_in:
            raise StreamFailure(stream, Code.STREAM_CLOSED, "headers after the end")
        if end:
            self._ended_in(channel)
        elif not self._client:
            raise StreamFailure(stream, Code.PROTOCOL_ERROR, "trailers that do not end the stream")
        self._handler.headers(channel, fields, end)

    def _take_new(self, stream: int, fields: Fields, end: bool) -> None:
        frame = Frame(wire.HEADERS, 0, stream, b"", 0)
        if self._client:
            self._channel(frame)
            self._late(frame)
            return
        if stream % 2 == 0:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "a client's stream with an even number")
        if self._refused(stream):
            return
        if stream <= self._highest:
            self._late(frame)
            return
        self._highest = stream
        if len(self.channels) >= STREAMS:
            raise StreamFailure(stream, Code.REFUSED_STREAM, "too many streams")
        channel = self.channels[stream] = Channel(self, stream, None)
        channel.ended_in = end
        self._handler.opened(channel, fields, end)

    def _take_priority(self, frame: Frame) -> None:
        if not frame.stream:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(frame.payload) != 5:
            raise StreamFailure(frame.stream, Code.FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
        if wire.read_word(frame.payload) & 0x7FFFFFFF == frame.stream:
            raise StreamFailure(frame.stream, Code.PROTOCOL_ERROR, "depends on itself")

    def _take_reset(self, frame: Frame) -> None:
        if len(frame.payload) != 4:
            raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        channel = self._channel(frame)
        if channel is None:
            return
        self.channels.pop(channel.id, None)
        self._over(channel)
        code = wire.read_word(frame.payload)
        self._handler.was_reset(channel, code, "")
        self._let_in()

    def _take_settings(self, frame: Frame) -> None:
        if frame.stream:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if frame.flags & wire.ACK:
            if frame.payload:
                raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            return
        if frame.size % 6:
            raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        first = self.settings is None
        settings = self.settings = self.settings or {}
        for number, value in wire.read_settings(frame.payload):
            self._set(number, value)
            settings[number] = value
        self._answer(wire.frame(wire.SETTINGS, wire.ACK, 0))
        if first:
            self._handler.settled()
        self._let_in()
        self._unblock()

    def _set(self, number: int, value: int) -> None:
        if number == Setting.INITIAL_WINDOW_SIZE:
            if value > wire.LARGEST_WINDOW:
                raise ConnectionFailure(Code.FLOW_CONTROL_ERROR, "initial window too large")
            change, self.initial_room = value - self.initial_room, value
            for channel in self.channels.values():
                channel.room += change
                if channel.room > wire.LARGEST_WINDOW:
                    raise ConnectionFailure(Code.FLOW_CONTROL_ERROR, "window too large")
        elif number == Setting.MAX_FRAME_SIZE:
            if not wire.FRAME_LIMIT <= value < 1 << 24:
                raise ConnectionFailure(Code.PROTOCOL_ERROR, f"frame size {value}")
            self._frame_limit = value
        elif number == Setting.HEADER_TABLE_SIZE:
            self._encoder.header_table_size = min(value, _TABLE)
        elif number == Setting.MAX_CONCURRENT_STREAMS:
            self._streams = value
        elif number in (Setting.ENABLE_PUSH, Setting.ENABLE_CONNECT_PROTOCOL) and value > 1:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, f"setting {number} is {value}")

    def _take_push(self, frame: Frame) -> None:
        del frame
        raise ConnectionFailure(Code.PROTOCOL_ERROR, "a push, which we refused")

    def _take_ping(self, frame: Frame) -> None:
        if frame.stream:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "PING on a stream")
        if len(frame.payload) != 8:
            raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "PING of a wrong size")
        if not frame.flags & wire.ACK:
            self._answer(wire.frame(wire.PING, wire.ACK, 0, frame.payload))

    def _take_goaway(self, frame: Frame) -> None:
        if frame.stream:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(frame.payload) < 8:
            raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "GOAWAY of a wrong size")
        last = wire.read_word(frame.payload) & 0x7FFFFFFF
        if self._client:
            self.last_allowed = last
        self._handler.went_away(last, wire.read_word(frame.payload, 4), frame.payload[8:])
        if self._client:
            self._refuse_after(last)

    def _refuse_after(self, last: int) -> None:
        """End the streams that the server says it did not look at, and those not begun."""
        unseen = [c for c in self.channels.values() if c.id > last]
        unseen += self._waiting
        self._waiting.clear()
        for channel in unseen:
            self.channels.pop(channel.id, None)
            self._over(channel)
            self._handler.was_reset(channel, Code.REFUSED_STREAM, "the server goes away")

    def _take_window(self, frame: Frame) -> None:
        if len(frame.payload) != 4:
            raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        size = wire.read_word(frame.payload) & 0x7FFFFFFF
        if not frame.stream:
            if not size:
                raise ConnectionFailure(Code.PROTOCOL_ERROR, "a window of nothing")
            self._room += size
            if self._room > wire.LARGEST_WINDOW:
                raise ConnectionFailure(Code.FLOW_CONTROL_ERROR, "window too large")
            self._unblock()
            return
        channel = self._channel(frame)
        if channel is None:
            return
        if not size:
            raise StreamFailure(frame.stream, Code.PROTOCOL_ERROR, "a window of nothing")
        channel.room += size
        if channel.room > wire.LARGEST_WINDOW:
            raise StreamFailure(frame.stream, Code.FLOW_CONTROL_ERROR, "window too large")
        if channel in self._blocked and channel.source is None:
            del self._blocked[channel]
            self._drain(channel)


_TAKE = {
    wire.DATA: Peer._take_data,
    wire.HEADERS: Peer._take_headers,
    wire.PRIORITY: Peer._take_priority,
    wire.RST_STREAM: Peer._take_reset,
    wire.SETTINGS: Peer._take_settings,
    wire.PUSH_PROMISE: Peer._take_push,
    wire.PING: Peer._take_ping,
    wire.GOAWAY: Peer._take_goaway,
    wire.WINDOW_UPDATE: Peer._take_window,
    wire.CONTINUATION: Peer._take_continuation,
}
