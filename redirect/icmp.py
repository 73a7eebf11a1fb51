"""ICMP errors: "port unreachable" is a UDP client's ECONNREFUSED, "host unreachable" EHOSTUNREACH.

1. The error quotes the headers of the packet that it is about, as the kernel looks the client's
   socket up by them (a TCP one also by the sequence number); the quoted packet is rebuilt from its
   addresses, its length is not kept.
2. The checksum of ICMPv6 is the kernel's work, that of ICMP ours (raw(7)).
3. The kernel cannot be asked to send them (nftables' reject): for IPv4 it would do so from the
   address that the client wrote to, which is none of the namespace's own (plumbing.py, rule 3).

RFC 792, RFC 4443 §3.1. Tests: test_datagrams.py, test_tproxy_datagrams.py.
"""

from __future__ import annotations

import socket
import struct

from pytest_netcapture.redirect.base import Address

_UNREACHABLE_V4, _HOST_V4, _PORT_V4 = 3, 1, 3
_UNREACHABLE_V6, _HOST_V6, _PORT_V6 = 1, 3, 4
_QUOTED = 8
"""Bytes of the transport's header that are quoted: all of UDP's, what matters of TCP's."""


def port_unreachable(client: Address, server: Address) -> bytes:
    """Say to `client` that its datagram found nobody at `server`."""
    udp = struct.pack("!HHHH", client[1], server[1], _QUOTED, 0)
    if ":" in server[0]:
        return _error_v6(_PORT_V6, _ipv6_header(client, server, socket.IPPROTO_UDP) + udp)
    return _error_v4(_PORT_V4, _ipv4_header(client, server, socket.IPPROTO_UDP) + udp)


def host_unreachable(client: Address, server: Address, sequence: int) -> bytes:
    """Say to `client` that its SYN with that sequence number found no way to `server`."""
    tcp = struct.pack("!HHI", client[1], server[1], sequence)
    if ":" in server[0]:
        return _error_v6(_HOST_V6, _ipv6_header(client, server, socket.IPPROTO_TCP) + tcp)
    return _error_v4(_HOST_V4, _ipv4_header(client, server, socket.IPPROTO_TCP) + tcp)


def _error_v4(code: int, quoted: bytes) -> bytes:
    start = struct.pack("!BB", _UNREACHABLE_V4, code)
    return start + struct.pack("!HI", checksum(start + bytes(6) + quoted), 0) + quoted


def _error_v6(code: int, quoted: bytes) -> bytes:
    return struct.pack("!BBHI", _UNREACHABLE_V6, code, 0, 0) + quoted


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ipv4_header(client: Address, server: Address, protocol: int) -> bytes:
    addresses = b"".join(socket.inet_pton(socket.AF_INET, a) for a, _ in (client, server))
    return struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, protocol, 0) + addresses


def _ipv6_header(client: Address, server: Address, protocol: int) -> bytes:
    addresses = b"".join(socket.inet_pton(socket.AF_INET6, a) for a, _ in (client, server))
    return struct.pack("!IHBB", 6 << 28, _QUOTED, protocol, 64) + addresses
