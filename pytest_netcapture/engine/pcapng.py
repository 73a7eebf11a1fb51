"""Writes pcapng (draft-ietf-opsawg-pcapng): one section, one interface of IP packets, TLS secrets.

1. Secrets come before the packets that need them, or Wireshark does not decrypt them.
2. Times are nanoseconds since 1970. What is longer than a field is cut, never wrapped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

_SECTION, _INTERFACE, _PACKET, _SECRETS, _STATISTICS = 0x0A0D0D0A, 1, 6, 10, 5
_BYTE_ORDER = 0x1A2B3C4D
_LINKTYPE_RAW = 101
_TLS_KEY_LOG = 0x544C534B
_END_OF_OPTIONS, _COMMENT = 0, 1
_APPLICATION, _NAME, _RESOLUTION, _DROPPED = 4, 2, 9, 5
_NANOSECONDS = b"\x09"
_LONGEST_OPTION = 0xFFFF


class Packet(NamedTuple):
    """An IP packet, `at` nanoseconds since 1970."""

    at: int
    data: bytes


def encode(
    packets: Sequence[Packet],
    *,
    secrets: bytes = b"",
    comments: Mapping[int, Sequence[str]] | None = None,
    dropped: int = 0,
) -> Iterator[bytes]:
    """Yield the blocks of a file; `comments` are those of the packets at these places."""
    section = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1)
    yield _block(_SECTION, section, [(_APPLICATION, b"pytest-netcapture")])
    if secrets:
        yield _block(_SECRETS, struct.pack("<II", _TLS_KEY_LOG, len(secrets)) + _padded(secrets))
    interface = struct.pack("<HHI", _LINKTYPE_RAW, 0, 0)
    yield _block(_INTERFACE, interface, [(_NAME, b"sandbox"), (_RESOLUTION, _NANOSECONDS)])
    for place, packet in enumerate(packets):
        said = (comments or {}).get(place, ())
        yield _packet(packet, [(_COMMENT, text.encode("utf-8", "replace")) for text in said])
    if dropped:
        at = packets[-1].at if packets else 0
        body = struct.pack("<III", 0, at >> 32, at & 0xFFFFFFFF)
        yield _block(_STATISTICS, body, [(_DROPPED, struct.pack("<Q", dropped))])


def _packet(packet: Packet, options: list[tuple[int, bytes]]) -> bytes:
    at, size = packet.at, len(packet.data)
    head = struct.pack("<IIIII", 0, at >> 32, at & 0xFFFFFFFF, size, size)
    return _block(_PACKET, head + _padded(packet.data), options)


def _block(kind: int, body: bytes, options: Iterable[tuple[int, bytes]] = ()) -> bytes:
    encoded = b"".join(_option(code, value) for code, value in options)
    if encoded:
        encoded += struct.pack("<HH", _END_OF_OPTIONS, 0)
    length = struct.pack("<I", 12 + len(body) + len(encoded))
    return struct.pack("<I", kind) + length + body + encoded + length


def _option(code: int, value: bytes) -> bytes:
    value = value[:_LONGEST_OPTION]
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
