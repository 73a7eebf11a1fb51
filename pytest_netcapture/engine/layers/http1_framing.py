"""Where an HTTP/1 body ends, and what it holds once the framing is removed (RFC 9112 §6, §7).

1. A framing is fed a buffer and a start index; it consumes up to the end of its message and never
   past it, so the caller knows the exact boundary between pipelined messages.
2. Content goes to a `BodySink` as it comes; only a chunk-size line or a trailer is buffered here.
3. Counted bodies cost one comparison and one slice a piece, whatever their size; a small one that
   comes at once needs no sink of its own.
4. Bare LF after sizes and chunks is accepted, chunk extensions are ignored, both bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pytest_netcapture.engine.layers.http1_head import (
    Malformed,
    RequestHead,
    ResponseHead,
    parse_trailers,
)
from pytest_netcapture.engine.layers.layer import BodySink
from pytest_netcapture.flows import Body, Headers

LINE_LIMIT = 1 << 14
TRAILER_LIMIT = 1 << 18
AT_ONCE = 1 << 14

_HEX = b"0123456789abcdefABCDEF"
_LF = 10
_CR = 13


class Framing(Protocol):
    """One body on its way."""

    sink: BodySink
    done: bool
    until_close: bool
    trailers: Headers | None

    def feed(self, data: bytes, start: int) -> int:
        """Consume `data` from `start`; return the index after the last byte that is ours."""


class _Whole:
    """The sink of a small body without content coding that came in one piece."""

    __slots__ = ("_data", "_open_sink")

    def __init__(self, open_sink: Callable[[], BodySink]) -> None:
        self._open_sink = open_sink
        self._data = b""

    def write(self, data: bytes) -> None:
        self._data = data

    def mark(self) -> None: ...

    def finish(self, coding: str) -> Body:
        if not coding:
            return Body(len(self._data), self._data)
        sink = self._open_sink()
        sink.write(self._data)
        return sink.finish(coding)


class Counted:
    """A body of a declared length. Its sink is opened when the first of it comes."""

    __slots__ = ("_open_sink", "_remaining", "done", "sink")
    until_close = False
    trailers: Headers | None = None

    def __init__(self, length: int, open_sink: Callable[[], BodySink]) -> None:
        self._remaining = length
        self._open_sink = open_sink
        self.sink: BodySink = _Whole(open_sink)
        self.done = length == 0

    def feed(self, data: bytes, start: int) -> int:
        available = len(data) - start
        at_once = self._remaining <= min(available, AT_ONCE)
        if not at_once and isinstance(self.sink, _Whole):
            self.sink = self._open_sink()
        if available < self._remaining:
            self._remaining -= available
            self.sink.write(data[start:])
            return len(data)
        end = start + self._remaining
        self._remaining = 0
        self.done = True
        self.sink.write(data[start:end])
        return end


class UntilClose:
    """A body that the end of the connection ends."""

    __slots__ = ("done", "sink")
    until_close = True
    trailers: Headers | None = None

    def __init__(self, sink: BodySink) -> None:
        self.sink = sink
        self.done = False

    def feed(self, data: bytes, start: int) -> int:
        self.sink.write(data[start:])
        return len(data)


class Chunked:
    """A body in the chunked transfer coding."""

    __slots__ = ("_line", "_remaining", "_step", "_trailer", "done", "sink", "trailers")
    until_close = False

    def __init__(self, sink: BodySink) -> None:
        self.sink = sink
        self._line = b""
        self._trailer = b""
        self._remaining = 0
        self._step = self._size
        self.done = False
        self.trailers: Headers | None = None

    def feed(self, data: bytes, start: int) -> int:
        end = len(data)
        while start < end and not self.done:
            start = self._step(data, start)
        return start

    def _size(self, data: bytes, start: int) -> int:
        found = data.find(b"\n", start)
        if found < 0:
            self._line += data[start:]
            _bound(self._line)
            return len(data)
        line = data[start:found]
        if self._line:
            line = self._line + line
            self._line = b""
        _bound(line)
        self._remaining = _chunk_size(line)
        self._step = self._data if self._remaining else self._trailers
        return found + 1

    def _data(self, data: bytes, start: int) -> int:
        end = start + self._remaining
        if end > len(data):
            self._remaining = end - len(data)
            self.sink.write(data[start:])
            return len(data)
        self.sink.write(data[start:end])
        self.sink.mark()
        if data.startswith(b"\r\n", end):
            self._step = self._size
            return end + 2
        self._step = self._data_end
        return end

    def _data_end(self, data: bytes, start: int) -> int:
        byte = data[start]
        if byte == _LF:
            self._line = b""
            self._step = self._size
        elif byte == _CR and not self._line:
            self._line = b"\r"
        else:
            raise Malformed("chunk longer than its declared size")
        return start + 1

    def _trailers(self, data: bytes, start: int) -> int:
        found = data.find(b"\n", start)
        if found < 0:
            self._line += data[start:]
            if len(self._line) > TRAILER_LIMIT:
                raise Malformed("trailer section too large")
            return len(data)
        line = self._line + data[start : found + 1]
        self._line = b""
        self._trailer += line
        if line in (b"\r\n", b"\n"):
            if len(self._trailer) > 2:
                self.trailers = parse_trailers(self._trailer)
            self.done = True
        elif len(self._trailer) > TRAILER_LIMIT:
            raise Malformed("trailer section too large")
        return found + 1


def request_framing(head: RequestHead, open_sink: Callable[[], BodySink]) -> Framing | None:
    """Choose how the body of a request ends (RFC 9112 §6.3); None when there is none."""
    coding = head.special.get("transfer-encoding")
    if coding is not None:
        if not _is_chunked(coding):
            raise Malformed(f"request with transfer coding {coding[:40]!r}")
        return Chunked(open_sink())
    length = content_length(head.special.get("content-length"))
    return Counted(length, open_sink) if length else None


def response_framing(
    head: ResponseHead, method: str, open_sink: Callable[[], BodySink]
) -> Framing | None:
    """Choose how the body of a response ends (RFC 9112 §6.3); None when there is none."""
    if bodyless(method, head.status):
        return None
    coding = head.special.get("transfer-encoding")
    if coding is not None:
        return Chunked(open_sink()) if _is_chunked(coding) else UntilClose(open_sink())
    length = content_length(head.special.get("content-length"))
    if length is None:
        return UntilClose(open_sink())
    return Counted(length, open_sink) if length else None


def bodyless(method: str, status: int) -> bool:
    """Tell whether a response has no body whatever its fields say (RFC 9112 §6.3, 1 and 2)."""
    if status < 200 or status in (204, 304) or method == "HEAD":
        return True
    return method == "CONNECT" and status < 300


def content_length(value: str | None) -> int | None:
    """Parse Content-Length; a list of equal numbers is one number (RFC 9110 §8.6)."""
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()):
        values = {part.strip() for part in value.split(",")}
        value = values.pop()
        if values or not (value.isascii() and value.isdigit()):
            raise Malformed(f"bad Content-Length {value[:40]!r}")
    if len(value) > 18:
        raise Malformed("Content-Length too large")
    return int(value)


def _is_chunked(coding: str) -> bool:
    return coding.rpartition(",")[2].strip(" \t").lower() == "chunked"


def _bound(line: bytes) -> None:
    if len(line) > LINE_LIMIT:
        raise Malformed("chunk-size line too long")


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip(b" \t\r")
    if not digits or len(digits) > 15 or digits.translate(None, _HEX):
        raise Malformed(f"bad chunk size {digits[:20]!r}")
    return int(digits, 16)
