"""Read and write the messages of PostgreSQL's protocol 3 (its manual, "Message Formats").

1. A message is a type byte, a length that counts itself, and content; a client's first has no type.
2. Integers are big-endian, strings end with a NUL. A value of length -1 is NULL.
3. What a peer sent may be anything: `Splitter` and `Content` raise `Unreadable`; what only shows a
   value (`shown_value`) gives bytes where it cannot tell more.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from uuid import UUID

from pytest_netcapture.unreadable import LIMIT, Unreadable

_LENGTH = struct.Struct(">i")
TEXT, BINARY = 0, 1

BOOL, BYTEA, INT8, INT2, INT4, FLOAT4, FLOAT8, UUID_ = 16, 17, 20, 21, 23, 700, 701, 2950
_TEXTS = frozenset((18, 19, 25, 114, 142, 1042, 1043))


class Splitter:
    """Cuts one direction into messages (type, content) as it comes."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the messages that `data` completes. Raises `Unreadable`."""
        held = self._held
        held += data
        start = 0
        try:
            while len(held) - start >= 5:
                kind = bytes(held[start : start + 1])
                (length,) = _LENGTH.unpack_from(held, start + 1)
                if length < 4 or not kind.isalnum():
                    raise Unreadable(f"no message: type {kind!r}, length {length}")
                if length > LIMIT:
                    raise Unreadable(f"a message of {length} bytes")
                if len(held) - start < 1 + length:
                    break
                content = bytes(held[start + 5 : start + 1 + length])
                start += 1 + length
                yield kind, content
        finally:
            del held[:start]

    def rest(self) -> bytes:
        """Return what is held of a message that is not complete, and forget it."""
        held = bytes(self._held)
        self._held.clear()
        return held


def split(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the complete messages of `data`, as far as it can be read."""
    messages: list[tuple[bytes, bytes]] = []
    with contextlib.suppress(Unreadable):
        messages.extend(Splitter().feed(data))
    return messages


def message(kind: bytes, content: bytes = b"") -> bytes:
    return kind + _LENGTH.pack(len(content) + 4) + content


class Content:
    """The fields of a message's content, in order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def ended(self) -> bool:
        return self._at >= len(self._data)

    def take(self, size: int) -> bytes:
        if size < 0 or self._at + size > len(self._data):
            raise Unreadable(f"{size} bytes of a message that has {len(self._data) - self._at}")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big", signed=True)

    def numbers(self, size: int) -> list[int]:
        """Return an array: its Int16 count, then numbers of `size` bytes."""
        return [self.number(size) for _ in range(self.number(2))]

    def string(self) -> str:
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise Unreadable("a string without its end")
        data, self._at = self._data[self._at : end], end + 1
        return data.decode("utf-8", "surrogateescape")

    def value(self) -> bytes | None:
        size = self.number(4)
        return None if size == -1 else self.take(size)

    def values(self) -> list[bytes | None]:
        return [self.value() for _ in range(self.number(2))]


class Column(NamedTuple):
    """A column of a RowDescription; `type` is the OID of its type."""

    name: str
    type: int
    format: int
    head: bytes
    """All of it before the format code."""


def columns(content: bytes) -> list[Column]:
    """Read a RowDescription. Raises `Unreadable`."""
    fields, found = Content(content), []
    for _ in range(fields.number(2)):
        name = fields.string()
        rest = fields.take(16)
        head = name.encode("utf-8", "surrogateescape") + b"\0" + rest
        found.append(Column(name, int.from_bytes(rest[6:10], "big"), fields.number(2), head))
    return found


def described(content: bytes, formats: list[int]) -> bytes:
    """Return a RowDescription with other format codes: none, one for all, or one each."""
    found = columns(content)
    wanted = (formats * len(found) if len(formats) == 1 else formats) or [TEXT] * len(found)
    parts = [len(found).to_bytes(2, "big")]
    for column, code in zip(found, wanted, strict=False):
        parts += [column.head, code.to_bytes(2, "big", signed=True)]
    return b"".join(parts)


def error_fields(content: bytes) -> dict[str, str]:
    """Return the fields of an ErrorResponse or NoticeResponse by their letters."""
    found: dict[str, str] = {}
    for part in content.split(b"\0"):
        if part:
            found[chr(part[0])] = part[1:].decode("utf-8", "replace")
    return found


def error_response(text: str, hint: str = "", *, severity: str = "ERROR") -> bytes:
    fields = {"S": severity, "V": severity, "C": "XX000", "M": text, "H": hint}
    parts = [k.encode() + v.encode("utf-8", "replace") + b"\0" for k, v in fields.items() if v]
    return message(b"E", b"".join(parts) + b"\0")


def shown_value(data: bytes | None, kind: int = 0, form: int = TEXT) -> Any:
    """Return a value as Python's, if its type and format tell; else as text, else as bytes."""
    if data is None:
        return None
    if form == BINARY:
        read = _BINARY.get(kind) or (_text if kind in _TEXTS else None)
        return read(data) if read else bytes(data)
    text = _text(data)
    read_text = _TEXTUAL.get(kind)
    if read_text is None or not isinstance(text, str):
        return text
    try:
        return read_text(text)
    except ValueError:
        return text


def _text(data: bytes) -> Any:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _whole(data: bytes) -> Any:
    return int.from_bytes(data, "big", signed=True)


def _real(data: bytes) -> Any:
    layout = {4: ">f", 8: ">d"}.get(len(data))
    return struct.unpack(layout, data)[0] if layout else data


_BINARY: dict[int, Callable[[bytes], Any]] = {
    BOOL: lambda data: data == b"\1",
    INT2: _whole,
    INT4: _whole,
    INT8: _whole,
    26: _whole,
    FLOAT4: _real,
    FLOAT8: _real,
    UUID_: lambda data: str(UUID(bytes=data)) if len(data) == 16 else data,
    3802: lambda data: _text(data[1:]),
}
_TEXTUAL: dict[int, Callable[[str], Any]] = {
    BOOL: lambda text: {"t": True, "true": True, "f": False, "false": False}.get(text, text),
    INT2: int,
    INT4: int,
    INT8: int,
    26: int,
    FLOAT4: float,
    FLOAT8: float,
}
