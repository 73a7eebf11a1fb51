"""The cassette file: a plain msgpack stream that any msgpack library reads.

1. First a header map, then records `[crc32, payload]`; the payload is msgpack too, a map whose
   "kind" says what it is. The CRC is always a uint 32, so a record's frame has one shape.
2. A body is stored once, before the first flow that refers to it, in "body" records of at most
   `SEGMENT` bytes; nothing in reading or writing needs more than one of them in memory.
3. A finished cassette ends with an "end" record that counts the records before it, so a file cut
   between two records is known to be torn. A journal has none: its intact prefix is all it is.
4. Whatever the bytes are, reading gives what was written or a `CassetteError` that names file,
   offset and cure. Lengths are checked against the file's size before anything is allocated.

Proven by tests/cassettes/test_format.py.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator

import msgspec

from pytest_netcapture.cassettes.wire import measure
from pytest_netcapture.errors import CassetteError

FORMAT = "netcapture-cassette"
VERSION = 1
SEGMENT = 1 << 20

_HEADER_LIMIT = 4096
_WINDOW = 1 << 18
_FRAME = struct.Struct(">BBIB")
_SHORTEST = 8
_RESTORE = "restore it from version control, or delete it and record again"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first value of the stream. `recorded` is a date; `crc` covers salt and date."""

    format: str = FORMAT
    version: int = VERSION
    salt: bytes
    recorded: str = ""
    crc: int = 0


class End(msgspec.Struct, frozen=True, tag_field="kind", tag="end"):
    """The last record: how many records were before it."""

    records: int


class BodySegment(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="body"):
    """A piece of a body: `id` is a digest of the whole, which is compressed if `zstd`."""

    id: str
    index: int
    last: bool
    data: bytes
    zstd: bool = False


def encode_header(salt: bytes, recorded: str) -> bytes:
    header = Header(salt=salt, recorded=recorded, crc=_header_crc(salt, recorded))
    return msgspec.msgpack.encode(header)


def encode_record(payload: bytes) -> bytes:
    """Frame `payload` as `[crc32, payload]`."""
    size = len(payload)
    crc = zlib.crc32(payload)
    if size < 1 << 8:
        return _FRAME.pack(0x92, 0xCE, crc, 0xC4) + size.to_bytes(1, "big") + payload
    if size < 1 << 16:
        return _FRAME.pack(0x92, 0xCE, crc, 0xC5) + size.to_bytes(2, "big") + payload
    return _FRAME.pack(0x92, 0xCE, crc, 0xC6) + size.to_bytes(4, "big") + payload


def encode_end(records: int) -> bytes:
    return encode_record(msgspec.msgpack.encode(End(records)))


def open_file(path: str) -> int:
    """Return a descriptor for reading `path`. Raises `CassetteError`, `FileNotFoundError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from None
    if not os.path.isfile(path):
        os.close(descriptor)
        raise CassetteError(
            f"{path}: cannot be read: it is not a regular file",
            cure="name a file, or move away what is in its place",
            slug="docs/cassette-format.md#errors",
        )
    return descriptor


def unreadable(path: str, error: OSError) -> CassetteError:
    return CassetteError(
        f"{path}: cannot be read: {error.strerror or error}",
        cure="check the owner and the mode of the file and of its folders",
        slug="docs/cassette-format.md#errors",
    )


def damaged(path: str, offset: int, what: str, cure: str = _RESTORE) -> CassetteError:
    return CassetteError(
        f"{path}: offset {offset}: {what}", cure=cure, slug="docs/cassette-format.md#errors"
    )


def read_header(descriptor: int, path: str) -> tuple[Header, int]:
    """Return the header and the offset of the first record. Raises `CassetteError`."""
    start = _pread(descriptor, path, _HEADER_LIMIT, 0)
    if not start:
        raise damaged(path, 0, "the file is empty")
    length = measure(start)
    if length < 0:
        raise _foreign(path, "it does not begin with a msgpack value", start)
    try:
        value = msgspec.msgpack.decode(start[:length])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError):
        raise _foreign(path, "it does not begin with a msgpack map", start) from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise _foreign(path, f'its first value is not a map with "format": "{FORMAT}"', start)
    version = value.get("version")
    if isinstance(version, int) and version > VERSION:
        raise damaged(
            path,
            0,
            f"written by a newer pytest-netcapture: format {version}, this one reads {VERSION}",
            "upgrade: pip install --upgrade pytest-netcapture",
        )
    try:
        header = msgspec.convert(value, Header)
    except msgspec.ValidationError as error:
        raise damaged(path, 0, f"the header is damaged: {error}") from None
    if header.version != VERSION or header.crc != _header_crc(header.salt, header.recorded):
        raise damaged(path, 0, "the header is damaged: its check sum is wrong")
    return header, length


def scan(descriptor: int, path: str, start: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, payload) of each record from `start` on. Raises `CassetteError`."""
    size = os.fstat(descriptor).st_size
    buffer, base, at = b"", start, 0
    unpack, crc32 = _FRAME.unpack_from, zlib.crc32
    while base + at < size:
        if len(buffer) - at < _SHORTEST + 4:
            base, at, buffer = base + at, 0, _pread(descriptor, path, _WINDOW, base + at)
            if len(buffer) < _SHORTEST:
                raise _torn(path, base)
        array, mark, crc, kind = unpack(buffer, at)
        if array != 0x92 or mark != 0xCE or not 0xC4 <= kind <= 0xC6:
            raise damaged(path, base + at, "not a record: expected [uint 32, bin]")
        width = 1 << (kind - 0xC4)
        begin = at + 7 + width
        end = begin + int.from_bytes(buffer[at + 7 : begin], "big")
        if base + end > size:
            raise _torn(path, base + at)
        if end > len(buffer):
            begin, end, base, at = begin - at, end - at, base + at, 0
            buffer = _pread(descriptor, path, max(end, _WINDOW), base)
            if len(buffer) < end:
                raise _torn(path, base)
        payload = buffer[begin:end]
        if crc32(payload) != crc:
            raise damaged(path, base + at, "bad CRC: the record was changed or damaged")
        yield base + at, payload
        at = end


def read_payload(descriptor: int, path: str, offset: int, size: int) -> bytes:
    """Read one record again, of which `size` is the payload's length, and check it."""
    width = 1 if size < 1 << 8 else 2 if size < 1 << 16 else 4
    frame = _pread(descriptor, path, 7 + width + size, offset)
    payload = frame[7 + width :]
    if len(payload) != size or zlib.crc32(payload) != int.from_bytes(frame[2:6], "big"):
        raise damaged(path, offset, "the record changed while the cassette was in use")
    return payload


def frame_size(size: int) -> int:
    """Return the length in the file of a record with a payload of `size` bytes."""
    return 7 + (1 if size < 1 << 8 else 2 if size < 1 << 16 else 4) + size


def _pread(descriptor: int, path: str, size: int, offset: int) -> bytes:
    try:
        return os.pread(descriptor, size, offset)
    except OSError as error:
        raise unreadable(path, error) from None


def _torn(path: str, offset: int) -> CassetteError:
    return damaged(path, offset, "torn: the file ends in the middle of a record")


def _header_crc(salt: bytes, recorded: str) -> int:
    return zlib.crc32(salt + recorded.encode())


def _foreign(path: str, why: str, start: bytes) -> CassetteError:
    cure = _RESTORE
    if start.lstrip()[:1] in (b"{", b"i", b"-", b"#"):
        cure = "if it is of vcrpy or a HAR file, convert it: netcapture import FILE"
    return damaged(path, 0, f"not a netcapture cassette: {why}", cure)
