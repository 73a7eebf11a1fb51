"""ICMP "port unreachable", by which a UDP client learns that nobody listens (ECONNREFUSED).

1. The error quotes the header of the datagram that it is about, as the kernel looks the client's
   socket up by it; the quoted datagram is rebuilt from its addresses, its length is not kept.
2. The checksum of ICMPv6 is the kernel's work, that of ICMP ours (raw(7)).

RFC 792, RFC 4443 §3.1. Tests: test_datagrams.py, test_tproxy_datagrams.py.
"""

from __future__ import annotations

import socket
import struct

from pytest_netcapture.redirect.base import Address

_UNREACHABLE_V4, _PORT_V4 = 3, 3
_UNREACHABLE_V6, _PORT_V6 = 1, 4
_UDP_SIZE = 8


def port_unreachable(client: Address, server: Address) -> bytes:
    """Say to `client` that its datagram found nobody at `server`."""
    quoted_udp = struct.pack("!HHHH", client[1], server[1], _UDP_SIZE, 0)
    if ":" in server[0]:
        quoted = _ipv6_header(client[0], server[0]) + quoted_udp
        return struct.pack("!BBHI", _UNREACHABLE_V6, _PORT_V6, 0, 0) + quoted
    quoted = _ipv4_header(client[0], server[0]) + quoted_udp
    start = struct.pack("!BB", _UNREACHABLE_V4, _PORT_V4)
    return start + struct.pack("!HI", checksum(start + bytes(6) + quoted), 0) + quoted


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ipv4_header(source: str, target: str) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET, source) + socket.inet_pton(socket.AF_INET, target)
    return struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses


def _ipv6_header(source: str, target: str) -> bytes:
    addresses = b"".join(socket.inet_pton(socket.AF_INET6, a) for a in (source, target))
    return struct.pack("!IHBB", 6 << 28, _UDP_SIZE, socket.IPPROTO_UDP, 64) + addresses
