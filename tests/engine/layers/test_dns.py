"""DNS messages: what we write is what dnspython reads, and the other way round."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netcapture.engine.layers import dns as wire
from pytest_netcapture.flows import DnsAnswer, DnsFlow


def query(name: str = "Ex.Ample.com", kind: str = "A", **options: object) -> bytes:
    return dns.message.make_query(name, kind, **options).to_wire()  # type: ignore[arg-type]


def flow(*answers: DnsAnswer, rcode: str = "NOERROR") -> DnsFlow:
    return DnsFlow(name="ex.ample.com", type="A", rcode=rcode, answers=list(answers))


def question(message: bytes) -> wire.Question:
    parsed = wire.parse_query(message)
    assert parsed is not None
    return parsed


class TestQuery:
    def test_a_plain_one(self) -> None:
        parsed = question(query())
        assert (parsed.name, parsed.type, parsed.edns, parsed.size) == (
            "ex.ample.com",
            "A",
            False,
            512,
        )

    def test_edns(self) -> None:
        parsed = question(query(use_edns=0, payload=4096, want_dnssec=True))
        assert (parsed.edns, parsed.size, parsed.dnssec) == (True, 4096, True)

    @pytest.mark.parametrize("kind", ["AAAA", "HTTPS", "SRV", "TXT", "TYPE65280", "DNSKEY"])
    def test_types(self, kind: str) -> None:
        assert question(query(kind=kind)).type == kind

    @pytest.mark.parametrize("name", ["_dmarc.a.example", ".", "a\\.b.c", "xn--caf-dma.example"])
    def test_names(self, name: str) -> None:
        assert question(query(name)).name == name

    def test_what_is_no_query(self) -> None:
        assert wire.parse_query(b"") is None
        assert wire.format_error(b"short") is None
        response = dns.message.make_response(dns.message.from_wire(query())).to_wire()
        assert wire.parse_query(response) is None
        assert wire.format_error(response) is None

    def test_a_broken_query_gets_a_format_error(self) -> None:
        message = query()[:-3]
        assert wire.parse_query(message) is None
        answer = dns.message.from_wire(wire.format_error(message) or b"")
        assert answer.rcode() == dns.rcode.FORMERR

    @given(st.binary(max_size=80))
    @settings(max_examples=200, deadline=None)
    def test_anything_gets_an_answer(self, data: bytes) -> None:
        parsed = wire.parse_query(query()[:12] + data)
        if parsed is not None:
            wire.build_response(parsed, flow(), tcp=False)
        wire.parse_query(data)
        wire.format_error(data)
        wire.fill_from_response(flow(), data)


ANSWERS = [
    DnsAnswer("ex.ample.com", "CNAME", 30, "other.example."),
    DnsAnswer("other.example", "A", 60, "192.0.2.1"),
    DnsAnswer("ex.ample.com", "A", 60, "192.0.2.2"),
    DnsAnswer("ex.ample.com", "AAAA", 60, "2001:db8::1"),
    DnsAnswer("ex.ample.com", "MX", 5, "10 mail.example."),
    DnsAnswer("ex.ample.com", "TXT", 5, '"a b" "c"'),
    DnsAnswer("ex.ample.com", "SRV", 5, "1 2 443 a.example."),
    DnsAnswer("ex.ample.com", "HTTPS", 5, '1 . alpn="h2"'),
]


class TestResponse:
    def test_answers_survive(self) -> None:
        message = query(use_edns=0)
        built = wire.build_response(question(message), flow(*ANSWERS), tcp=False)
        parsed = dns.message.from_wire(built)
        assert parsed.is_response is not None
        assert dns.message.from_wire(message).is_response(parsed)
        assert parsed.flags & dns.flags.RA
        assert parsed.flags & dns.flags.RD
        assert parsed.edns == 0
        found = DnsFlow(name="", type="")
        wire.fill_from_response(found, built)
        assert (found.rcode, sorted(found.answers, key=repr)) == (
            "NOERROR",
            sorted(ANSWERS, key=repr),
        )

    def test_the_case_of_the_question_is_echoed(self) -> None:
        built = wire.build_response(question(query("eX.aMpLe.CoM")), flow(ANSWERS[2]), tcp=False)
        assert b"\x02eX\x05aMpLe\x03CoM\0" in built

    @pytest.mark.parametrize("rcode", ["NXDOMAIN", "SERVFAIL", "REFUSED", "BADVERS"])
    def test_codes(self, rcode: str) -> None:
        built = wire.build_response(question(query(use_edns=0)), flow(rcode=rcode), tcp=False)
        assert dns.rcode.to_text(dns.message.from_wire(built).rcode()) == rcode

    def test_no_code_is_a_failure(self) -> None:
        built = wire.build_response(question(query()), flow(rcode=""), tcp=False)
        assert dns.message.from_wire(built).rcode() == dns.rcode.SERVFAIL

    def test_too_large_for_udp_is_truncated(self) -> None:
        many = [DnsAnswer("ex.ample.com", "A", 1, f"192.0.2.{i}") for i in range(60)]
        for edns, tcp, truncated in [(-1, False, True), (-1, True, False), (0, False, False)]:
            asked = question(query(use_edns=edns, payload=1400))
            parsed = dns.message.from_wire(wire.build_response(asked, flow(*many), tcp=tcp))
            assert bool(parsed.flags & dns.flags.TC) is truncated
            assert bool(parsed.answer) is not truncated

    def test_records_that_cannot_be_written_are_left_out(self) -> None:
        bad = DnsAnswer("ex.ample.com", "A", 1, "nonsense")
        parsed = dns.message.from_wire(wire.build_response(question(query()), flow(bad), tcp=False))
        assert not parsed.answer


PLAIN = st.builds(
    DnsAnswer,
    st.sampled_from(["ex.ample.com", "other.example", "a_b-c.x"]),
    st.just("A"),
    st.integers(0, 1 << 20),
    st.ip_addresses(v=4).map(str),
)
ADDRESSES = st.builds(
    lambda a, ip: DnsAnswer(a.name, "AAAA", a.ttl, ip), PLAIN, st.ip_addresses(v=6).map(str)
)
ALIASES = PLAIN.map(lambda a: DnsAnswer(a.name, "CNAME", a.ttl, "target.example."))


class TestPlainAnswers:
    """What is read by hand is what dnspython reads."""

    @given(
        st.lists(
            st.one_of(PLAIN, ADDRESSES, ALIASES), max_size=5, unique_by=lambda a: (a.name, a.type)
        ),
        st.sampled_from(["NOERROR", "NXDOMAIN", "SERVFAIL"]),
        st.integers(-1, 0),
    )
    @settings(max_examples=100, deadline=None)
    def test_as_dnspython(self, answers: list[DnsAnswer], rcode: str, edns: int) -> None:
        asked = dns.message.from_wire(query(use_edns=edns))
        message = dns.message.make_response(asked)
        message.set_rcode(dns.rcode.from_text(rcode))
        for each in answers:
            message.answer.append(
                dns.rrset.from_text(each.name + ".", each.ttl, "IN", each.type, each.data)
            )
        by_hand, by_library = flow(), flow()
        wire.fill_from_response(by_hand, message.to_wire())
        wire._fill_by_dnspython(by_library, message.to_wire())
        assert by_hand == by_library
        assert len(by_hand.answers) == len(answers)

    @given(st.binary(max_size=60), st.integers(12, 80), st.integers(0, 40))
    @settings(max_examples=300, deadline=None)
    def test_damage_never_raises_and_is_not_misread(self, noise: bytes, at: int, size: int) -> None:
        whole = wire.build_response(question(query(use_edns=0)), flow(*ANSWERS[:4]), tcp=False)
        damaged = whole[:at] + noise + whole[at + size :]
        by_hand, by_library = flow(), flow()
        wire.fill_from_response(by_hand, damaged)
        wire._fill_by_dnspython(by_library, damaged)
        if by_library.rcode != "SERVFAIL":
            assert len(by_hand.answers) >= len(by_library.answers)

    def test_a_pointer_that_loops(self) -> None:
        message = bytes.fromhex("000181800001000000000000c00c00010001")
        wire.fill_from_response(flow(), message)


class TestTcp:
    @given(st.lists(st.binary(max_size=40), max_size=5), st.integers(1, 7))
    @settings(max_examples=100, deadline=None)
    def test_pipelined_messages_however_cut(self, messages: list[bytes], size: int) -> None:
        stream = b"".join(map(wire.frame, messages))
        framing = wire.TcpFraming()
        out: list[bytes] = []
        for start in range(0, len(stream), size):
            out += framing.feed(stream[start : start + size])
        assert out == messages
        assert framing.pending == b""


class TestWholeMessages:
    """What is recorded of a response makes the same response again."""

    def test_all_sections(self) -> None:
        soa = DnsAnswer("example.com", "SOA", 60, "ns.example.com. a.example.com. 1 2 3 4 5")
        glue = DnsAnswer("ns.example.com", "A", 60, "192.0.2.1")
        asked = question(query(use_edns=0))
        first = flow(*ANSWERS[:2])
        first.authority, first.additional = [soa], [glue]
        again = flow()
        wire.fill_from_response(again, wire.build_response(asked, first, tcp=False))
        assert again == first

    def test_a_truncated_answer_stays_so_but_over_tcp(self) -> None:
        first = flow(ANSWERS[0])
        first.truncated = True
        for tcp in (False, True):
            again = flow()
            wire.fill_from_response(again, wire.build_response(question(query()), first, tcp=tcp))
            assert again.truncated is not tcp
            assert again.answers == first.answers
