"""The machine's own addresses, as the kernel lists them."""

import socket
import struct

import nft_bytes as nft
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redirect_lab import isolated, unshare

from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect import plumbing
from pytest_netcapture.redirect.addresses import own_addresses, parse


@pytest.mark.live
@isolated
def test_global_addresses_are_listed_and_no_others():
    unshare(k.CLONE_NEWNET)
    assert own_addresses() == ()
    plumbing.lay(("10.1.2.3", "fd00:1::3"))
    assert set(own_addresses()) == {k.OWN_V4, "10.1.2.3", k.OWN_V6, "fd00:1::3"}


def told(family, flags=0, scope=0, *attributes):
    body = struct.pack("=BBBBI", family, 24, flags, scope, 2)
    body += b"".join(nft.attr(kind, data) for kind, data in attributes)
    return struct.pack("=IHHII", 16 + len(body), k.RTM_NEWADDR, 0, 0, 0) + body


V4 = (k.IFA_LOCAL, bytes([10, 0, 0, 1]))
PEER = (k.IFA_ADDRESS, bytes([10, 0, 0, 2]))
V6 = (k.IFA_ADDRESS, bytes([0x20, 1]) + bytes(13) + b"\1")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (told(socket.AF_INET, 0, 0, PEER, V4), ["10.0.0.1"]),
        (told(socket.AF_INET, 0, 0, PEER), ["10.0.0.2"]),
        (told(socket.AF_INET6, 0, 0, V6), ["2001::1"]),
        (told(socket.AF_INET, 0, 254, V4), []),
        (told(socket.AF_INET, 0, 253, V4), []),
        (told(socket.AF_INET6, k.IFA_F_TENTATIVE, 0, V6), []),
        (told(socket.AF_INET6, k.IFA_F_DADFAILED, 0, V6), []),
        (told(socket.AF_INET6, 0, 0, V4), []),
        (told(99, 0, 0, V4), []),
        (told(socket.AF_INET), []),
    ],
)
def test_parses(data, found):
    assert list(parse(data)) == found


@settings(database=None)
@given(st.binary(max_size=100))
def test_never_raises(data):
    list(parse(data))
    list(parse(struct.pack("=IHHII", 16 + len(data), k.RTM_NEWADDR, 0, 0, 0) + data))
