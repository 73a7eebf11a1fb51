"""Conversations of bytes in a cassette: stored, found again, learned from, scrubbed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_netcapture.cassettes import records
from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.flows import Body, FlowError, Process, TcpFlow, Turn, UdpFlow
from pytest_netcapture.settings import Repeat

PLACE = ("gauge.example.com",)


def talk(*said, kind=TcpFlow, **more):
    """A conversation: the client's bytes, and the server's in tuples."""
    turns, ways = [], {True: b"", False: b""}
    for one in said:
        sent, data = (False, one[0]) if isinstance(one, tuple) else (True, one)
        turns.append(Turn(sent, len(data)))
        ways[sent] += data
    return kind(
        host=PLACE[0],
        port=7,
        address=("198.51.100.7", 7),
        process=Process(1, "gauge"),
        outgoing=Body(len(ways[True]), ways[True]),
        incoming=Body(len(ways[False]), ways[False]),
        sent=len(ways[True]),
        received=len(ways[False]),
        turns=turns,
        **more,
    )


@pytest.fixture
def keep(open_cassette):
    """Record flows; `mode` and the rest are of the cassette."""

    def keep(*flows, mode="once", **use):
        cassette = open_cassette(mode, **use)
        for flow in flows:
            cassette.record(flow)
        cassette.save()

    return keep


def script(cassette, names=PLACE, kind="tcp", **how):
    found = cassette.script(kind, names, 7, lambda: None, **how)
    assert not isinstance(found, Miss), found.reason
    return found


def said(cassette, data, **how):
    found = script(cassette, **how)
    answer = found.heard(data)
    assert not isinstance(answer, Miss), answer.reason
    found.finish()
    return b"".join(answer.content())


def test_what_was_recorded_comes_back(keep, open_cassette):
    flow = talk(b"ask", (b"answer",), error=FlowError("reset", "by peer", 6), reason="why")
    flow.turns += [Turn(False, 0, 3, "reset")]
    keep(flow)
    cassette = open_cassette("none")
    (found,) = cassette.unused
    assert (found.sent_bytes, found.received_bytes) == (b"ask", b"answer")
    assert (found.turns, found.error, found.reason) == (flow.turns, flow.error, "why")
    assert said(cassette, b"ask") == b"answer"
    assert (cassette.unused, cassette.played) == ([], 1)


@pytest.mark.parametrize("names", [PLACE, ("GAUGE.example.com.",), ("198.51.100.7",)])
def test_a_place_is_known_by_names_and_address(keep, open_cassette, names):
    keep(talk(b"ask", (b"answer",)))
    assert said(open_cassette("none"), b"ask", names=names) == b"answer"


def test_kinds_are_told_apart(keep, open_cassette):
    keep(
        talk(b"ask", (b"plain",)),
        talk(b"ask", (b"inside",), tls=True),
        talk(b"ask", (b"datagram",), kind=UdpFlow),
    )
    cassette = open_cassette("none")
    assert said(cassette, b"ask", kind="tls") == b"inside"
    assert said(cassette, b"ask", kind="tcp") == b"plain"
    assert said(cassette, b"ask", kind="udp") == b"datagram"


def test_a_later_part_does_not_begin_a_connection(keep, open_cassette):
    keep(talk((b"hi",), b"ask", later=True), talk(b"ask", (b"first",)))
    cassette = open_cassette("none")
    assert not cassette.speaks_first("tcp", PLACE, 7)
    assert script(cassette, later=True).speaks_first
    assert said(cassette, b"ask") == b"first"


def test_order_is_that_of_the_beginning(keep, open_cassette):
    flows = [talk((b"hello %d" % n,), b"ask", id=n) for n in range(3)]
    keep(flows[2], flows[0], flows[1])
    cassette = open_cassette("none")
    heard = [b"".join(script(cassette).begin().content()) for _ in range(3)]
    assert heard == [b"hello 0", b"hello 1", b"hello 2"]


@pytest.mark.parametrize(
    ("repeat", "expected"),
    [(Repeat.ONCE, None), (Repeat.LAST, None), (Repeat.ANY, b"1"), (Repeat.CYCLE, b"1")],
)
def test_what_comes_when_all_were_played(keep, open_cassette, repeat, expected):
    keep(talk(b"one", (b"1",)), talk(b"two", (b"2",)))
    cassette = open_cassette("none", repeat=repeat)
    assert (said(cassette, b"one"), said(cassette, b"two")) == (b"1", b"2")
    found = cassette.script("tcp", PLACE, 7, lambda: None)
    if repeat is Repeat.ONCE:
        assert found.kind is MissKind.USED_UP
    elif expected is None:
        assert isinstance(found.heard(b"one"), Miss)
    else:
        assert said(cassette, b"one") == expected


def test_a_place_that_was_never_seen(keep, open_cassette):
    keep(talk(b"one", (b"1",)))
    found = open_cassette("none").script("tcp", ("other.example",), 7, lambda: None)
    assert found.reason == "never recorded: no TCP conversation with other.example:7"


def test_what_was_opaque_says_why(keep, open_cassette):
    keep(TcpFlow(host=PLACE[0], port=7, sent=10, received=20, reason="passthrough (*)"))
    found = open_cassette("none").script("tls", PLACE, 7, lambda: None)
    assert found.reason == "what was said was not recorded: passthrough (*)"


def test_mode_all_learns_from_what_it_replaces(keep, open_cassette):
    keep(talk(b"GET a", (b"A",)), talk(b"at 1700000001", (b"ok 1700000001",)))
    keep(talk(b"at 1700000777", (b"ok 1700000777",)), talk(b"GET a", (b"A",)), mode="all")
    cassette = open_cassette("none")
    masks = {flow.sent_bytes[:2]: (flow.masks, flow.echoes) for flow in cassette.unused}
    assert masks == {b"GE": ([], []), b"at": ([(3, 13)], [(3, 3, 10)])}
    assert said(cassette, b"at 1799999999") == b"ok 1799999999"


def test_mode_rewrite_forgets(keep, open_cassette):
    keep(talk(b"at 1700000001"))
    keep(talk(b"at 1700000777"), mode="rewrite")
    (flow,) = open_cassette("none").unused
    assert flow.masks == []


SECRET = b"hunter2-is-secret"


@pytest.mark.parametrize("size", [10, 3 << 20])
def test_secrets_keep_their_length(keep, open_cassette, size):
    flow = talk(b"login " + SECRET + b" now" + bytes(size), (b"hello " + SECRET,))
    keep(flow, environ={"GAUGE_PASSWORD": SECRET.decode()})
    cassette = open_cassette("none")
    with open(cassette.path, "rb") as file:
        assert SECRET not in file.read()
    (found,) = cassette.unused
    assert found.masks == [(6, 6 + len(SECRET))]
    other = b"login " + b"x" * len(SECRET) + b" now" + bytes(size)
    answer = said(cassette, other)
    assert answer.startswith(b"hello scrubbed-")
    assert len(answer) == 6 + len(SECRET)


def test_a_record_of_before_is_a_summary():
    """What older versions wrote: no bytes, no turns."""
    old = {"kind": "tcp", "host": "h", "port": 1, "sent": 3, "received": 4, "sni": "s"}
    record = records.decode(msgspec.msgpack.encode(old))
    assert isinstance(record, records.TcpRecord)
    assert (record.turns, record.outgoing, record.sni) == ([], None, "s")
    dns = {"kind": "dns", "name": "a.example", "type": "A", "rcode": "NOERROR"}
    assert records.decode(msgspec.msgpack.encode(dns)).transport == "udp"


pieces = st.tuples(st.booleans(), st.binary(min_size=1, max_size=20))


@given(st.lists(st.lists(pieces, min_size=1, max_size=5), min_size=1, max_size=4))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_conversations_are_played_in_their_order(open_cassette, talks):
    flows = [talk(*(data if sent else (data,) for sent, data in one)) for one in talks]
    for number, flow in enumerate(flows):
        flow.id = number
    recording = open_cassette("rewrite", started=1 << 62)
    for flow in flows:
        recording.record(flow)
    recording.save()
    cassette = open_cassette("none")
    for flow in flows:
        found = script(cassette)
        heard = []
        if found.speaks_first:
            heard.append(found.begin())
        if flow.sent:
            heard.append(found.heard(flow.sent_bytes))
        assert all(not isinstance(one, Miss) for one in heard)
        assert b"".join(b"".join(one.content()) for one in heard) == flow.received_bytes
        found.finish()
    assert cassette.unused == []
