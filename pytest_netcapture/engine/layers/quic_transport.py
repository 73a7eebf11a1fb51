"""One QUIC connection, sans-IO: aioquic's, windows following what is delivered (RFC 9000 §4).

1. aioquic doubles a stream's window as data comes in, whoever waits for it. Here a stream may have
   `STREAM_WINDOW` bytes that were received and not delivered; so a slow reader slows its writer.
2. What must reach into aioquic is here: windows, what is unacknowledged, and how a connection
   ends, which its own events tell only when the draining period is over.
3. `now` is in seconds of any one clock.

tests/engine/layers/test_http3.py proves them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pytest_netcapture.engine.layers.http2_channel import STREAM_WINDOW
from pytest_netcapture.engine.layers.quic_hello import CONNECTION_ID

IDLE_TIMEOUT = 55.0
"""Seconds; less than a redirector remembers a flow (redirect/datagrams.py, IDLE)."""
_ANYWHERE = ("", 0)
"""Addresses are the sockets' business."""
_CRYPTO_ERROR = 0x100
_FRAME_CAPACITY = 17
_LOGGERS = ("quic", "http3")
_QUIET = (QuicErrorCode.NO_ERROR, ErrorCode.H3_NO_ERROR)

for _logger in _LOGGERS:  # what a peer does wrong is a flow's to say, not the engine's log
    logging.getLogger(_logger).setLevel(logging.CRITICAL)


class Transport(QuicConnection):
    """A QUIC connection whose streams' windows are moved by `delivered`."""

    def __init__(self, configuration: QuicConfiguration, connection_id: bytes = b"") -> None:
        """Begin one; as a server, to the client that chose `connection_id`."""
        self._held: dict[int, int] = {}
        self.established = False
        client = configuration.is_client
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=None if client else connection_id,
        )
        self.h3: H3Connection | None = None
        self._issued = {self.host_cid}
        self.issued: Callable[[bytes], object] = lambda _: None
        """Is told of each further connection ID of ours before the peer can use it."""

    def refuse(self, reason: str) -> None:
        """End what has not begun, as a server that will not have it (RFC 9000 §20.1)."""
        code, transport_error = QuicErrorCode.CONNECTION_REFUSED, QuicFrameType.PADDING
        self.close(error_code=code, frame_type=transport_error, reason_phrase=reason)

    def start(self, now: float) -> None:
        """Shake hands, as the client."""
        self.connect(_ANYWHERE, now)

    def receive(self, data: bytes, now: float) -> None:
        self.receive_datagram(data, _ANYWHERE, now)

    def to_send(self, now: float) -> list[bytes]:
        """Return the datagrams that are due."""
        if not self._network_paths:
            return []
        due = [data for data, _ in self.datagrams_to_send(now)]
        for one in self._host_cids:
            if one.cid not in self._issued:
                self._issued.add(one.cid)
                self.issued(one.cid)
        return due

    def taken(self) -> Iterator[QuicEvent]:
        """Yield what happened; from the end of the handshake on there is HTTP/3."""
        while (event := self.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                self.established = True
                self.h3 = H3Connection(self)
            yield event

    @property
    def end(self) -> ConnectionTerminated | None:
        """Return how the connection ended, as soon as it is known, from either side."""
        return self._close_event

    @property
    def ended_quietly(self) -> bool:
        """Tell whether it ended without an error, or because nothing happened on it."""
        end = self._close_event
        return end is not None and (end.error_code in _QUIET or end.reason_phrase == "Idle timeout")

    @property
    def alert(self) -> int | None:
        """Return the TLS alert with which the connection ended (RFC 9001 §4.8)."""
        code = self._close_event.error_code if self._close_event else 0
        if self.established or not _CRYPTO_ERROR <= code < 2 * _CRYPTO_ERROR:
            return None
        return code - _CRYPTO_ERROR

    def certificate(self) -> x509.Certificate | None:
        """Return the server's certificate."""
        return self.tls._peer_certificate

    @property
    def settled(self) -> bool:
        """Tell whether all that was written has arrived, or never will."""
        senders = [stream.sender for stream in self._streams.values()]
        return all(s._buffer_start == s._buffer_stop or s._reset_error_code for s in senders)

    def unacknowledged(self, stream_id: int) -> int:
        """Return how many bytes of a stream are written and not known to have arrived."""
        stream = self._streams.get(stream_id)
        return stream.sender._buffer_stop - stream.sender._buffer_start if stream else 0

    def hold(self, stream_id: int, size: int) -> None:
        """Take note that `size` bytes have come which nobody has yet."""
        self._held[stream_id] = self._held.get(stream_id, 0) + size

    def release(self, stream_id: int) -> None:
        """Take note that no more will come on a stream."""
        self._held.pop(stream_id, None)

    def delivered(self, stream_id: int, size: int) -> None:
        """Take note that `size` bytes which were held have reached who they are for."""
        left = self._held.get(stream_id, 0) - size
        if left > 0:
            self._held[stream_id] = left
        else:
            self._held.pop(stream_id, None)

    def abandon(self, stream_id: int, code: int) -> None:
        """End both directions of a stream."""
        self.release(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if not stream.sender.is_finished:
            self.reset_stream(stream_id, code)
        if not stream.receiver.is_finished:
            self.stop_stream(stream_id, code)

    def _write_stream_limits(self, builder: Any, space: Any, stream: Any) -> None:
        """Replace aioquic's: grant what is delivered, half a window at a time."""
        del space
        limit = stream.receiver.starting_offset() + STREAM_WINDOW
        limit -= self._held.get(stream.stream_id, 0)
        if stream.max_stream_data_local and limit - stream.max_stream_data_local >= (
            STREAM_WINDOW // 2
        ):
            stream.max_stream_data_local = limit
        if stream.max_stream_data_local_sent == stream.max_stream_data_local:
            return
        buffer = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        buffer.push_uint_var(stream.stream_id)
        buffer.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local


def as_server(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> QuicConfiguration:
    """Return what a server of ours does, which shows `certificate`."""
    return QuicConfiguration(
        is_client=False,
        alpn_protocols=H3_ALPN,
        certificate=certificate,
        private_key=key,
        connection_id_length=CONNECTION_ID,
        idle_timeout=IDLE_TIMEOUT,
        max_data=16 * STREAM_WINDOW,
        max_stream_data=STREAM_WINDOW,
    )


def as_client(name: str, roots: str) -> QuicConfiguration:
    """Return what a client of ours does: verify with `roots`, a PEM file, who the server is."""
    return QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        server_name=name,
        cafile=roots,
        idle_timeout=IDLE_TIMEOUT,
        max_data=16 * STREAM_WINDOW,
        max_stream_data=STREAM_WINDOW,
    )
