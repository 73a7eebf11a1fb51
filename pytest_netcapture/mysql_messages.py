"""Read the packets of MySQL and MariaDB (MariaDB's "Clientserver Protocol").

1. A packet is three bytes of length, little-endian, a sequence number, and content. One of the
   largest size is gone on with in the next: such are not read.
2. A length-encoded number is one byte, or a byte that says how many follow; 0xFB stands for NULL.
3. `Reader` raises `Unreadable`; what only shows values gives what it could read.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pytest_netcapture.unreadable import LIMIT, Unreadable

OK, MORE_DATA, LOCAL_FILE, EOF, ERROR = 0x00, 0x01, 0xFB, 0xFE, 0xFF
MORE_RESULTS = 0x0008
_LARGEST = 0xFFFFFF
_HEAD = 4
_NULL = 6
_NUMBERS = {1: "<b", 2: "<h", 13: "<h", 3: "<i", 9: "<i", 8: "<q", 4: "<f", 5: "<d"}
_TIMES = frozenset((7, 10, 11, 12))


class Splitter:
    """Cuts one direction into packets, heads and all, as it comes."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the packets that `data` completes. Raises `Unreadable`."""
        self._held += data
        while len(self._held) >= _HEAD:
            size = int.from_bytes(self._held[:3], "little")
            if size == _LARGEST or size > LIMIT:
                raise Unreadable(f"a packet of {size} bytes")
            if len(self._held) < _HEAD + size:
                return
            packet = bytes(self._held[: _HEAD + size])
            del self._held[: _HEAD + size]
            yield packet


def packets(data: bytes) -> list[bytes]:
    """Return the contents of the whole packets of `data`, as far as it can be read."""
    found: list[bytes] = []
    with contextlib.suppress(Unreadable):
        found.extend(packet[_HEAD:] for packet in Splitter().feed(data))
    return found


def packet(content: bytes, sequence: int) -> bytes:
    return len(content).to_bytes(3, "little") + bytes([sequence & 0xFF]) + content


def resequenced(data: bytes, first: int) -> bytes:
    """Return packets with sequence numbers from `first` on."""
    return b"".join(packet(one, first + index) for index, one in enumerate(packets(data)))


def lenenc(data: bytes) -> bytes:
    """Return a string with its length before it."""
    size = len(data)
    if size < LOCAL_FILE:
        return bytes([size]) + data
    for mark, width in ((0xFC, 2), (0xFD, 3), (0xFE, 8)):
        if size < 1 << (8 * width):
            return bytes([mark]) + size.to_bytes(width, "little") + data
    raise Unreadable("a string too long")


class Reader:
    """The fields of a packet's content, in order."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self.at = at

    @property
    def ended(self) -> bool:
        return self.at >= len(self._data)

    def take(self, size: int) -> bytes:
        if self.at + size > len(self._data):
            raise Unreadable(f"{size} bytes of a packet that has {len(self._data) - self.at}")
        self.at += size
        return self._data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def length(self) -> int | None:
        """Return a length-encoded number; None for NULL."""
        first = self.number(1)
        if first < LOCAL_FILE:
            return first
        if first == LOCAL_FILE:
            return None
        width = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first)
        if width is None:
            raise Unreadable("no length")
        return self.number(width)

    def string(self) -> bytes | None:
        """Return a length-encoded string; None for NULL."""
        size = self.length()
        return None if size is None else self.take(size)

    def text(self) -> str:
        """Return a string that ends with a NUL."""
        end = self._data.find(b"\0", self.at)
        if end < 0:
            raise Unreadable("a string without its end")
        data, self.at = self._data[self.at : end], end + 1
        return data.decode("utf-8", "surrogateescape")

    def rest(self) -> bytes:
        return self.take(len(self._data) - self.at)

    def value(self, kind: int) -> bytes:
        """Return a value in the binary form of its type, without its length."""
        if kind in _NUMBERS:
            return self.take(struct.calcsize(_NUMBERS[kind]))
        if kind in _TIMES:
            return self.take(self.number(1))
        return self.string() or b""


def status_of(content: bytes) -> int:
    """Return the status flags of an OK or EOF packet."""
    with contextlib.suppress(Unreadable):
        fields = Reader(content, 1)
        if content[0] == EOF and len(content) == 5:
            fields.take(2)
        else:
            fields.length()
            fields.length()
        return fields.number(2)
    return 0


class Column(NamedTuple):
    name: str
    type: int
    binary: bool
    """Whether its strings are bytes (character set 63)."""


def column(content: bytes) -> Column:
    fields = Reader(content)
    for _ in range(4):
        fields.string()
    name = fields.string() or b""
    fields.string()
    fields.take(1)
    charset = fields.number(2)
    fields.take(4)
    return Column(name.decode("utf-8", "replace"), fields.number(1), charset == 63)


def parameters(
    content: bytes, types: list[int], count: int
) -> tuple[list[bytes | None], list[int]]:
    """Read the values of a COM_STMT_EXECUTE; `types` are those of the last time."""
    fields = Reader(content, 10)
    if not count:
        return [], []
    bitmap = fields.take((count + 7) // 8)
    if fields.number(1):
        types = [fields.number(2) for _ in range(count)]
    if len(types) < count:
        raise Unreadable("values without types")
    values: list[bytes | None] = []
    for index in range(count):
        missing = bitmap[index // 8] >> (index % 8) & 1
        values.append(None if missing else fields.value(types[index] & 0xFF))
    return values, types


def shown_value(data: bytes | None, kind: int, *, text: bool = False) -> Any:
    """Return a value as Python's; `text`: it is written out, as a query's answer is."""
    if data is None:
        return None
    if text:
        return _written(data, kind)
    layout = _NUMBERS.get(kind)
    if layout is not None and len(data) == struct.calcsize(layout):
        return struct.unpack(layout, data)[0]
    return data if kind in _TIMES else _text(data)


def _written(data: bytes, kind: int) -> Any:
    read: Callable[[bytes], Any] = _text
    if kind in (4, 5):
        read = float
    elif kind in _NUMBERS:
        read = int
    try:
        return read(data)
    except ValueError:
        return _text(data)


def _text(data: bytes) -> Any:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


class Result(NamedTuple):
    """One result set: its columns, and the contents of its rows' packets."""

    columns: list[Column]
    rows: list[bytes]


def results(answer: bytes, *, plain_end: bool) -> tuple[list[Result], bytes]:
    """Read an answer: its result sets, and the packet that ended it (b"" when none did).

    `plain_end`: an EOF packet ends columns, too (CLIENT_DEPRECATE_EOF was not agreed on).
    """
    left = iter(packets(answer))
    found: list[Result] = []
    last = b""
    for first in left:
        last = first
        if first[:1] in (b"\x00", b"\xff", b""):
            if first[:1] == b"\x00" and status_of(first) & MORE_RESULTS:
                continue
            break
        described = [column(one) for _, one in zip(range(first[0]), left, strict=False)]
        if plain_end:
            next(left, b"")
        result = Result(described, [])
        found.append(result)
        for one in left:
            if one[:1] == b"\xff" or (one[:1] == b"\xfe" and len(one) < 9 + 256 * (not plain_end)):
                last = one
                break
            result.rows.append(one)
        if not (last[:1] == b"\xfe" and status_of(last) & MORE_RESULTS):
            break
    return found, last


def row(content: bytes, described: list[Column], *, prepared: bool) -> list[Any]:
    """Read the packet of a row, in the binary form if the statement was prepared."""
    fields = Reader(content, int(prepared))
    if not prepared:
        return [shown_value(fields.string(), one.type, text=True) for one in described]
    bitmap = fields.take((len(described) + 9) // 8)
    values = []
    for index, one in enumerate(described, 2):
        missing = bitmap[index // 8] >> (index % 8) & 1
        values.append(None if missing else shown_value(fields.value(one.type), one.type))
    return values


def rewritten(
    answer: bytes, change: Callable[[bytes], bytes], *, prepared: bool, plain_end: bool
) -> bytes:
    """Return an answer with each text in its rows changed, and its length made right."""
    columns_of = {
        row: found.columns
        for found in results(answer, plain_end=plain_end)[0]
        for row in found.rows
    }
    contents = packets(answer)
    changed = [
        _changed_row(one, columns_of[one], change, prepared=prepared) if one in columns_of else one
        for one in contents
    ]
    if changed == contents:
        return answer
    return b"".join(packet(one, answer[3] + index) for index, one in enumerate(changed))


def _changed_row(
    content: bytes, described: list[Column], change: Callable[[bytes], bytes], *, prepared: bool
) -> bytes:
    fields = Reader(content, int(prepared))
    if not prepared:
        values = [fields.string() for _ in described]
        return b"".join(b"\xfb" if one is None else lenenc(change(one)) for one in values)
    bitmap = fields.take((len(described) + 9) // 8)
    parts = [content[:1], bitmap]
    for index, one in enumerate(described, 2):
        start = fields.at
        if bitmap[index // 8] >> (index % 8) & 1:
            continue
        value = fields.value(one.type)
        text = one.type not in _NUMBERS and one.type not in _TIMES
        parts.append(lenenc(change(value)) if text else content[start : fields.at])
    return b"".join(parts)


def error(text: str) -> bytes:
    """Return an ERR packet's content, with a general error's number and state."""
    return b"\xff" + (1105).to_bytes(2, "little") + b"#HY000" + text.encode("utf-8", "replace")
