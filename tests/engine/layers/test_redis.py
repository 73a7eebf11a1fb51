"""What the Redis layer does, command by command; real servers are in tests/services."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import Playbook, talk_unchanged

from pytest_netcapture.engine.layers.layer import Deny, Forward, Play
from pytest_netcapture.engine.layers.redis import redis_layer
from pytest_netcapture.flows import Origin
from pytest_netcapture.redis_messages import ReplyError, Splitter, parse, rewritten, values
from pytest_netcapture.unreadable import Unreadable


def command(*words: str | bytes) -> bytes:
    parts = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)


def array(*words: str) -> bytes:
    return command(*words)


OK = b"+OK\r\n"


def live() -> Playbook:
    return Playbook(redis_layer, has_server=True)


class Cassette:
    """Plays what a playbook has recorded, once each."""

    def __init__(self, flows: list[Any]) -> None:
        self.left = list(flows)

    def decide(self, flow: Any) -> Play | Deny:
        for one in self.left:
            asked = [(f.step, f.question, f.values, f.form, f.session) for f in (one, flow)]
            if asked[0] == asked[1]:
                self.left.remove(one)
                return Play(exchange=one, error=one.error)
        return Deny(Origin.UNMATCHED)


def replayed(*recorded: Playbook) -> Playbook:
    flows = [flow for play in recorded for flow in play.recorded]
    return Playbook(redis_layer, decide=Cassette(flows).decide)


def test_a_command_is_an_exchange_that_is_recorded_before_it_is_answered() -> None:
    play = live().client(command("set", "k", "v")).expect_server(command("set", "k", "v"))
    play.server(OK).expect_client(OK)
    assert play.recorded_by[-1][1] == 1
    assert (play.flow.command, play.flow.arguments, play.flow.reply) == ("SET", ["k", "v"], "OK")
    replayed(play).client(command("SET", "k", "v")).expect_client(OK)


def test_a_pipeline_is_answered_in_order() -> None:
    play = live().client(command("INCR", "n") * 3).server(b":1\r\n:2\r\n").server(b":3\r\n")
    assert [flow.reply for flow in play.recorded] == [1, 2, 3]
    replayed(play).client(command("INCR", "n") * 3).expect_client(b":1\r\n:2\r\n:3\r\n")


def test_a_transaction_is_told_from_others_by_what_it_executes() -> None:
    def transaction(key: str) -> bytes:
        return command("MULTI") + command("GET", key) + command("EXEC")

    play = live().client(transaction("a")).server(OK + b"+QUEUED\r\n*1\r\n$1\r\n1\r\n")
    play.client(transaction("b")).server(OK + b"+QUEUED\r\n*1\r\n$1\r\n2\r\n")
    play.client(command("GET", "a")).server(b"$1\r\n3\r\n")
    assert play.recorded[1].form == "+multi"
    played = replayed(play).client(command("GET", "a")).expect_client(b"$1\r\n3\r\n")
    played.client(transaction("b")).expect_client(OK + b"+QUEUED\r\n*1\r\n$1\r\n2\r\n")


def test_what_is_not_recorded_is_an_error() -> None:
    played = replayed(live()).client(command("GET", "x"))
    played.expect_client(b"-ERR netcapture: no recording answers this: GET x\r\n")


LOGINS = [
    command("AUTH", "secret-word"),
    command("AUTH", "app", "secret-word"),
    command("HELLO", "3", "AUTH", "app", "secret-word", "SETNAME", "x"),
    command("CONFIG", "SET", "requirepass", "secret-word"),
    command("ACL", "SETUSER", "app", "on", ">secret-word"),
    command("MIGRATE", "h", "1", "k", "0", "1", "AUTH2", "u", "secret-word"),
    command("MIGRATE", "h", "1", "k", "0", "1", "AUTH", "secret-word"),
]


@pytest.mark.parametrize("login", LOGINS)
def test_passwords_are_left_out(login: bytes) -> None:
    play = live().client(login).expect_server(login).server(OK)
    assert "secret-word" not in repr(play.recorded)
    assert "(password)" in repr(play.flow.arguments)
    replayed(play).client(login.replace(b"secret-word", b"other--word")).expect_client(OK)


def test_a_session_is_its_user_and_database() -> None:
    play = live().client(command("HELLO", "3", "AUTH", "app", "x")).server(b"%0\r\n")
    play.client(command("SELECT", "2")).server(OK)
    play.client(command("GET", "k")).server(b"_\r\n")
    assert (play.flow.session, play.flow.form, play.flow.reply) == ("app/2", "3", None)


@pytest.mark.parametrize("version", [2, 3])
def test_messages_come_after_what_they_came_after(version: int) -> None:
    push = b"*" if version == 2 else b">"
    hello = command("HELLO", str(version))
    confirmed = push + b"3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"
    message = push + array("message", "news", "hi")[1:]
    one, two = live().client(hello).server(b"%0\r\n"), live()
    one.client(command("SUBSCRIBE", "news")).server(confirmed)
    two.client(command("PUBLISH", "news", "hi"))
    one.server(message)
    two.server(b":1\r\n")
    assert (one.flow.step, one.flow.question) == ("message", "news")
    listening = replayed(one).client(hello + command("SUBSCRIBE", "news"))
    listening.expect_client(b"%0\r\n" + confirmed)
    replayed(two).client(command("PUBLISH", "news", "hi")).expect_client(b":1\r\n")
    listening.expect_client(message)


def test_each_channel_is_confirmed() -> None:
    confirmed = [b"*3\r\n$9\r\nsubscribe\r\n$1\r\n%b\r\n:1\r\n" % c for c in (b"a", b"b")]
    play = live().client(command("SUBSCRIBE", "a", "b")).server(confirmed[0])
    play.expect_recorded(0).server(confirmed[1]).expect_recorded(1)
    assert play.flow.answer == b"".join(confirmed)


@pytest.mark.parametrize("words", [("MONITOR",), ("PSYNC", "?", "-1"), ("CLIENT", "REPLY", "OFF")])
def test_what_is_not_answered_in_order_is_relayed(words: tuple[str, ...]) -> None:
    play = live().client(command(*words)).expect_server(command(*words))
    assert "not answered in order" in play.raw_reason


@pytest.mark.parametrize(
    "said",
    [b"$5\r\nabcdefg\r\n", b"*-x\r\n", b"HTTP/1.1 400\r\n", b"$99999999\r\n", b"*9\r\n" * 70],
)
def test_what_cannot_be_read_makes_a_raw_connection_that_goes_on(said: bytes) -> None:
    play = live().client(command("GET", "k"))
    play.take_server()
    play.server(said).expect_client(said)
    assert play.raw_reason
    assert play.flow.error.kind == "malformed"
    play.client(b"more").expect_server(b"more")


ANSWER = b"*3\r\n$2\r\nab\r\n:1\r\n*1\r\n+x\r\n"


@pytest.mark.parametrize("end", ["reset", "eof"])
@pytest.mark.parametrize("at", range(len(ANSWER)))
def test_a_server_that_ends_within_its_answer(end: str, at: int) -> None:
    play = live().client(command("GET", "k")).server(ANSWER[:at])
    (play.server_reset if end == "reset" else play.server_eof)()
    assert play.flow.error.kind == end
    played = replayed(play).client(command("GET", "k")).expect_client(b"")
    assert played.names == ["reset" if end == "reset" else "close"]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_cut_at_every_byte_it_is_the_same(size: int) -> None:
    talk = [
        ("client", command("MULTI") + command("GET", "k") + b"PING\r\n"),
        ("server", OK + ANSWER),
    ]
    whole, cut = live(), live()
    for side, data in talk:
        getattr(whole, side)(data)
        for at in range(0, len(data), size):
            getattr(cut, side)(data[at : at + size])
    assert cut.recorded == whole.recorded
    assert len(cut.recorded) == 2
    assert (cut.all_client, cut.all_server) == (whole.all_client, whole.all_server)


VALUES = st.recursive(
    st.one_of(
        st.binary(max_size=9).map(lambda b: b"$%d\r\n%b\r\n" % (len(b), b)),
        st.sampled_from([b":1\r\n", b"+OK\r\n", b"-ERR x\r\n", b"$-1\r\n", b"*-1\r\n", b"_\r\n"]),
    ),
    lambda inner: st.lists(inner, max_size=4).map(lambda v: b"*%d\r\n" % len(v) + b"".join(v)),
    max_leaves=8,
)


@given(st.lists(VALUES, max_size=5), st.integers(1, 9))
def test_values_are_cut_where_they_end(said: list[bytes], size: int) -> None:
    data = b"".join(said)
    splitter = Splitter()
    found = [v for at in range(0, len(data), size) for v in splitter.feed(data[at : at + size])]
    assert found == said == values(data)
    assert rewritten(data, lambda text: text) == data


@given(st.binary(max_size=60))
def test_anything_is_read_or_refused(data: bytes) -> None:
    parse(data)
    assert rewritten(data, lambda text: text)[:0] == b""
    with contextlib.suppress(Unreadable):
        list(Splitter(inline=True).feed(data))


NOISE = st.lists(
    st.one_of(VALUES, st.binary(max_size=9), st.just(command("SUBSCRIBE", "a"))), max_size=8
)


@settings(max_examples=200)
@given(said=st.lists(st.tuples(st.sampled_from(["client", "server"]), NOISE), max_size=5))
def test_whatever_is_said_live_passes_unchanged(said: Any) -> None:
    play = live()
    talk_unchanged(play, said)
    assert len(play.recorded) == len(play.began)


def test_errors_and_aggregates_as_values() -> None:
    assert parse(b"-ERR no\r\n") == ReplyError("ERR no")
    assert parse(b"%1\r\n+a\r\n*2\r\n:1\r\n#t\r\n") == {"a": [1, True]}
    assert parse(b"|1\r\n+a\r\n+b\r\n,1.5\r\n") == 1.5
    assert parse(b"*2\r\n:1\r\n") is None


def test_a_session_is_live_or_played_as_a_whole() -> None:
    play = Playbook(redis_layer, decide=lambda _flow: Forward()).client(command("GET", "k"))
    play.expect("connect").expect_server(command("GET", "k"))
