"""What the PostgreSQL layers do, message by message; real servers are in tests/services."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import Playbook

from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.engine.layers.layer import Deny, Forward, Play
from pytest_netcapture.engine.layers.postgresql import PostgresqlLayer
from pytest_netcapture.flows import FlowError, Origin, ServiceFlow
from pytest_netcapture.postgresql_messages import message, split

INT4, TEXT_OID = 23, 25


def start(**parameters: str) -> bytes:
    given = {"user": "app", "database": "shop", **parameters}
    body = b"".join(f"{k}\0{v}\0".encode() for k, v in given.items()) + b"\0"
    return struct.pack(">ii", 8 + len(body), 196608) + body


def parse(name: str, text: str, *types: int) -> bytes:
    head = f"{name}\0{text}\0".encode()
    return message(b"P", head + struct.pack(f">h{len(types)}i", len(types), *types))


def bind(name: str, *values: bytes | None, portal: str = "") -> bytes:
    parts = [f"{portal}\0{name}\0".encode(), struct.pack(">hh", 0, len(values))]
    parts += [struct.pack(">i", -1 if v is None else len(v)) + (v or b"") for v in values]
    return message(b"B", b"".join(parts) + struct.pack(">h", 0))


def execute(portal: str = "") -> bytes:
    return message(b"E", portal.encode() + b"\0" + bytes(4))


def row(*values: bytes) -> bytes:
    parts = [struct.pack(">h", len(values))]
    parts += [struct.pack(">i", len(value)) + value for value in values]
    return message(b"D", b"".join(parts))


def columns(**types: int) -> bytes:
    parts = [struct.pack(">h", len(types))]
    for name, oid in types.items():
        parts.append(name.encode() + b"\0" + struct.pack(">ihihih", 0, 0, oid, 4, -1, 0))
    return message(b"T", b"".join(parts))


def query(text: str) -> bytes:
    return message(b"Q", text.encode() + b"\0")


def tag(text: str) -> bytes:
    return message(b"C", text.encode() + b"\0")


def error(code: str, text: str) -> bytes:
    return message(b"E", f"SERROR\0C{code}\0M{text}\0\0".encode())


SYNC, FLUSH = message(b"S"), message(b"H")
DESCRIBE = message(b"D", b"P\0")
READY, FAILED = message(b"Z", b"I"), message(b"Z", b"E")
PARSED, BOUND = message(b"1"), message(b"2")
OK = message(b"R", bytes(4))
KEY = message(b"K", bytes(8))
ANSWER = columns(id=INT4, name=TEXT_OID) + row(b"7", b"apple") + tag("SELECT 1")


def connected(**options: Any) -> Playbook:
    play = Playbook(PostgresqlLayer, has_server=True, **options)
    play.client(start()).expect_server(start())
    play.server(OK + message(b"S", b"a\0b\0") + KEY + READY)
    play.take_client()
    return play


class Cassette:
    """Plays what a playbook has recorded, once each."""

    def __init__(self, flows: list[Any]) -> None:
        self.left = list(flows)

    def decide(self, flow: Any) -> Play | Deny:
        for one in self.left:
            asked = [(f.step, f.question, f.values, f.form) for f in (one, flow)]
            if asked[0] == asked[1]:
                if flow.step not in ("connect", "prepare"):
                    self.left.remove(one)
                return Play(exchange=one, error=one.error, compare=partial(compared, one))
        return Deny(Origin.UNMATCHED)


def compared(recorded: ServiceFlow, flow: ServiceFlow) -> Miss | None:
    return None if recorded.sent == flow.sent else Miss(MissKind.NEVER, "other rows")


def replayed(recorded: Playbook) -> Playbook:
    play = Playbook(PostgresqlLayer, decide=Cassette(recorded.recorded).decide)
    play.client(start())
    play.take_client()
    return play


def test_a_query_is_an_exchange_that_is_recorded_before_it_is_answered() -> None:
    play = connected()
    play.client(query("SELECT 1")).expect_server(query("SELECT 1"))
    play.server(ANSWER)
    assert len(play.recorded) == 1
    play.server(READY).expect_client(ANSWER + READY)
    assert play.recorded_by[-1][1] == 2
    assert play.flow.statement == "SELECT 1"
    assert (play.flow.user, play.flow.database) == ("app", "shop")
    assert play.flow.rows == [[7, "apple"]]
    assert play.flow.command == "SELECT 1"


def test_the_start_up_is_one_without_keys_and_authentication() -> None:
    play = connected()
    assert play.flow.step == "connect"
    assert split(play.flow.answer) == [(b"S", b"a\0b\0")]


def test_on_replay_a_client_is_let_in_without_a_password() -> None:
    play = Playbook(PostgresqlLayer, decide=Cassette(connected().recorded).decide)
    play.client(start())
    said = split(play.take_client())
    assert said[0] == (b"R", bytes(4))
    assert [kind for kind, _ in said] == [b"R", b"S", b"K", b"Z"]


EXTENDED = parse("s1", "SELECT $1", INT4) + bind("s1", b"7") + DESCRIBE + execute() + SYNC


def test_parameters_are_of_the_statement_whatever_its_name() -> None:
    play = connected().client(EXTENDED)
    play.server(PARSED + BOUND + ANSWER + READY)
    assert play.flow.statement == "SELECT $1"
    assert play.flow.parameters == [7]
    again = parse("other", "SELECT $1", INT4) + bind("other", b"7") + execute() + SYNC
    played = replayed(play).client(again)
    played.expect_client(PARSED + BOUND + row(b"7", b"apple") + tag("SELECT 1") + READY)


def test_a_prepared_statement_is_described_on_replay_though_it_was_not_when_recorded() -> None:
    """Its description was seen on the same connection before."""
    play = connected().client(EXTENDED).server(PARSED + BOUND + ANSWER + READY)
    play.client(bind("s1", b"8") + execute() + SYNC)
    play.server(BOUND + row(b"8", b"pear") + tag("SELECT 1") + READY)
    assert play.flow.rows == [[8, "pear"]]
    whole = parse("", "SELECT $1", INT4) + bind("", b"8") + DESCRIBE + execute() + SYNC
    played = replayed(play).client(whole)
    expected = columns(id=INT4, name=TEXT_OID) + row(b"8", b"pear") + tag("SELECT 1")
    played.expect_client(PARSED + BOUND + expected + READY)


def test_an_error_is_of_the_statement_and_what_follows_is_skipped() -> None:
    play = connected().client(EXTENDED)
    play.server(error("42601", "syntax") + READY)
    assert play.flow.sqlstate == "42601"
    assert play.flow.message == "syntax"
    played = replayed(play).client(EXTENDED + EXTENDED.replace(b"$1", b"$2"))
    kinds = [kind for kind, _ in split(played.take_client())]
    assert kinds == [b"1", b"2", b"E", b"Z", b"1", b"2", b"E", b"Z"]


def test_a_statement_that_is_not_recorded_is_an_error() -> None:
    played = replayed(connected()).client(query("SELECT 2"))
    (kind, content), ready = split(played.take_client())
    assert kind == b"E"
    assert b"netcapture: no recording answers this: SELECT 2" in content
    assert ready == (b"Z", b"I")
    assert played.flow.statement == "SELECT 2"


COPY = query("COPY t FROM STDIN")
GO_ON = message(b"G", b"\0\0\0")
ROWS = message(b"d", b"a\n") + message(b"d", b"b\n")
DONE = message(b"c")


@pytest.mark.parametrize("early", [False, True])
def test_the_rows_of_a_copy_belong_to_its_exchange(early: bool) -> None:
    play = connected().client(COPY)
    if early:
        play.client(ROWS + DONE).server(GO_ON)
    else:
        play.server(GO_ON).client(ROWS + DONE)
    play.server(tag("COPY 2") + READY)
    assert play.flow.sent == b"a\nb\n"
    assert play.flow.command == "COPY 2"
    played = replayed(play).client(COPY).expect_client(GO_ON)
    played.client(ROWS + DONE).expect_client(tag("COPY 2") + READY)
    other = replayed(play).client(COPY + message(b"d", b"c\n") + DONE)
    assert [kind for kind, _ in split(other.take_client())] == [b"G", b"E", b"Z"]
    assert other.names == ["unlike"]


def test_a_copy_that_was_prepared() -> None:
    """A Sync that comes while rows are awaited is ignored."""
    asked = parse("", "COPY t FROM STDIN") + bind("") + execute() + SYNC
    play = connected().client(asked).server(PARSED + BOUND + GO_ON)
    play.client(ROWS + DONE + SYNC).server(tag("COPY 2") + READY)
    assert play.flow.sent == b"a\nb\n"
    played = replayed(play).client(asked).expect_client(PARSED + BOUND + GO_ON)
    played.client(ROWS + DONE + SYNC).expect_client(tag("COPY 2") + READY)


def test_exchanges_that_overlap() -> None:
    play = connected()
    play.client(EXTENDED + EXTENDED.replace(b"$1", b"$2"))
    first = PARSED + BOUND + ANSWER + READY
    play.server(first + PARSED + BOUND + columns(n=INT4) + row(b"1") + tag("SELECT 1") + READY)
    assert [f.statement for f in play.recorded] == ["", "SELECT $1", "SELECT $2"]
    assert play.flow.rows == [[1]]


def test_a_flush_asks_for_what_there_is() -> None:
    play = connected().client(parse("s", "SELECT 1") + message(b"D", b"Ss\0") + FLUSH)
    play.server(PARSED + message(b"t", b"\0\0") + columns(n=INT4))
    play.client(bind("s") + execute() + SYNC)
    play.server(BOUND + row(b"1") + tag("SELECT 1") + READY)
    played = replayed(play).client(parse("s", "SELECT 1") + message(b"D", b"Ss\0") + FLUSH)
    played.expect_client(PARSED + message(b"t", b"\0\0") + columns(n=INT4))
    played.client(bind("s") + execute() + SYNC)
    played.expect_client(BOUND + row(b"1") + tag("SELECT 1") + READY)


def test_the_state_of_the_transaction_is_that_of_the_last_statement() -> None:
    play = connected().client(query("BEGIN")).server(tag("BEGIN") + message(b"Z", b"T"))
    played = replayed(play).client(query("BEGIN"))
    played.expect_client(tag("BEGIN") + message(b"Z", b"T"))
    played.client(query("SELECT 2"))
    assert split(played.take_client())[-1] == (b"Z", b"E")


def test_encryption_that_the_server_does_without_is_refused() -> None:
    ask = struct.pack(">ii", 8, 80877103)
    play = Playbook(PostgresqlLayer, has_server=True).client(ask).expect_server(ask)
    play.server(b"N").expect_client(b"N").client(start()).expect_server(start())
    played = Playbook(PostgresqlLayer, decide=Cassette(connected().recorded).decide)
    played.client(ask).expect_client(b"N")
    played.client(start())
    assert played.take_client().startswith(OK)


def test_a_blocked_connection_is_told() -> None:
    play = Playbook(PostgresqlLayer, decide=lambda _flow: Deny()).client(start())
    assert split(play.take_client())[0][0] == b"E"
    play.expect("close")


def test_a_request_to_cancel() -> None:
    packet = struct.pack(">iiii", 16, 80877102, 1, 2)
    play = Playbook(PostgresqlLayer, has_server=True).client(packet).expect_server(packet)
    assert play.flow.step == "cancel"
    play.server_eof().expect("close")
    Playbook(PostgresqlLayer).client(packet).expect("close")


def test_replication_is_relayed() -> None:
    packet = start(replication="database")
    play = Playbook(PostgresqlLayer, has_server=True).client(packet).expect_server(packet)
    play.expect("become_raw")


@pytest.mark.parametrize("end", ["reset", "eof"])
@pytest.mark.parametrize("at", range(len(ANSWER) + 1))
def test_a_server_that_ends_within_its_answer(end: str, at: int) -> None:
    """Up to there it is played as it came; then the connection ends as it did."""
    play = connected().client(query("SELECT 1")).server(ANSWER[:at])
    (play.server_reset if end == "reset" else play.server_eof)()
    assert play.flow.error.kind == end
    whole = b"".join(message(*one) for one in split(ANSWER[:at]))
    assert play.flow.answer == whole
    played = replayed(play).client(query("SELECT 1")).expect_client(whole)
    assert played.names[-1] == ("reset" if end == "reset" else "close")


@pytest.mark.parametrize(
    "said",
    [
        message(b"Z", b"I")[:1] + struct.pack(">i", 3),
        b"D" + struct.pack(">i", 1 << 30),
        b"\0\0\0\0\0\0",
        b"HTTP/1.1 400 Bad Request\r\n",
    ],
)
def test_what_cannot_be_read_makes_a_raw_connection_that_goes_on(said: bytes) -> None:
    play = connected().client(query("SELECT 1"))
    play.take_server()
    play.server(said).expect_client(said)
    assert play.raw_reason
    assert play.recorded[1].error.kind == "malformed"
    play.client(b"more").expect_server(b"more")


def test_lengths_that_lie_within_a_message() -> None:
    play = connected()
    lies = message(b"B", b"\0\0\0\0\x7f\xff")
    play.client(lies).expect_server(lies)
    assert "bytes of a message" in play.raw_reason
    played = replayed(connected()).client(lies + SYNC)
    assert played.names == ["unlike", "reset"]
    assert played.flow.error.kind == "malformed"


CONVERSATION: list[tuple[str, bytes]] = [
    ("client", start()),
    ("server", OK + KEY + READY),
    ("client", EXTENDED),
    ("server", PARSED + BOUND + ANSWER + READY),
    ("client", COPY),
    ("server", GO_ON),
    ("client", ROWS + DONE),
    ("server", tag("COPY 2") + READY),
    ("client", query("SELECT 1")),
    ("server", message(b"N", b"\0") + ANSWER + error("22012", "zero") + FAILED),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_cut_at_every_byte_it_is_the_same(size: int) -> None:
    whole = Playbook(PostgresqlLayer, has_server=True)
    cut = Playbook(PostgresqlLayer, has_server=True)
    for side, data in CONVERSATION:
        getattr(whole, side)(data)
        for at in range(0, len(data), size):
            getattr(cut, side)(data[at : at + size])
    assert cut.all_client == whole.all_client
    assert cut.all_server == whole.all_server
    assert cut.recorded == whole.recorded
    assert [f.step for f in cut.recorded] == ["connect", "execute", "query", "query"]


def played_with(decide: Callable[[Any], Any]) -> Playbook:
    play = Playbook(PostgresqlLayer, decide=decide)
    return play.client(start())


MESSAGES = st.builds(
    message,
    st.sampled_from([bytes([c]) for c in b"QPBDESHCFdcfXp123TtnZGZ"]),
    st.binary(max_size=30),
)
NOISE = st.lists(st.one_of(MESSAGES, st.binary(max_size=20)), max_size=12)


@settings(max_examples=200)
@given(said=st.lists(st.tuples(st.sampled_from(["client", "server"]), NOISE), max_size=6))
def test_whatever_is_said_live_passes_unchanged(said: Any) -> None:
    play = connected()
    expected = {"client": play.all_server, "server": play.all_client}
    for side, parts in said:
        for part in parts:
            getattr(play, side)(part)
            expected[side] += part
    assert play.all_server == expected["client"]
    assert play.all_client == expected["server"]
    play.server_eof()
    play.client_eof()
    done = [flow for flow in play.began if any(flow is one for one in play.recorded)]
    assert len(done) == len(play.began)


@settings(max_examples=200)
@given(noise=NOISE, recorded=NOISE)
def test_whatever_is_said_on_replay_ends(noise: list[bytes], recorded: list[bytes]) -> None:
    flow = ServiceFlow(service="postgresql", answer=b"".join(recorded))

    def decide(asked: Any) -> Any:
        if asked.step in ("connect", "notification"):
            return (
                Forward()
                if asked.step == "notification"
                else Play(exchange=ServiceFlow(service=""))
            )
        return Play(exchange=flow)

    play = played_with(decide)
    for part in noise:
        play.client(part)
    play.client_eof()


def test_notifications_come_after_the_statement_that_they_came_after() -> None:
    other = connected()
    play = connected().client(query("LISTEN orders")).server(tag("LISTEN") + READY)
    other.client(query("NOTIFY orders"))
    note = message(b"A", struct.pack(">i", 7) + b"orders\0hi\0")
    play.server(note)
    other.server(tag("NOTIFY") + READY)
    assert play.flow.step == "notification"
    one = replayed(play).client(query("LISTEN orders")).expect_client(tag("LISTEN") + READY)
    two = replayed(other).client(query("NOTIFY orders"))
    two.expect_client(tag("NOTIFY") + READY)
    one.expect_client(note)


def test_a_session_is_live_or_played_as_a_whole() -> None:
    play = connected()
    play._decide = lambda flow: Play(exchange=ServiceFlow(service="postgresql"))
    play.client(query("SELECT 1"))
    assert split(play.take_client())[0][0] == b"E"
    assert play.names == ["unlike", "close"]
    assert play.flow.error == FlowError("reset", "netcapture: no recording answers this")


def test_a_pool_may_roll_back_once_more() -> None:
    """It does when garbage is collected: in the test that has left something, or in the next."""
    play = replayed(connected().client(query("BEGIN")).server(tag("BEGIN") + message(b"Z", b"T")))
    play.client(query("BEGIN")).expect_client(tag("BEGIN") + message(b"Z", b"T"))
    play.client(query("ROLLBACK")).expect_client(tag("ROLLBACK") + READY)
    play.client(query("COMMIT"))
    assert split(play.take_client())[0][0] == b"E"
