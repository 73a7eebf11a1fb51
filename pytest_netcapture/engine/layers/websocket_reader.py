"""Read the frames of one direction of a WebSocket (RFC 6455 §5, RFC 7692), with wsproto.

Imported with the first WebSocket: an engine starts sooner without wsproto.
"""

from __future__ import annotations

from collections.abc import Iterator

from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.frame_protocol import (
    CloseReason,
    Frame,
    FrameDecoder,
    FrameProtocol,
    Opcode,
    ParseFailed,
    RsvBits,
)

from pytest_netcapture.flows import WebSocketMessage
from pytest_netcapture.unreadable import LIMIT, Unreadable

_KINDS = {
    Opcode.TEXT: "text",
    Opcode.BINARY: "binary",
    Opcode.PING: "ping",
    Opcode.PONG: "pong",
    Opcode.CLOSE: "close",
}


class Reader:
    """The messages of one direction; `sent` says that it is the client's."""

    def __init__(self, extensions: str, *, sent: bool) -> None:
        self.frames = FrameProtocol(not sent, _deflate(extensions))
        self._sent = sent
        self._parts: list[bytes] = []
        self._kind = ""
        self._left = LIMIT
        self.closed = False

    def feed(self, data: bytes) -> Iterator[WebSocketMessage]:
        """Yield the messages that `data` completes. Raises `Unreadable`."""
        if self.closed:
            return
        self.frames.receive_bytes(data)
        try:
            for frame in self.frames.received_frames():
                message = self._take(frame)
                if message is not None:
                    yield message
        except (ParseFailed, ValueError) as error:
            raise Unreadable(f"not a WebSocket frame: {error}") from error

    def _take(self, frame: Frame) -> WebSocketMessage | None:
        payload = frame.payload
        if isinstance(payload, tuple):
            self.closed = True
            code, reason = payload
            return self._message("close", (reason or "").encode(), int(code))
        data = payload.encode() if isinstance(payload, str) else bytes(payload)
        self._left -= len(data)
        if self._left < 0:
            raise Unreadable(f"more than {LIMIT} bytes of messages")
        if frame.opcode in (Opcode.PING, Opcode.PONG):
            return self._message(_KINDS[frame.opcode], data)
        self._kind = self._kind or _KINDS[frame.opcode]
        self._parts.append(data)
        if not (frame.frame_finished and frame.message_finished):
            return None
        message = self._message(self._kind, b"".join(self._parts))
        self._kind, self._parts = "", []
        return message

    def _message(self, kind: str, data: bytes, code: int = 0) -> WebSocketMessage:
        return WebSocketMessage(sent=self._sent, kind=kind, data=data, code=code)


class _Deflate(PerMessageDeflate):
    """What wsproto has, but for control frames between the fragments of a message.

    It takes the end of such a frame for the end of the message.
    """

    _control = False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        self._control = opcode.iscontrol()
        if self._control:
            return RsvBits(False, False, False)
        return super().frame_inbound_header(proto, opcode, rsv, payload_length)

    def frame_inbound_payload_data(
        self, proto: FrameDecoder | FrameProtocol, data: bytes
    ) -> bytes | CloseReason:
        return data if self._control else super().frame_inbound_payload_data(proto, data)

    def frame_inbound_complete(
        self, proto: FrameDecoder | FrameProtocol, fin: bool
    ) -> bytes | CloseReason | None:
        return None if self._control else super().frame_inbound_complete(proto, fin)


def _deflate(extensions: str) -> list[Extension]:
    """Return the only extension that there is, as agreed on; another is not understood."""
    if not extensions.strip():
        return []
    if extensions.partition(";")[0].strip() != PerMessageDeflate.name or "," in extensions:
        raise Unreadable(f"extension {extensions[:60]!r}")
    deflate = _Deflate()
    try:
        deflate.finalize(extensions.replace('"', ""))
    except ValueError as error:
        raise Unreadable(f"extension {extensions[:60]!r}: {error}") from error
    return [deflate]
