"""Read and write HTTP/2 frames (RFC 9113 §4, §6): bytes here, meaning in http2_peer.py.

1. A frame larger than `FRAME_LIMIT`, the default, is an error before its payload has come.
2. Padding is removed here; the length that flow control counts is told beside the payload.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD = 9
FRAME_LIMIT = 1 << 14
LARGEST_WINDOW = (1 << 31) - 1
DEFAULT_WINDOW = (1 << 16) - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

_HEAD = struct.Struct(">HBBBL")
_WORD = struct.Struct(">L")
_SETTING = struct.Struct(">HL")


class Code(enum.IntEnum):
    """Error codes (RFC 9113 §7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(enum.IntEnum):
    """Settings (RFC 9113 §6.5.2, RFC 8441 §3)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8


def code_name(code: int) -> str:
    """Return the name of an error code; one that is not known stays a number."""
    try:
        return Code(code).name
    except ValueError:
        return f"0x{code:x}"


class ConnectionFailure(Exception):
    """The connection cannot go on (RFC 9113 §5.4.1)."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class StreamFailure(Exception):
    """One stream cannot go on (RFC 9113 §5.4.2)."""

    def __init__(self, stream: int, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.stream = stream
        self.code = code
        self.reason = reason


class Frame(NamedTuple):
    """One frame; `size` is the length of its payload, padding and all."""

    kind: int
    flags: int
    stream: int
    payload: bytes
    size: int


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete. Raises `ConnectionFailure`."""
        if self._held:
            data = self._held + data
            self._held = b""
        position, end = 0, len(data)
        while position + FRAME_HEAD <= end:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, position)
            size = high << 8 | low
            if size > FRAME_LIMIT:
                raise ConnectionFailure(Code.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            start = position + FRAME_HEAD
            if start + size > end:
                break
            position = start + size
            payload = data[start:position]
            if flags & PADDED and kind in (DATA, HEADERS):
                payload = _unpadded(payload)
            yield Frame(kind, flags, stream & 0x7FFFFFFF, payload, size)
        if position < end:
            self._held = data[position:]


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ConnectionFailure(Code.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def header_block(stream: int, block: bytes, *, end: bool, limit: int) -> bytes:
    """Return HEADERS, and CONTINUATION for what is over the peer's `limit`."""
    flags = END_STREAM if end else 0
    if len(block) <= limit:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    out = [frame(HEADERS, flags, stream, block[:limit])]
    last = (len(block) - 1) // limit * limit
    out += [
        frame(CONTINUATION, END_HEADERS if at == last else 0, stream, block[at : at + limit])
        for at in range(limit, len(block), limit)
    ]
    return b"".join(out)


def word(value: int) -> bytes:
    return _WORD.pack(value)


def read_word(payload: bytes, at: int = 0) -> int:
    value: int = _WORD.unpack_from(payload, at)[0]
    return value


def settings_frame(values: dict[int, int]) -> bytes:
    payload = b"".join(_SETTING.pack(number, value) for number, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    return list(_SETTING.iter_unpack(payload))


def goaway_frame(last: int, code: int, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, word(last) + word(code) + debug)


def begins_like_a_server(data: bytes) -> bool:
    """Tell whether `data` may begin with the SETTINGS that a server sends first (RFC 9113 §3.4)."""
    length = data[:3]
    expected = bytes((SETTINGS, 0, 0, 0, 0, 0))
    good = data[:1] in (b"", b"\0") and data[3:9] == expected[: len(data[3:9])]
    return good and (len(length) < 3 or int.from_bytes(length, "big") % 6 == 0)
