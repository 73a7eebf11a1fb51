"""Cut and write MongoDB's messages (its manual, "MongoDB Wire Protocol").

1. A message is sixteen bytes of head, little-endian: its length, its number, the number of the one
   that it answers (0: none), its kind. What it says are BSON documents, which stay bytes here.
2. Three kinds are read: OP_MSG, the OP_QUERY by which a connection begins, and its OP_REPLY.
   OP_COMPRESSED is read where the standard library can; what is compressed otherwise is not.
3. A kind that is not read, and a length that does not fit, are `Unreadable`.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from pytest_netcapture.unreadable import LIMIT, Unreadable

HEAD = struct.Struct("<iiii")
REPLY, QUERY, COMPRESSED, MSG = 1, 2004, 2012, 2013
_CHECKSUM, MORE = 1, 2
_BODY, _SEQUENCE = 0, 1
_SMALLEST_DOCUMENT = 5
_COMPRESSORS = {1: "snappy", 3: "zstd"}
_PLAIN, _ZLIB = 0, 2


class Message(NamedTuple):
    """A message without its compression. `sequences` are what stands beside its first document."""

    kind: int
    number: int
    answers: int
    more: bool
    """A client awaits no answer; of a server's more is to come."""
    document: bytes
    sequences: tuple[tuple[str, tuple[bytes, ...]], ...] = ()
    collection: str = ""
    """What an OP_QUERY asks: `admin.$cmd`."""


def begins_like_mongodb(data: bytes) -> bool:
    """Tell by a whole head: a client's first message answers none and is of a known kind."""
    if len(data) < HEAD.size:
        return False
    size, _, answers, kind = HEAD.unpack_from(data)
    return HEAD.size < size <= LIMIT and not answers and kind in (QUERY, COMPRESSED, MSG)


class Splitter:
    """Cuts one direction into messages, heads and all, as it comes."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that `data` completes. Raises `Unreadable`."""
        self._held += data
        while len(self._held) >= HEAD.size:
            size = HEAD.unpack_from(self._held)[0]
            if not HEAD.size < size <= LIMIT:
                raise Unreadable(f"a message of {size} bytes")
            if len(self._held) < size:
                return
            whole = bytes(self._held[:size])
            del self._held[:size]
            yield whole


def read(whole: bytes) -> Message:
    """Read one message. Raises `Unreadable`."""
    _, number, answers, kind = HEAD.unpack_from(whole)
    content = whole[HEAD.size :]
    if kind == COMPRESSED:
        kind, content = _inflated(content)
    if kind == MSG:
        return _msg(number, answers, content)
    if kind == QUERY:
        collection, at = _text(content, 4)
        return Message(
            QUERY, number, answers, False, _documents(content, at + 8)[0], (), collection
        )
    if kind == REPLY:
        return Message(REPLY, number, answers, False, _documents(content, 20)[0])
    raise Unreadable(f"a message of the kind {kind}")


def messages(data: bytes) -> list[Message]:
    """Return the whole messages of `data`, as far as it can be read."""
    found: list[Message] = []
    with contextlib.suppress(Unreadable):
        found.extend(map(read, Splitter().feed(data)))
    return found


def written(document: bytes, number: int = 0, answers: int = 0, *, more: bool = False) -> bytes:
    """Return an OP_MSG with one document."""
    content = struct.pack("<IB", MORE if more else 0, _BODY) + document
    return HEAD.pack(HEAD.size + len(content), number, answers, MSG) + content


def replied(document: bytes, number: int, answers: int) -> bytes:
    """Return an OP_REPLY with one document, as it answers an OP_QUERY."""
    content = struct.pack("<iqii", 8, 0, 0, 1) + document
    return HEAD.pack(HEAD.size + len(content), number, answers, REPLY) + content


def _msg(number: int, answers: int, content: bytes) -> Message:
    if len(content) < 5:
        raise Unreadable("a message without a document")
    flags = int.from_bytes(content[:4], "little")
    end = len(content) - (4 if flags & _CHECKSUM else 0)
    body, sequences, at = b"", [], 4
    while at < end:
        kind, at = content[at], at + 1
        if kind == _BODY and not body:
            body = _document(content, at)
            at += len(body)
        elif kind == _SEQUENCE:
            size = int.from_bytes(content[at : at + 4], "little")
            if size < 4 or at + size > end:
                raise Unreadable("a sequence longer than its message")
            name, first = _text(content[: at + size], at + 4)
            sequences.append((name, tuple(_documents(content[: at + size], first, least=0))))
            at += size
        else:
            raise Unreadable(f"a section of the kind {kind}")
    if not body or at != end:
        raise Unreadable("a message whose sections do not fit")
    return Message(MSG, number, answers, bool(flags & MORE), body, tuple(sequences))


def _documents(content: bytes, at: int, *, least: int = 1) -> list[bytes]:
    found = []
    while at < len(content):
        found.append(_document(content, at))
        at += len(found[-1])
    if len(found) < least:
        raise Unreadable("a message without a document")
    return found


def _document(content: bytes, at: int) -> bytes:
    size = int.from_bytes(content[at : at + 4], "little")
    if size < _SMALLEST_DOCUMENT or at + size > len(content):
        raise Unreadable(f"a document of {size} bytes")
    return content[at : at + size]


def _text(content: bytes, at: int) -> tuple[str, int]:
    """Return a string that ends with a NUL, and what is behind it."""
    end = content.find(b"\0", at)
    if end < 0:
        raise Unreadable("a name without its end")
    return content[at:end].decode("utf-8", "replace"), end + 1


def _inflated(content: bytes) -> tuple[int, bytes]:
    if len(content) < 9:
        raise Unreadable("a compressed message without its head")
    kind, size, how = struct.unpack_from("<iiB", content)
    data = content[9:]
    if how == _PLAIN:
        return kind, data
    if how != _ZLIB:
        raise Unreadable(f"compressed with {_COMPRESSORS.get(how, how)}")
    if not 0 <= size <= LIMIT:
        raise Unreadable(f"a message of {size} bytes")
    try:
        inflated = zlib.decompressobj().decompress(data, size + 1)
    except zlib.error as error:
        raise Unreadable(f"compressed badly: {error}") from None
    if len(inflated) != size:
        raise Unreadable("a compressed message of another length")
    return kind, inflated
