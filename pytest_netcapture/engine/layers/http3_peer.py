"""One side of an HTTP/3 connection (RFC 9114): what HTTP/2's `Peer` is, over a QUIC transport.

1. aioquic reads and writes frames, QPACK and QUIC. What a stream sends, in which order, and what
   waits for what is `Sender`'s, whose windows are here the room that a stream has in the
   transport: so much may be written and not acknowledged.
2. A stream's number is QUIC's and one: 0 means that it has none yet.
3. Codes of resets are told as HTTP/2's where there is one that means the same (RFC 9114, A.4), so a
   recording says the same whichever version plays it. Others pass as they are.
4. Trailers are told when their stream ends, which may be later than they come.
5. A reset of one direction ends the stream. Not so STOP_SENDING without an error: a server that has
   answered needs no more of the request (§4.1).

tests/engine/layers/test_http3.py proves them.
"""

from __future__ import annotations

from collections.abc import Callable

from aioquic.h3.connection import ErrorCode, is_interim_response
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.events import QuicEvent, StopSendingReceived, StreamReset

from pytest_netcapture.engine.layers.http2_channel import Channel, Fields
from pytest_netcapture.engine.layers.http2_frames import Code, StreamFailure
from pytest_netcapture.engine.layers.http2_peer import Handler
from pytest_netcapture.engine.layers.http2_sender import Sender
from pytest_netcapture.engine.layers.quic_transport import Transport

_ROOM = 1 << 18
"""Bytes that a stream may have in the transport."""
_FRAME_LIMIT = 1 << 16
_UNLIMITED = 1 << 62

_CODES = {
    Code.NO_ERROR: ErrorCode.H3_NO_ERROR,
    Code.PROTOCOL_ERROR: ErrorCode.H3_MESSAGE_ERROR,
    Code.INTERNAL_ERROR: ErrorCode.H3_INTERNAL_ERROR,
    Code.REFUSED_STREAM: ErrorCode.H3_REQUEST_REJECTED,
    Code.CANCEL: ErrorCode.H3_REQUEST_CANCELLED,
    Code.CONNECT_ERROR: ErrorCode.H3_CONNECT_ERROR,
    Code.ENHANCE_YOUR_CALM: ErrorCode.H3_EXCESSIVE_LOAD,
    Code.HTTP_1_1_REQUIRED: ErrorCode.H3_VERSION_FALLBACK,
}
_FROM_HTTP3 = {int(theirs): int(ours) for ours, theirs in _CODES.items()}
_TO_HTTP3 = {int(ours): int(theirs) for ours, theirs in _CODES.items()}


class Http3Peer(Sender):
    """A connection; `client` says that we are its client. It begins with `attach`."""

    version = "3"
    step = 4

    def __init__(self, handler: Handler, now: Callable[[], int], *, client: bool) -> None:
        super().__init__(client=client)
        self._handler = handler
        self._now = now
        self._transport: Transport | None = None
        self.initial_room = _ROOM
        self._room = _UNLIMITED
        self._frame_limit = _FRAME_LIMIT
        # Resets that wait until what was sent before them has arrived.
        self._resets: dict[Channel, int] = {}
        # Whose message has begun, and trailers whose stream has not ended yet.
        self._begun: set[Channel] = set()
        self._trailers: dict[Channel, Fields] = {}

    def attach(self, transport: Transport) -> None:
        """Use a transport; as the client's, its handshake is complete."""
        self._transport = transport
        self.settings = {}
        for event in transport.taken():
            self._happened(transport, event)
        self._let_in()

    # What comes in

    def receive(self, data: bytes) -> None:
        """Take a datagram."""
        transport = self._transport
        if transport is None:
            return
        transport.receive(data, self._now() / 1e9)
        for event in transport.taken():
            self._happened(transport, event)
        self._refresh(transport)

    def _happened(self, transport: Transport, event: QuicEvent) -> None:
        if transport.h3 is None:
            return
        for told in transport.h3.handle_event(event):
            self._told(told)
        if isinstance(event, StreamReset):
            self._stopped(event.stream_id, event.error_code)
        elif isinstance(event, StopSendingReceived):
            if self._client and event.error_code == ErrorCode.H3_NO_ERROR:
                self._enough(event.stream_id)
            else:
                self._stopped(event.stream_id, event.error_code)

    def _refresh(self, transport: Transport) -> None:
        """Take note of what has been acknowledged, and send what waited for that."""
        for channel in self.channels.values():
            channel.room = _ROOM - transport.unacknowledged(channel.id - 1)
        for channel, code in list(self._resets.items()):
            if not channel.waits and channel.room == _ROOM:
                self.reset(channel, code)
        self._unblock()

    def _told(self, event: H3Event) -> None:
        if not isinstance(event, HeadersReceived | DataReceived) or event.push_id is not None:
            return
        number = event.stream_id + 1
        try:
            if isinstance(event, HeadersReceived):
                self._headers(number, event.headers, event.stream_ended)
            else:
                self._data(number, event.data, event.stream_ended)
        except StreamFailure as failure:
            channel = self.channels.get(number)
            if channel is not None:
                self._drop(channel, failure.code)
                self._handler.was_reset(channel, failure.code, failure.reason)

    def _headers(self, number: int, fields: Fields, end: bool) -> None:
        channel = self.channels.get(number)
        if channel is None:
            if not self._client and number not in self._forgotten:
                channel = self.channels[number] = Channel(self, number, None)
                channel.ended_in = end
                self._begun.add(channel)
                self._handler.opened(channel, fields, end)
        elif channel in self._begun and not end:
            self._trailers[channel] = fields
        else:
            if not is_interim_response(fields):
                self._begun.add(channel)
            self._note_end(channel, end)
            self._handler.headers(channel, fields, end)

    def _data(self, number: int, data: bytes, end: bool) -> None:
        channel = self.channels.get(number)
        if channel is None or channel.ended_in or self._transport is None:
            return
        self._transport.hold(number - 1, len(data))
        self._note_end(channel, end)
        trailers = self._trailers.pop(channel, None)
        if trailers is not None:
            self._handler.headers(channel, trailers, end)
        elif data or end:
            self._handler.data(channel, data, end)

    def _note_end(self, channel: Channel, end: bool) -> None:
        if end:
            channel.ended_in = True
            if self._transport is not None:
                self._transport.release(channel.id - 1)
            if channel.ended_out:
                self._closed(channel)

    def _closed(self, channel: Channel) -> None:
        self._begun.discard(channel)
        super()._closed(channel)

    def _stopped(self, stream: int, code: int) -> None:
        channel = self.channels.get(stream + 1)
        if channel is not None:
            code = _FROM_HTTP3.get(code, code)
            self._drop(channel, code)
            self._handler.was_reset(channel, code, "")

    def _enough(self, stream: int) -> None:
        """Send no more of a request; its answer goes on."""
        channel = self.channels.get(stream + 1)
        if channel is not None and not channel.ended_out:
            ended_in = channel.ended_in
            self._over(channel)
            channel.ended_in = ended_in
            if ended_in:
                self._closed(channel)

    def _drop(self, channel: Channel, code: int) -> None:
        """End a stream in both directions, whatever waits on it."""
        self.channels.pop(channel.id, None)
        self._remember(channel.id)
        self._over(channel)
        self._resets.pop(channel, None)
        self._begun.discard(channel)
        self._trailers.pop(channel, None)
        if self._transport is not None and channel.id:
            self._transport.abandon(channel.id - 1, _TO_HTTP3.get(code, code))

    # What goes out: `Sender`'s, on the transport

    def greet(self, *, connect_protocol: bool = False) -> None:
        """Nothing to do: aioquic sends settings when the handshake is complete."""

    def take(self) -> bytes:
        """Grant what is owed; there are no bytes to write, since the transport has them."""
        self._send_grants()
        return b""

    def was_read(self) -> None:
        """Nothing to do: what a peer makes us answer is bounded by QUIC."""

    def reset(self, channel: Channel, code: int) -> None:
        self._drop(channel, code)

    def reset_behind(self, channel: Channel, code: int) -> None:
        """Reset a stream once what was sent on it has arrived: a reset may overtake data."""
        unsent = self._transport is not None and self._transport.unacknowledged(channel.id - 1)
        if channel.id and not channel.ended_out and (channel.waits or unsent):
            self._resets[channel] = code
        else:
            self.reset(channel, code)

    def go_away(self, code: int, debug: bytes = b"", last: int | None = None) -> None:
        """Nothing to do: aioquic neither tells of GOAWAY nor sends it."""

    def _write_headers(self, channel: Channel, fields: Fields, end: bool) -> None:
        if self._transport is not None and self._transport.h3 is not None:
            self._transport.h3.send_headers(channel.id - 1, fields, end)
        if end:
            self._ended_out(channel)

    def _write_data(self, channel: Channel, data: bytes, end: bool) -> None:
        channel.room -= len(data)
        if self._transport is not None and self._transport.h3 is not None:
            self._transport.h3.send_data(channel.id - 1, data, end)
        if channel.partner is not None:
            channel.partner.peer.grant(channel.partner, len(data))
        if end:
            self._ended_out(channel)

    def grant(self, channel: Channel, size: int) -> None:
        """Let the peer send `size` more bytes: as many were delivered."""
        if not channel.ended_in:
            channel.owed += size
            self._owing.add(channel)

    def _send_grants(self) -> None:
        for channel in self._owing:
            if self._transport is not None:
                self._transport.delivered(channel.id - 1, channel.owed)
            channel.owed = 0
        self._owing.clear()
