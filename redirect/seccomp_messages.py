"""Socket addresses and message headers as captured programs have them in memory, as bytes.

1. Pure: takes bytes, returns values. Strange bytes are None, or an address of an unknown family.
2. An IPv4 address in an IPv6 socket (::ffff:1.2.3.4) is that IPv4 address everywhere outside of
   here; `encode` gives a socket back the form that it knows.
3. 64-bit programs, little-endian (seccomp_abi.py).

Kernel: ip(7), ipv6(7), sendmsg(2), struct user_msghdr. Tests: test_seccomp_messages.py.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pytest_netcapture.redirect.base import Address

HEADER = struct.Struct("<QI4xQQQQi4x")
"""struct user_msghdr."""
SEVERAL = struct.Struct("<QI4xQQQQi4xI4x")
"""struct mmsghdr: a header, and the length of what was moved."""
NAME_LENGTH_AT, CONTROL_LENGTH_AT, FLAGS_AT, MOVED_AT = 8, 40, 48, 56
_PIECE = struct.Struct("<QQ")
_CONTROL = struct.Struct("<Qii")
_V4 = struct.Struct("=H2s4s8x")
_V6 = struct.Struct("=H2sI16sI")
_MAPPED = bytes(10) + b"\xff\xff"
_MOST_PIECES = 1024


class Name(NamedTuple):
    """A socket address: `address` is None when it is not of IPv4 or IPv6."""

    family: int
    address: Address | None
    scope: int = 0
    path: bytes = b""
    """Of a Unix socket."""


class Header(NamedTuple):
    """What a message's header points to."""

    name: int
    name_length: int
    pieces: int
    piece_count: int
    control: int
    control_length: int


def parse_name(data: bytes) -> Name | None:
    """Read a sockaddr; None when it is too short for its family, which the kernel refuses."""
    if len(data) < 2:
        return None
    family = int.from_bytes(data[:2], "little")
    if family == socket.AF_INET:
        return _parse_v4(data)
    if family == socket.AF_INET6:
        return _parse_v6(data)
    path = data[2:].partition(b"\0")[0] if family == socket.AF_UNIX else b""
    return Name(family, None, path=path)


def _parse_v4(data: bytes) -> Name | None:
    if len(data) < _V4.size:
        return None
    _, port, packed = _V4.unpack_from(data)
    address = socket.inet_ntop(socket.AF_INET, packed)
    return Name(socket.AF_INET, (address, int.from_bytes(port, "big")))


def _parse_v6(data: bytes) -> Name | None:
    if len(data) < _V6.size - 4:  # RFC 2133's, without a scope, is understood, too
        return None
    _, port, _, packed, scope = _V6.unpack_from(data.ljust(_V6.size, b"\0"))
    if packed.startswith(_MAPPED):
        address = socket.inet_ntop(socket.AF_INET, packed[12:])
    else:
        address = socket.inet_ntop(socket.AF_INET6, packed)
    return Name(socket.AF_INET6, (address, int.from_bytes(port, "big")), scope)


def encode(family: int, address: Address) -> bytes:
    """Return `address` as the sockaddr of a socket of this family."""
    host, port = address[0], address[1].to_bytes(2, "big")
    if family == socket.AF_INET:
        return _V4.pack(family, port, socket.inet_pton(family, host))
    if ":" in host:
        packed = socket.inet_pton(family, host)
    else:
        packed = _MAPPED + socket.inet_pton(socket.AF_INET, host)
    return _V6.pack(family, port, 0, packed, 0)


def parse_header(data: bytes) -> Header:
    """Read a msghdr, of which `data` has all."""
    name, length, pieces, count, control, control_length, _ = HEADER.unpack_from(data)
    return Header(name, length, pieces, min(count, _MOST_PIECES), control, control_length)


def parse_pieces(data: bytes) -> list[tuple[int, int]]:
    """Return (address, length) of each iovec in `data`."""
    return [_PIECE.unpack_from(data, at) for at in range(0, len(data) - 15, _PIECE.size)]


def parse_control(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (level, kind, content) of each control message."""
    at = 0
    while at + _CONTROL.size <= len(data):
        length, level, kind = _CONTROL.unpack_from(data, at)
        if length < _CONTROL.size:
            return
        yield level, kind, data[at + _CONTROL.size : at + length]
        at += -(-length // 8) * 8


def encode_control(messages: Iterable[tuple[int, int, bytes]]) -> bytes:
    """Return control messages as the kernel lays them out (CMSG_ALIGN is 8)."""
    parts = []
    for level, kind, content in messages:
        length = _CONTROL.size + len(content)
        padding = bytes(-length % 8)
        parts.append(_CONTROL.pack(length, level, kind) + content + padding)
    return b"".join(parts)


def scatter(data: bytes, pieces: Iterable[tuple[int, int]]) -> list[tuple[int, bytes]]:
    """Return what to write where, to spread `data` over buffers."""
    writes = []
    for address, length in pieces:
        if not data:
            break
        if length:
            writes.append((address, data[:length]))
            data = data[length:]
    return writes
