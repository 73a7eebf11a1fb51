"""Resets, as bytes."""

from __future__ import annotations

import socket
import struct

import pytest

from pytest_netcapture.redirect.icmp import checksum
from pytest_netcapture.redirect.packets import Syn
from pytest_netcapture.redirect.resets import encode


@pytest.mark.parametrize(
    ("client", "server"), [("127.0.0.1", "127.0.0.1"), ("192.0.2.9", "127.0.0.1"), ("::1", "::1")]
)
def test_a_reset_acknowledges_the_syn_and_its_sum_is_right(client, server):
    data = encode(Syn((client, 40000), (server, 443), 0xFFFF_FFFF))
    source, target, sequence, acknowledged, offset, flags = struct.unpack_from("!HHIIBB", data)
    assert (source, target, sequence, acknowledged) == (443, 40000, 0, 0)
    assert (offset >> 4, flags) == (5, 0x14)
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    pseudo = socket.inet_pton(family, server) + socket.inet_pton(family, client)
    assert checksum(pseudo + struct.pack("!II", len(data), socket.IPPROTO_TCP) + data) == 0
