"""What the MySQL layer does, packet by packet; real servers are in tests/services."""

from __future__ import annotations

import struct
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import Playbook, talk_unchanged

from pytest_netcapture.engine.layers.layer import Deny, Play
from pytest_netcapture.engine.layers.mysql import MysqlLayer, flags_of, without_flags
from pytest_netcapture.engine.layers.opening import OpeningLayer
from pytest_netcapture.flows import Origin
from pytest_netcapture.mysql_messages import Splitter, lenenc, packet, packets, rewritten
from pytest_netcapture.unreadable import Unreadable

SSL, PLAIN_END = 1 << 11, 1 << 24
FLAGS = 0xFFFFFFFF & ~(1 << 5 | 1 << 26 | 1 << 27)


def greeting(flags: int = FLAGS) -> bytes:
    low, high = struct.pack("<I", flags)[:2], struct.pack("<I", flags)[2:]
    head = b"\x0a5.5.5-MariaDB\0" + bytes(4) + b"saltsalt\0" + low
    return packet(head + b"\x2d\2\0" + high + b"\x15" + bytes(10) + b"saltsaltsalt\0", 0)


def login(database: str = "shop", flags: int = 0) -> bytes:
    given = 1 << 3 | 1 << 9 | 1 << 15 | flags
    head = struct.pack("<IIB23x", given, 1 << 24, 45)
    return packet(head + b"app\0" + b"\x03abc" + database.encode() + b"\0", 1)


def command(code: int, content: bytes = b"") -> bytes:
    return packet(bytes([code]) + content, 0)


def query(text: str) -> bytes:
    return command(3, text.encode())


def many(*contents: bytes, first: int = 1) -> bytes:
    return b"".join(packet(one, first + index) for index, one in enumerate(contents))


def column(name: str, kind: int = 253) -> bytes:
    texts = [b"def", b"shop", b"t", b"t", name.encode(), name.encode()]
    fixed = b"\x0c" + struct.pack("<HIBHBxx", 45, 40, kind, 0, 0)
    return b"".join(map(lenenc, texts)) + fixed


OK = b"\0\0\0\2\0\0\0"
EOF = b"\xfe\0\0\2\0"
ROWS = many(b"\2", column("id", 3), column("name"), EOF, lenenc(b"7") + lenenc(b"apple"), EOF)


class Cassette:
    def __init__(self, flows: list[Any]) -> None:
        self.left = list(flows)

    def decide(self, flow: Any) -> Play | Deny:
        for one in self.left:
            asked = [(f.step, f.question, f.values, f.session) for f in (one, flow)]
            if asked[0] == asked[1]:
                return Play(exchange=one, error=one.error)
        return Deny(Origin.UNMATCHED)


def live() -> Playbook:
    play = Playbook(OpeningLayer, has_server=True).server(greeting()).expect_client(greeting())
    play.client(login()).expect_server(login()).server(many(OK, first=2))
    play.take_client()
    return play


def replayed(*recorded: Playbook, enter: bool = True) -> Playbook:
    flows = [flow for play in recorded for flow in play.recorded]
    play = Playbook(MysqlLayer, decide=Cassette(flows).decide)
    play.layer.begin()  # type: ignore[attr-defined]
    if enter:
        play.take_client()
        play.client(login()).expect_client(many(OK, first=2))
    return play


def test_a_query_is_an_exchange_that_is_recorded_before_it_is_answered() -> None:
    play = live().client(query("SELECT 1")).expect_server(query("SELECT 1"))
    play.server(ROWS).expect_client(ROWS)
    assert play.recorded_by[-1][1] == 3
    assert [flow.step for flow in play.recorded] == ["greeting", "connect", "query"]
    assert (play.flow.user, play.flow.database) == ("app", "shop")
    assert (play.flow.columns, play.flow.rows) == (["id", "name"], [[7, "apple"]])
    replayed(play).client(query("SELECT 1")).expect_client(ROWS)


def test_the_greeting_on_replay_offers_no_encryption() -> None:
    played = replayed(live(), enter=False)
    said = packets(played.take_client())[0]
    assert flags_of(said) == FLAGS & ~SSL
    assert without_flags(said, 0) == said


def test_what_the_two_say_to_authenticate_is_no_part_of_it() -> None:
    play = Playbook(OpeningLayer, has_server=True).server(greeting()).client(login())
    play.server(packet(b"\xfemysql_native_password\0salt", 2)).client(packet(b"secret", 3))
    play.server(packet(OK, 4))
    assert play.flow.answer == packet(OK, 4)
    assert b"secret" not in repr(play.recorded).encode()


def test_a_refused_login_is_refused_again() -> None:
    refused = b"\xff\x15\x04#28000Access denied"
    play = Playbook(OpeningLayer, has_server=True).server(greeting()).client(login())
    play.server(packet(refused, 2))
    assert (play.flow.sqlstate, play.flow.message) == ("28000", "Access denied")
    played = replayed(play, enter=False)
    played.take_client()
    played.client(login()).expect_client(packet(refused, 2))


def prepared(number: int) -> bytes:
    return many(b"\0" + struct.pack("<IHHxH", number, 0, 1, 0), column("?"), EOF)


def execute(number: int, value: int) -> bytes:
    return command(0x17, struct.pack("<IBI", number, 0, 1) + b"\0\1\3\0" + struct.pack("<i", value))


def test_prepared_statements_are_numbered_anew() -> None:
    one, two = live(), live()
    for play, text in ((one, "SELECT ?"), (two, "SELECT ? + 1")):
        play.client(command(0x16, text.encode())).server(prepared(9))
        play.client(execute(9, 7)).server(many(OK))
        assert (play.flow.statement, play.flow.parameters) == (text, [7])
    played = replayed(one, two)
    played.client(command(0x16, b"SELECT ? + 1")).expect_client(prepared(1))
    played.client(command(0x16, b"SELECT ?")).expect_client(prepared(2))
    played.client(execute(1, 7)).expect_client(many(OK))
    assert played.flow.statement == "SELECT ? + 1"


def test_several_results_are_one_answer() -> None:
    more = b"\xfe\0\0\x0a\0"
    first = many(b"\1", column("a"), EOF, lenenc(b"1"), more)
    second = many(b"\1", column("b"), EOF, lenenc(b"2"), EOF, first=6)
    play = live().client(query("CALL p()")).server(first).expect_recorded(2)
    play.server(second).expect_recorded(3)
    assert (play.flow.columns, play.flow.rows) == (["a", "b"], [["1"], ["2"]])


def test_what_is_not_recorded_is_an_error() -> None:
    played = replayed(live()).client(query("SELECT 2"))
    (said,) = packets(played.take_client())
    assert said.startswith(b"\xff")
    assert b"netcapture: no recording answers this: SELECT 2" in said


@pytest.mark.parametrize(
    "said",
    [
        packet(struct.pack("<IIB23x", SSL, 1 << 24, 45), 1),
        login(flags=1 << 5),
        b"\xff\xff\xff\x01" + bytes(20),
        packet(b"\0", 1),
    ],
)
def test_what_is_not_read_is_relayed(said: bytes) -> None:
    flags = FLAGS | 1 << 5
    play = Playbook(OpeningLayer, has_server=True).server(greeting(flags)).client(said)
    play.expect_server(said)
    assert play.raw_reason
    play.server(b"more")
    assert play.take_client().endswith(b"more")


@pytest.mark.parametrize("at", range(len(ROWS)))
def test_a_server_that_resets_within_its_answer(at: int) -> None:
    play = live().client(query("SELECT 1")).server(ROWS[:at]).server_reset()
    assert play.flow.error.kind == "reset"
    assert replayed(play).client(query("SELECT 1")).names == ["reset"]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_cut_at_every_byte_it_is_the_same(size: int) -> None:
    talk = [
        ("server", greeting()),
        ("client", login()),
        ("server", many(OK, first=2)),
        ("client", query("SELECT 1")),
        ("server", ROWS),
    ]
    whole, cut = (Playbook(MysqlLayer, has_server=True) for _ in range(2))
    for play in (whole, cut):
        play.layer.begin()  # type: ignore[attr-defined]
    for side, data in talk:
        getattr(whole, side)(data)
        for at in range(0, len(data), size):
            getattr(cut, side)(data[at : at + size])
    assert cut.recorded == whole.recorded
    assert len(cut.recorded) == 3


@given(st.lists(st.one_of(st.none(), st.binary(max_size=300)), min_size=1, max_size=3))
def test_rows_are_rewritten_with_their_lengths(values: list[bytes | None]) -> None:
    row = b"".join(b"\xfb" if one is None else lenenc(one) for one in values)
    names = [column(str(index)) for index in range(len(values))]
    answer = many(bytes([len(values)]), *names, EOF, row, EOF)
    if row[:1] in (b"\xfe", b"\xff"):
        return
    longer = rewritten(answer, lambda text: text + b"!", prepared=False, plain_end=True)
    expected = b"".join(b"\xfb" if one is None else lenenc(one + b"!") for one in values)
    assert packets(longer)[-2] == expected


NOISE = st.lists(
    st.one_of(
        st.builds(packet, st.binary(max_size=30), st.integers(0, 3)),
        st.binary(max_size=9),
        st.sampled_from([query("SELECT 1"), command(0x16, b"x"), execute(9, 1), ROWS, prepared(9)]),
    ),
    max_size=8,
)


@settings(max_examples=200)
@given(said=st.lists(st.tuples(st.sampled_from(["client", "server"]), NOISE), max_size=5))
def test_whatever_is_said_live_passes_unchanged(said: Any) -> None:
    play = live()
    talk_unchanged(play, said)
    assert len(play.recorded) == len(play.began)
    for flow in play.recorded:
        assert isinstance(getattr(flow, "rows", []), list)


@given(st.binary(max_size=60))
def test_anything_is_cut_or_refused(data: bytes) -> None:
    try:
        found = list(Splitter().feed(data))
    except Unreadable:
        return
    assert data.startswith(b"".join(found))


REQUEST = packet(struct.pack("<IIB23x", 1 << 3 | 1 << 15 | SSL, 1 << 24, 45), 1)


def test_a_request_for_tls_is_passed_on_and_the_login_comes_inside() -> None:
    outer = Playbook(partial(MysqlLayer, with_tls=True), has_server=True)
    outer.layer.begin()  # type: ignore[attr-defined]
    outer.server(greeting()).take_client()
    outer.client(REQUEST).expect_server(REQUEST)
    assert [flow.step for flow in outer.recorded] == ["greeting"]  # type: ignore[union-attr]
    inside = packet(login()[4:], 2)
    inner = Playbook(outer.layer.inner, has_server=True, tls=True)  # type: ignore[attr-defined]
    inner.client(inside).server(many(OK, first=3))
    assert (inner.flow.user, inner.flow.notes) == ("app", {"tls": b"1"})
    inner.client(query("SELECT 1")).server(ROWS)
    assert inner.flow.rows == [[7, "apple"]]


@pytest.mark.parametrize("with_tls", [True, False])
def test_on_replay_tls_is_offered_where_it_was_used(with_tls: bool) -> None:
    flows = live().recorded
    play = Playbook(partial(MysqlLayer, with_tls=with_tls), decide=Cassette(flows).decide)
    play.layer.begin()  # type: ignore[attr-defined]
    assert bool(flags_of(packets(play.take_client())[0]) & SSL) is with_tls


def test_a_request_for_tls_that_nobody_waits_for_is_relayed() -> None:
    play = Playbook(OpeningLayer, has_server=True).server(greeting())
    play.client(REQUEST).expect_server(REQUEST)
    assert play.raw_reason == "TLS after a greeting"
