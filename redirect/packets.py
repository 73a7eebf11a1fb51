"""Reads what the gate needs from the first bytes of an IP packet.

1. Any bytes may come: what is not a whole TCP header in an IP packet is None, never an exception.
2. IPv6 extension headers are walked, a bounded number of them (RFC 8200 §4).
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from pytest_netcapture.redirect.base import Address

_EXTENSIONS = frozenset({0, 43, 60})
_AUTHENTICATION = 51
_FRAGMENT = 44
_MAX_EXTENSIONS = 8
_IPV4_HEADER, _IPV6_HEADER = 20, 40
_PORTS_AND_SEQUENCE = struct.Struct("!HHI")


class Syn(NamedTuple):
    """Who wants to connect where; the sequence number tells a retransmission from a new try."""

    client: Address
    server: Address
    sequence: int


def parse_syn(packet: bytes) -> Syn | None:
    if len(packet) < _IPV4_HEADER:
        return None
    version = packet[0] >> 4
    if version == 4:
        return _parse_ipv4(packet)
    if version == 6:
        return _parse_ipv6(packet)
    return None


def addresses_of(packet: bytes) -> tuple[Address, Address] | None:
    """Return (source, target) of a TCP segment or datagram without IPv6 extension headers."""
    if len(packet) < _IPV4_HEADER:
        return None
    if packet[0] >> 4 == 4:
        family, kind, at, size, offset = socket.AF_INET, packet[9], 12, 4, (packet[0] & 15) * 4
    else:
        family, kind, at, size, offset = socket.AF_INET6, packet[6], 8, 16, _IPV6_HEADER
    if kind not in {socket.IPPROTO_TCP, socket.IPPROTO_UDP} or offset + 4 > len(packet):
        return None
    ends = (packet[at : at + size], packet[at + size : at + 2 * size])
    ports = struct.unpack_from("!HH", packet, offset)
    source, target = (
        (socket.inet_ntop(family, end), port) for end, port in zip(ends, ports, strict=True)
    )
    return source, target


def _parse_ipv4(packet: bytes) -> Syn | None:
    offset = (packet[0] & 15) * 4
    fragment = int.from_bytes(packet[6:8], "big") & 0x1FFF
    if offset < _IPV4_HEADER or fragment or packet[9] != socket.IPPROTO_TCP:
        return None
    return _parse_tcp(packet, offset, socket.AF_INET, packet[12:16], packet[16:20])


def _parse_ipv6(packet: bytes) -> Syn | None:
    if len(packet) < _IPV6_HEADER:
        return None
    kind, offset = packet[6], _IPV6_HEADER
    for _ in range(_MAX_EXTENSIONS):
        if kind == socket.IPPROTO_TCP:
            return _parse_tcp(packet, offset, socket.AF_INET6, packet[8:24], packet[24:40])
        if offset + 8 > len(packet):
            return None
        if kind in _EXTENSIONS:
            size = (packet[offset + 1] + 1) * 8
        elif kind == _AUTHENTICATION:
            size = (packet[offset + 1] + 2) * 4
        elif kind == _FRAGMENT and not int.from_bytes(packet[offset + 2 : offset + 4], "big") >> 3:
            size = 8
        else:
            return None
        kind, offset = packet[offset], offset + size
    return None


def _parse_tcp(packet: bytes, offset: int, family: int, source: bytes, target: bytes) -> Syn | None:
    if offset + 20 > len(packet):
        return None
    sport, dport, sequence = _PORTS_AND_SEQUENCE.unpack_from(packet, offset)
    client = (socket.inet_ntop(family, source), sport)
    return Syn(client, (socket.inet_ntop(family, target), dport), sequence)
