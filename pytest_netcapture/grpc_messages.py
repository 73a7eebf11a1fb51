"""Read gRPC bodies: length-prefixed messages, and protobuf without its schema.

1. A message is a flag byte, four bytes of length, and protobuf (gRPC's PROTOCOL-HTTP2.md).
2. Without a schema a field is its number. A length-delimited one is text if it is printable, else a
   message if it reads as one, else bytes. A field that is repeated has a list.
3. Nothing raises on what a peer sent: what cannot be read is bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, TypeAlias

Fields: TypeAlias = dict[int, Any]

_PREFIX = struct.Struct(">BL")
_DEPTH = 32
_DELIMITED = 2
"""The wire type of what has a length."""
_DECOMPRESS_LIMIT = 1 << 26


class Splitter:
    """Cuts a body into its messages as it comes."""

    def __init__(self, encoding: str = "") -> None:
        self._encoding = encoding
        self._held = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that `data` completes, decompressed."""
        self._held += data
        position = 0
        while len(self._held) - position >= _PREFIX.size:
            flag, size = _PREFIX.unpack_from(self._held, position)
            start = position + _PREFIX.size
            if len(self._held) - start < size:
                break
            position = start + size
            content = self._held[start:position]
            yield decompressed(content, self._encoding) if flag & 1 else content
        self._held = self._held[position:]


def split(body: bytes, encoding: str = "") -> list[bytes]:
    """Return the complete messages of a body."""
    return list(Splitter(encoding).feed(body))


def decompressed(data: bytes, encoding: str) -> bytes:
    """Return a message without its compression; as it was, if that cannot be."""
    wanted = {"gzip": 31, "deflate": 15}.get(encoding.strip().lower())
    if wanted is None:
        return data
    try:
        return zlib.decompressobj(wanted).decompress(data, _DECOMPRESS_LIMIT)
    except zlib.error:
        return data


def fields_of(message: bytes) -> Fields:
    """Return a protobuf message by field number. Raises `ValueError` when it is none."""
    return _message(message, 0)


def contents_of(message: bytes, number: int) -> list[bytes]:
    """Return each content of length-delimited field `number`. Raises `ValueError`."""
    out: list[bytes] = []
    position = 0
    while position < len(message):
        key, start = _varint(message, position)
        if key & 7 != _DELIMITED:
            _, position = _value(message, start, key & 7, 0)
            continue
        size, start = _varint(message, start)
        position = start + size
        if position > len(message):
            raise ValueError("cut off")
        if key >> 3 == number:
            out.append(message[start:position])
    return out


def _message(data: bytes, depth: int) -> Fields:
    if depth > _DEPTH:
        raise ValueError("nested too deep")
    out: Fields = {}
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("field number 0")
        value, position = _value(data, position, kind, depth)
        if number not in out:
            out[number] = value
        elif isinstance(out[number], list):
            out[number].append(value)
        else:
            out[number] = [out[number], value]
    return out


def _value(data: bytes, position: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind == 0:
        return _varint(data, position)
    if kind in (1, 5):
        width, form = (8, "<d") if kind == 1 else (4, "<f")
        if position + width > len(data):
            raise ValueError("cut off")
        return struct.unpack_from(form, data, position)[0], position + width
    if kind != _DELIMITED:
        raise ValueError(f"wire type {kind}")
    size, position = _varint(data, position)
    end = position + size
    if end > len(data):
        raise ValueError("cut off")
    return _delimited(data[position:end], depth), end


def _delimited(data: bytes, depth: int) -> Any:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if text.replace("\n", " ").replace("\t", " ").replace("\r", " ").isprintable():
        return text
    try:
        return _message(data, depth + 1)
    except ValueError:
        return data


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if position >= len(data):
            raise ValueError("cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("varint too long")
