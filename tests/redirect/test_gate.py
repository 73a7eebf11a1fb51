"""The gate without sockets: what it makes of bytes."""

import socket
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect import netlink
from pytest_netcapture.redirect.base import Verdict
from pytest_netcapture.redirect.gate import Pending, encode_binding, encode_verdict, parse_packets
from pytest_netcapture.redirect.packets import Syn, parse_syn

V4 = bytes.fromhex(
    "4500003c1234400040060000c00002010808080815b301bb0000000700000000a002fd000000000002040000"
)
CLIENT, SERVER = ("192.0.2.1", 5555), ("8.8.8.8", 443)


def tcp_header(sequence=7, size=20):
    return struct.pack("!HHIIBBHHH", 5555, 443, sequence, 0, (size // 4) << 4, 2, 1000, 0, 0)


def ipv6(next_header, rest):
    addresses = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(
        socket.AF_INET6, "2606::1"
    )
    return struct.pack("!IHBB", 6 << 28, len(rest), next_header, 64) + addresses + rest


def queued(number, packet):
    """Build the message by which the kernel hands over a packet."""
    body = struct.pack("!BBH", socket.AF_INET, 0, k.QUEUE_NUMBER)
    body += netlink.attribute(k.NFQA_PACKET_HDR, struct.pack("!IHB", number, 0x800, 0))
    body += netlink.attribute(k.NFQA_PAYLOAD, packet)
    return netlink.message(k.NFNL_SUBSYS_QUEUE << 8 | k.NFQNL_MSG_PACKET, body)


def test_reads_an_ipv4_syn():
    assert parse_syn(V4) == Syn(CLIENT, SERVER, 7)


def test_reads_an_ipv4_syn_with_options():
    packet = bytearray(V4)
    packet[0] = 0x46
    packet[20:20] = b"\x01\x01\x01\x00"
    assert parse_syn(bytes(packet)) == Syn(CLIENT, SERVER, 7)


def test_reads_an_ipv6_syn_behind_extension_headers():
    expected = Syn(("2001:db8::1", 5555), ("2606::1", 443), 7)
    assert parse_syn(ipv6(6, tcp_header())) == expected
    options = bytes([6, 1]) + bytes(14) + tcp_header()
    assert parse_syn(ipv6(0, options)) == expected
    assert parse_syn(ipv6(44, bytes([6]) + bytes(7) + tcp_header())) == expected
    assert parse_syn(ipv6(44, bytes([6, 0, 0, 8]) + bytes(4) + tcp_header())) is None
    assert parse_syn(ipv6(51, bytes([6, 4]) + bytes(22) + tcp_header())) == expected


def test_other_packets_are_nothing():
    for packet in (
        b"",
        V4[:30],
        bytes(60),
        ipv6(17, tcp_header()),
        ipv6(0, b"\x00\x00"),
        b"\x60" * 39,
    ):
        assert parse_syn(packet) is None


def test_reads_what_the_kernel_hands_over():
    data = queued(1, V4) + queued(2, b"")
    assert list(parse_packets(data)) == [(1, V4), (2, b"")]


def test_a_verdict_marks_the_packet_only_when_it_is_not_accepted():
    for verdict in Verdict:
        [(kind, _, body)] = netlink.messages(encode_verdict(5, verdict))
        assert kind == k.NFNL_SUBSYS_QUEUE << 8 | k.NFQNL_MSG_VERDICT
        found = {name: bytes(value) for name, value in netlink.attributes(body[4:])}
        assert found.pop(k.NFQA_VERDICT_HDR) == struct.pack("!II", k.NF_ACCEPT, 5)
        assert found == ({k.NFQA_MARK: struct.pack("!I", verdict)} if verdict else {})


def test_binding_asks_to_fail_open():
    [(_, _, body)] = netlink.messages(encode_binding(fail_open=True))
    assert k.NFQA_CFG_FLAGS in dict(netlink.attributes(body[4:]))
    [(_, _, body)] = netlink.messages(encode_binding(fail_open=False))
    assert k.NFQA_CFG_FLAGS not in dict(netlink.attributes(body[4:]))


def test_a_question_is_asked_once_and_its_answer_is_for_all():
    pending, syn = Pending(), Syn(CLIENT, SERVER, 7)
    assert pending.arrive(1, V4) == (syn, None)
    assert pending.arrive(2, V4) == (None, None)
    assert pending.answer(syn, Verdict.REFUSE) == [1, 2]
    assert pending.answer(syn, Verdict.ACCEPT) == []
    assert pending.arrive(3, V4) == (syn, Verdict.REFUSE)


def test_a_new_try_from_the_same_port_is_a_new_question():
    pending = Pending()
    syn, _ = pending.arrive(1, V4)
    pending.answer(syn, Verdict.REFUSE)
    again = V4[:24] + b"\x00\x00\x00\x09" + V4[28:]
    assert pending.arrive(2, again) == (Syn(CLIENT, SERVER, 9), None)


def test_what_is_not_understood_passes():
    assert Pending().arrive(1, b"?") == (None, Verdict.ACCEPT)


def test_memory_of_answers_is_bounded():
    pending = Pending()
    for number in range(5000):
        syn, _ = pending.arrive(number, V4[:24] + number.to_bytes(4, "big") + V4[28:])
        pending.answer(syn, Verdict.DROP)
    assert len(pending) == 0
    assert len(pending._answered) == 4096


@settings(database=None)
@given(st.binary(max_size=200))
def test_any_bytes_can_be_a_packet(data):
    parse_syn(data)
    Pending().arrive(1, data)


@settings(database=None)
@given(st.sampled_from([V4, ipv6(0, bytes(80)), ipv6(6, tcp_header())]), st.data())
def test_any_damage_can_be_read(packet, data):
    packet = bytearray(packet)
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(packet)))
    parse_syn(bytes(packet[:cut]))
    list(parse_packets(bytes(packet)))
    message = bytearray(queued(1, bytes(packet)))
    message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    list(parse_packets(bytes(message[: data.draw(st.integers(0, len(message)))])))


@settings(database=None)
@given(st.binary(max_size=200))
def test_any_bytes_can_be_netlink(data):
    list(parse_packets(data))
    netlink.errors(data)
    for _, _, body in netlink.messages(data):
        list(netlink.attributes(body))


@settings(database=None)
@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=40)), max_size=5))
def test_messages_and_attributes_are_read_as_written(parts):
    parts = [(kind & k.NLA_TYPE_MASK, data) for kind, data in parts]
    body = b"".join(netlink.attribute(kind, data) for kind, data in parts)
    [(kind, sequence, view)] = netlink.messages(netlink.message(77, body, sequence=3))
    assert (kind, sequence) == (77, 3)
    assert [(kind, bytes(data)) for kind, data in netlink.attributes(view)] == parts
