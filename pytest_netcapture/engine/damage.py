"""What becomes of bytes on their way to a client: cut off after so many, one of them inverted.

1. Bytes of the answer's body count. In HTTP/1 that is what follows the head (sizes of chunks
   included), in HTTP/2 what is in DATA frames of the stream, else everything.
2. An HTTP/2 connection is written in whole frames, so each piece begins with one; ours have no
   padding.

Pure: no I/O. Proved by tests/engine/test_damage.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

Part: TypeAlias = tuple[bytes, bool]
"""Bytes, and whether they are of the body."""
Parts: TypeAlias = Callable[[bytes], Iterator[Part]]

_HEAD_END = b"\r\n\r\n"
_FRAME_HEAD, _DATA = 9, 0


class Damage:
    """Counts what passes; `done` once nothing more may."""

    def __init__(self, parts: Parts, *, end: int | None = None, flip: int | None = None) -> None:
        """Cut off after `end` bytes, invert the byte at `flip`."""
        self._parts = parts
        self.end = end
        self.flip = flip
        self._seen = 0
        self.done = False

    def pass_on(self, data: bytes) -> bytes:
        """Return what the client gets of `data`."""
        out = []
        for part, counts in self._parts(data):
            out.append(self._counted(part) if counts else part)
            if self.done:
                break
        return b"".join(out)

    def _counted(self, part: bytes) -> bytes:
        start, self._seen = self._seen, self._seen + len(part)
        flip = self.flip
        if flip is not None and start <= flip < self._seen:
            at = flip - start
            part = part[:at] + bytes((part[at] ^ 0xFF,)) + part[at + 1 :]
        if self.end is not None and self._seen >= self.end:
            self.done = True
            part = part[: self.end - start]
        return part


def everything(data: bytes) -> Iterator[Part]:
    yield data, True


class Http1Body:
    """Parts of an HTTP/1 answer: interim heads, the head, then the body."""

    def __init__(self) -> None:
        self._head = b""
        self._in_body = False

    def __call__(self, data: bytes) -> Iterator[Part]:
        while data and not self._in_body:
            known = len(self._head)
            self._head += data
            end = self._head.find(_HEAD_END, max(0, known - 3))
            if end < 0:
                yield data, False
                return
            cut = end + len(_HEAD_END) - known
            yield data[:cut], False
            data = data[cut:]
            self._in_body = self._head[9:10] != b"1"
            self._head = b""
            if self._in_body:
                yield b"", True
        if data:
            yield data, True


class Http2Data:
    """Parts of HTTP/2 frames: what one stream carries."""

    def __init__(self, stream: int) -> None:
        self._stream = stream

    def __call__(self, data: bytes) -> Iterator[Part]:
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 3], "big")
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            body, end = at + _FRAME_HEAD, at + _FRAME_HEAD + size
            ours = data[at + 3] == _DATA and stream == self._stream
            yield data[at:body], False
            yield data[body:end], ours
            at = end
