"""The table of UDP flows, in virtual time, and the bytes around it."""

import socket
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect.datagrams import (
    BACKLOG,
    DNS_IDLE,
    IDLE,
    FlowTable,
    encode_datagram,
    original_destination,
)
from pytest_netcapture.redirect.icmp import checksum, host_unreachable, port_unreachable

CLIENT, SERVER, DNS = ("192.0.2.1", 5000), ("8.8.8.8", 4000), ("8.8.8.8", 53)


def test_only_the_first_datagram_opens_a_flow():
    table, got = FlowTable(), []
    flow = table.arrive(CLIENT, SERVER, b"1", 0)
    assert table.arrive(CLIENT, SERVER, b"2", 0) is None
    assert table.arrive(CLIENT, SERVER, b"3", 0) is None
    flow.listen(got.append)
    assert table.arrive(CLIENT, SERVER, b"4", 0) is None
    assert got == [b"2", b"3", b"4"]


def test_flows_are_told_apart_by_both_ends():
    table = FlowTable()
    ends = [(CLIENT, SERVER), (CLIENT, DNS), (SERVER, CLIENT)]
    assert all(table.arrive(*pair, b"", 0) for pair in ends)
    assert len(table) == 3


def test_what_comes_while_a_backlog_is_handed_over_keeps_its_place():
    table, got = FlowTable(), []
    flow = table.arrive(CLIENT, SERVER, b"", 0)
    table.arrive(CLIENT, SERVER, b"1", 0)

    def listener(data):
        got.append(data)
        if data == b"1":
            table.arrive(CLIENT, SERVER, b"2", 0)

    flow.listen(listener)
    assert got == [b"1", b"2"]


def test_an_idle_flow_ends_and_says_so():
    table, ended = FlowTable(), []
    flow = table.arrive(CLIENT, SERVER, b"", 0)
    flow.on_end(lambda: ended.append(1))
    table.arrive(CLIENT, SERVER, b"", 5)
    assert table.next_deadline() == IDLE + 5
    table.expire(IDLE + 4)
    assert not ended
    table.expire(IDLE + 5)
    assert ended == [1]
    assert table.next_deadline() is None
    assert table.arrive(CLIENT, SERVER, b"", IDLE + 6) is not flow


def test_a_dns_flow_ends_soon_after_its_reply():
    table = FlowTable()
    flow = table.arrive(CLIENT, DNS, b"", 0)
    assert table.next_deadline() == IDLE
    table.replied(flow, 10)
    assert table.next_deadline() == DNS_IDLE + 10
    table.arrive(CLIENT, DNS, b"", 20)
    assert table.next_deadline() == IDLE + 20


def test_too_many_flows_end_the_one_idle_the_longest():
    table, ended = FlowTable(limit=2), []
    for port in (1, 2):
        flow = table.arrive(CLIENT, ("8.8.8.8", port), b"", port)
        flow.on_end(lambda port=port: ended.append(port))
    table.arrive(CLIENT, ("8.8.8.8", 1), b"", 3)
    table.arrive(CLIENT, ("8.8.8.8", 3), b"", 4)
    assert ended == [2]
    assert len(table) == 2


def test_all_end_when_the_namespace_is_anothers():
    table, ended = FlowTable(), []
    for port in (1, 2):
        flow = table.arrive(CLIENT, ("8.8.8.8", port), b"", port)
        flow.on_end(lambda port=port: ended.append(port))
    table.clear()
    assert (sorted(ended), len(table)) == ([1, 2], 0)
    table.clear()
    assert table.arrive(CLIENT, ("8.8.8.8", 1), b"", 3)


def test_closing_tells_nobody_and_is_idempotent():
    table, ended = FlowTable(), []
    flow = table.arrive(CLIENT, SERVER, b"", 0)
    flow.on_end(lambda: ended.append(1))
    table.close(flow)
    table.close(flow)
    again = table.arrive(CLIENT, SERVER, b"", 1)
    table.close(flow)
    assert len(table) == 1
    table.replied(flow, 2)
    assert again.deadline == IDLE + 1
    flow.end()
    assert not ended


def test_the_backlog_is_bounded():
    table, got = FlowTable(), []
    flow = table.arrive(CLIENT, SERVER, b"", 0)
    for number in range(BACKLOG + 10):
        table.arrive(CLIENT, SERVER, b"%d" % number, 0)
    flow.listen(got.append)
    assert got == [b"%d" % n for n in range(BACKLOG)]


def test_the_header_of_a_reply():
    assert encode_datagram(53, 5000, b"abc") == struct.pack("!HHHH", 53, 5000, 11, 0) + b"abc"


def test_reads_where_a_datagram_was_going():
    v4 = struct.pack("=H", socket.AF_INET) + b"\x00\x35\x08\x08\x08\x08" + bytes(8)
    v6 = (
        struct.pack("=H", socket.AF_INET6) + b"\x00\x35" + bytes(4) + bytes(15) + b"\x01" + bytes(4)
    )
    assert original_destination([(socket.IPPROTO_IP, k.IP_RECVORIGDSTADDR, v4)]) == ("8.8.8.8", 53)
    assert original_destination([(socket.IPPROTO_IPV6, k.IPV6_RECVORIGDSTADDR, v6)]) == ("::1", 53)
    assert original_destination([(socket.SOL_SOCKET, 1, v4)]) is None


@settings(database=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 41]), st.sampled_from([20, 74]), st.binary(max_size=30)))
)
def test_any_ancillary_data_can_be_read(ancillary):
    original_destination(ancillary)


STEPS = st.tuples(
    st.sampled_from(["arrive", "close", "expire", "reply"]), st.integers(0, 3), st.integers(0, IDLE)
)


@settings(database=None)
@given(st.lists(STEPS, max_size=40))
def test_no_datagram_is_lost_or_reordered(steps):
    """Whatever ends flows: per pair, all that was sent is received, in order, within the backlog."""
    table, now, sent, got, open_flows = FlowTable(limit=2), 0, [], [], {}
    for number, (what, port, wait) in enumerate(steps):
        now += wait
        flow = open_flows.get(port)
        if what == "arrive":
            sent.append((port, number))
            new = table.arrive(CLIENT, ("8.8.8.8", port), b"%d" % number, now)
            if new:
                open_flows[port] = new
                got.append((port, number))
                new.listen(lambda data, port=port: got.append((port, int(data))))
        elif what == "expire":
            table.expire(now)
        elif flow and what == "close":
            table.close(flow)
        elif flow:
            table.replied(flow, now)
        assert len(table) <= 2
    assert got == sent


def test_a_refusal_quotes_the_datagram():
    told = port_unreachable(CLIENT, DNS)
    assert told[:2] == bytes([3, 3])
    assert checksum(told) == 0
    assert told[20:28] == socket.inet_aton(CLIENT[0]) + socket.inet_aton(DNS[0])
    assert told[28:32] == struct.pack("!HH", 5000, 53)
    told = port_unreachable(("::1", 5000), ("::2", 53))
    assert told[:2] == bytes([1, 4])
    assert told[48:52] == struct.pack("!HH", 5000, 53)


def test_an_unreachable_host_quotes_the_syn():
    told = host_unreachable(CLIENT, DNS, 77)
    assert told[:2] == bytes([3, 1])
    assert checksum(told) == 0
    assert (told[17], told[28:36]) == (socket.IPPROTO_TCP, struct.pack("!HHI", 5000, 53, 77))
    told = host_unreachable(("::1", 5000), ("::2", 53), 77)
    assert told[:2] == bytes([1, 3])
    assert (told[14], told[48:56]) == (socket.IPPROTO_TCP, struct.pack("!HHI", 5000, 53, 77))


@settings(database=None)
@given(st.binary(max_size=64))
def test_a_checksum_checks(data):
    data += bytes(len(data) % 2)
    assert checksum(data + struct.pack("!H", checksum(data))) == 0
