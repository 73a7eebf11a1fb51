"""TCP resets in answer to a SYN: a client's ECONNREFUSED (RFC 9293 §3.5.2).

A reset is accepted when it acknowledges the SYN. The kernel does not fill the checksum of what a
raw socket sends. Tests: test_resets.py.
"""

from __future__ import annotations

import socket
import struct

from pytest_netcapture.redirect.icmp import checksum
from pytest_netcapture.redirect.packets import Syn
from pytest_netcapture.redirect.transparent import families, raw_sender, send_as

_RST_ACK = 0x14
_HEADER_WORDS = 5


def encode(syn: Syn) -> bytes:
    """Return the reset of `syn.server` to `syn.client`."""
    ports = syn.server[1], syn.client[1]
    acknowledged = (syn.sequence + 1) & 0xFFFF_FFFF

    def header(check: int) -> bytes:
        fields = (*ports, 0, acknowledged, _HEADER_WORDS << 4, _RST_ACK, 0, check, 0)
        return struct.pack("!HHIIBBHHH", *fields)

    return header(checksum(_pseudo_header(syn, len(header(0))) + header(0)))


def _pseudo_header(syn: Syn, length: int) -> bytes:
    family = socket.AF_INET6 if ":" in syn.server[0] else socket.AF_INET
    addresses = b"".join(socket.inet_pton(family, end[0]) for end in (syn.server, syn.client))
    return addresses + struct.pack("!II", length, socket.IPPROTO_TCP)


def reset_senders(*, ipv6: bool) -> dict[int, socket.socket]:
    """Make the raw sockets. Raises `EnvironmentProblem`."""
    return {family: raw_sender(family, socket.IPPROTO_TCP) for family in families(ipv6=ipv6)}


class Resets:
    """A raw TCP socket a family."""

    def __init__(self, senders: dict[int, socket.socket]) -> None:
        """`senders`: of `reset_senders`."""
        self._senders = senders

    def send(self, syn: Syn) -> None:
        """Refuse a client."""
        send_as(self._senders, syn.server, syn.client, encode(syn))

    def close(self) -> None:
        """Close the sockets; idempotent. What is said after that is lost."""
        for sender in self._senders.values():
            sender.close()
        self._senders.clear()
