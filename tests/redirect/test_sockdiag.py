"""Requests to and answers of sock_diag, as bytes; and /proc/PID/stat."""

import socket
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect import netlink
from pytest_netcapture.redirect.owners import parse_counters
from pytest_netcapture.redirect.processes import parse_parent
from pytest_netcapture.redirect.sockdiag import (
    Found,
    encode_dump,
    encode_exact,
    is_last,
    parse_sockets,
)

CLIENT, SERVER = ("192.0.2.1", 5000), ("8.8.8.8", 443)


def answer(inode, mark=None):
    body = (
        struct.pack("=BBBB", socket.AF_INET, 1, 0, 0)
        + bytes(48)
        + struct.pack("=5I", 0, 0, 0, 1001, inode)
    )
    if mark is not None:
        body += netlink.attribute(k.INET_DIAG_MARK, struct.pack("=I", mark))
    return netlink.message(k.SOCK_DIAG_BY_FAMILY, body)


def test_reads_inode_and_mark():
    data = answer(77) + answer(78, k.ENGINE_MARK)
    assert list(parse_sockets(data)) == [Found(1, 77, 0), Found(1, 78, k.ENGINE_MARK)]


def test_an_exact_request_for_udp_has_its_ends_swapped():
    tcp = encode_exact(socket.IPPROTO_TCP, CLIENT, SERVER)
    udp = encode_exact(socket.IPPROTO_UDP, SERVER, CLIENT)
    assert tcp[24:] == udp[24:]
    assert tcp[24:28] == struct.pack("!HH", 5000, 443)
    assert len(tcp) == len(encode_dump(socket.AF_INET, socket.IPPROTO_TCP)) == 72


def test_the_end_of_a_dump():
    assert not is_last(answer(1))
    assert is_last(answer(1) + netlink.message(k.NLMSG_DONE, bytes(4)))
    assert is_last(netlink.message(k.NLMSG_ERROR, struct.pack("=i", -2)))


@settings(database=None)
@given(st.binary(max_size=120), st.integers(0, 119), st.integers(0, 255))
def test_any_bytes_can_be_read(data, place, value):
    list(parse_sockets(data))
    is_last(data)
    damaged = bytearray(answer(1, 2))
    damaged[place % len(damaged)] = value
    list(parse_sockets(bytes(damaged)))
    is_last(bytes(damaged))


def test_the_parent_is_found_whatever_the_name():
    assert parse_parent(b"12 (a) b) 7 (x) S 34 5 6") == 34
    assert parse_parent(b"") == 0
    assert parse_parent(b"12 (name) S") == 0


def test_reads_the_counters():
    v4 = b"sockets: used 9\nTCP: inuse 2 orphan 0 tw 7 alloc 5 mem 0\nUDP: inuse 1 mem 0\nUDPLITE: inuse 4\n"
    assert parse_counters(v4) == [2, 1]
    assert parse_counters(b"TCP6: inuse 3\nUDP6: inuse 4\nRAW6: inuse 5\n") == [3, 4]
    assert parse_counters(b"") == []
