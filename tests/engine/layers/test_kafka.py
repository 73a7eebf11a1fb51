"""What the Kafka layer does, request by request; a real broker is in tests/services."""

from __future__ import annotations

import contextlib
import gzip
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import Playbook, talk_unchanged

from pytest_netcapture.engine.layers.layer import Deny, Play
from pytest_netcapture.engine.layers.opening import OpeningLayer
from pytest_netcapture.engine.layers.sniff import Guess, sniff
from pytest_netcapture.flows import Origin
from pytest_netcapture.kafka_messages import Record, Splitter, positions, produced, request, topics
from pytest_netcapture.unreadable import Unreadable

PRODUCE, FETCH, METADATA, HEARTBEAT = 0, 1, 3, 12


def varint(number: int) -> bytes:
    value, out = number << 1 if number >= 0 else (-number << 1) - 1, b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def asked(call: int, body: bytes = b"", version: int = 0, number: int = 7) -> bytes:
    content = struct.pack(">hhi", call, version, number) + string("app") + body
    return struct.pack(">i", len(content)) + content


def told(content: bytes = b"", number: int = 7) -> bytes:
    return struct.pack(">ii", 4 + len(content), number) + content


HELLO = asked(18, number=1)
VERSIONS = told(b"versions", number=1)


def batch(*records: tuple[bytes | None, bytes | None], time: int = 0, how: int = 0) -> bytes:
    parts = []
    for key, value in records:
        content = b"\0" + varint(time) + varint(0)
        for part in (key, value):
            content += varint(-1) if part is None else varint(len(part)) + part
        content += varint(0)
        parts.append(varint(len(content)) + content)
    data = b"".join(parts)
    data = gzip.compress(data) if how == 1 else data
    head = struct.pack(">ibIhiqqqhii", 0, 2, time, how, 0, time, time, -1, -1, -1, len(records))
    return struct.pack(">qi", 0, len(head) + len(data)) + head + data


def produce(data: bytes, *, topic: str = "orders", acks: int = 1, number: int = 7) -> bytes:
    body = struct.pack(">hhii", -1, acks, 1000, 1) + string(topic)
    body += struct.pack(">iii", 1, 0, len(data)) + data
    return asked(PRODUCE, body, version=3, number=number)


def live() -> Playbook:
    return Playbook(OpeningLayer, has_server=True).client(HELLO).server(VERSIONS)


class Cassette:
    """Plays what a playbook has recorded: what sets up again and again, the others once."""

    def __init__(self, flows: list[Any]) -> None:
        self.left = list(flows)

    def decide(self, flow: Any) -> Play | Deny:
        for one in self.left:
            asked = [(f.step, f.question, f.values, f.form) for f in (one, flow)]
            if asked[0] == asked[1]:
                if one.step != "connect":
                    self.left.remove(one)
                return Play(exchange=one, error=one.error)
        return Deny(Origin.UNMATCHED)


def replayed(recorded: Playbook) -> Playbook:
    play = Playbook(OpeningLayer, decide=Cassette(list(recorded.recorded)).decide)
    return play.client(asked(18, number=30)).expect_client(told(b"versions", number=30))


def test_an_answer_gets_the_number_of_the_request_that_is_there() -> None:
    play = live().client(asked(METADATA, struct.pack(">i", 1) + string("orders")))
    play.server(told(b"brokers"))
    assert play.recorded_by[-1][1] == 2
    assert (play.flow.question, play.flow.values) == ("Metadata", [b"orders"])
    assert play.flow.notes["client"] == b"app"
    again = asked(METADATA, struct.pack(">i", 1) + string("orders"), number=31)
    replayed(play).client(again).expect_client(told(b"brokers", number=31))


@pytest.mark.parametrize("call", [PRODUCE, FETCH, HEARTBEAT, 11])
def test_a_connection_may_begin_with_any_call(call: int) -> None:
    assert sniff(asked(call, b"\0")) is Guess.KAFKA


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">ihh", 40, 3, 0) + b"user\0app\0database\0shop\0\0",
        asked(PRODUCE)[:13],
        asked(PRODUCE, version=99),
        asked(999),
        struct.pack(">i", 9) + asked(PRODUCE)[4:],
        asked(PRODUCE).replace(b"app", b"\xff\xfe\xfd"),
    ],
)
def test_what_does_not_begin_like_one(data: bytes) -> None:
    assert sniff(data) is not Guess.KAFKA


def test_records_are_messages_however_they_are_packed() -> None:
    play = live()
    play.client(produce(batch((b"k", b"one"), (None, None)))).server(told(b"done"))
    play.client(produce(batch((b"k", b"two"), time=9, how=1), number=8)).server(told(b"done", 8))
    sent = [(f.question, f.values) for f in play.recorded if f.step == "message"]  # type: ignore[union-attr]
    assert sent == [
        ("orders", [b"k", b"one"]),
        ("orders", [None, None]),
        ("orders", [b"k", b"two"]),
    ]
    played = replayed(play)
    played.client(produce(batch((b"k", b"two"), (b"k", b"one"), (None, None), time=5), number=40))
    played.expect_client(told(b"done", number=40))
    played.client(produce(batch((b"k", b"three")), number=41)).expect_client(told(b"done", 41))
    assert played.recorded[-2].origin is not Origin.PLAYED


def test_records_that_nobody_confirms() -> None:
    play = live().client(produce(batch((None, b"x")), acks=0)).expect_recorded(3)
    play.client(asked(METADATA, b"\0\0\0\0", number=8)).server(told(b"", 8)).expect_recorded(4)
    replayed(play).client(produce(batch((None, b"x")), acks=0)).expect_client(b"")


def test_compression_that_is_not_read_is_a_message_without_its_content() -> None:
    play = live().client(produce(batch((None, b"x"), how=4)))
    assert play.recorded[-1].values == [None, b"(1 records, zstd)"]  # type: ignore[union-attr]


def fetch(offset: int, version: int = 11, number: int = 7) -> bytes:
    body = struct.pack(">iiiibii", -1, 500, 1, 1 << 20, 0, 0, 0) + struct.pack(">i", 1)
    body += string("orders") + struct.pack(">iiiqqi", 1, 0, 0, offset, -1, 1 << 20)
    return asked(FETCH, body + struct.pack(">i", 0) + string(""), version, number)


def test_a_fetch_is_told_from_others_by_its_offset() -> None:
    play = live().client(fetch(3)).server(told(b"later")).client(fetch(0, number=8))
    play.server(told(b"first", 8))
    assert play.flow.values == [b"orders/0@0"]
    played = replayed(play).client(fetch(0, number=31)).expect_client(told(b"first", 31))
    played.client(fetch(3, number=32)).expect_client(told(b"later", 32))
    played.client(fetch(4, number=33)).expect_client(b"")


def test_a_fetch_whose_client_went_away_is_one_without_news() -> None:
    play = live().client(fetch(0))
    play.client_reset()
    played = replayed(play).client(fetch(0, number=31)).expect_client(b"")
    assert "reset" not in played.names
    assert len(played.timers) == 1


def test_after_the_last_fetch_there_is_nothing_new_and_what_follows_waits() -> None:
    play = live().client(fetch(0)).server(told(b"records"))
    played = replayed(play).client(fetch(0, number=31))
    played.expect_client(told(b"records", 31))
    played.client(fetch(0, number=32) + asked(METADATA, bytes(4), number=33))
    assert "reset" in played.names
    played = replayed(play.client(asked(METADATA, bytes(4), number=8)).server(told(b"brokers", 8)))
    played.client(fetch(0, number=31)).take_client()
    played.client(fetch(0, number=32) + asked(METADATA, bytes(4), number=33))
    played.expect_client(b"")
    [(seconds, go_on)] = played.timers
    assert seconds > 0
    go_on()
    played.expect_client(told(bytes(14), 32) + told(b"brokers", 33))


@pytest.mark.parametrize(("version", "content"), [(0, 2), (1, 6), (4, 8)])
def test_heartbeats_need_no_recording(version: int, content: int) -> None:
    played = replayed(live()).client(asked(HEARTBEAT, version=version, number=31))
    played.expect_client(told(bytes(content), 31))


def test_a_request_that_was_not_recorded_ends_the_connection() -> None:
    assert "reset" in replayed(live()).client(asked(19, b"topics")).names


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (asked(17, string("SCRAM-SHA-256")), "a login by SCRAM-SHA-256"),
        (struct.pack(">i", -5) + bytes(9), "a message of -5 bytes"),
        (asked(METADATA, struct.pack(">i", 1 << 30)), "1073741824 elements in 4 bytes"),
        (asked(METADATA, struct.pack(">ih", 1, 99)), "99 bytes of a message"),
        (produce(b"\0" * 80), "a version before 2"),
        (produce(batch((None, b"x"))[:-1]), "a version before 2"),
    ],
)
def test_what_cannot_be_read_makes_a_raw_connection_that_goes_on(sent: bytes, reason: str) -> None:
    play = live()
    play.take_server()
    play.client(sent).expect_server(sent)
    assert reason in play.raw_reason
    play.server(b"more")
    assert play.all_client.endswith(b"more")


def test_an_answer_to_nothing_makes_a_raw_connection() -> None:
    play = live().client(asked(METADATA, bytes(4))).server(told(number=99))
    assert play.raw_reason == "an answer to nothing"
    assert play.flow.error.kind == "malformed"


ANSWER = told(b"brokers")


@pytest.mark.parametrize("end", ["reset", "eof"])
@pytest.mark.parametrize("at", range(len(ANSWER)))
def test_a_server_that_ends_within_its_answer(end: str, at: int) -> None:
    play = live().client(asked(METADATA, bytes(4))).server(ANSWER[:at])
    (play.server_reset if end == "reset" else play.server_eof)()
    assert play.flow.error.kind == end


@pytest.mark.parametrize("size", [1, 2, 7])
def test_cut_at_any_byte_it_is_the_same(size: int) -> None:
    talk = [
        ("client", asked(METADATA, bytes(4)) + produce(batch((b"k", b"v")), number=8)),
        ("server", told(b"brokers") + told(b"done", 8)),
    ]
    whole, cut = live(), live()
    for side, data in talk:
        getattr(whole, side)(data)
        for at in range(0, len(data), size):
            getattr(cut, side)(data[at : at + size])
    assert cut.recorded == whole.recorded
    assert len(cut.recorded) == 4


PARTS = st.none() | st.binary(max_size=9)


@given(st.lists(st.tuples(PARTS, PARTS), max_size=5), st.sampled_from([0, 1]))
def test_records_are_read_as_they_were_written(records: Any, how: int) -> None:
    sent = produce(batch(*records, how=how) * 2)
    assert produced(request(sent[4:])) == (1, [Record("orders", 0, *one) for one in records] * 2)


@given(st.binary(max_size=80), st.integers(0, 13), st.sampled_from([PRODUCE, FETCH, METADATA]))
def test_anything_is_read_or_refused(data: bytes, version: int, call: int) -> None:
    for whole in (data, asked(call, data, version)[4:]):
        with contextlib.suppress(Unreadable):
            list(Splitter().feed(data))
        with contextlib.suppress(Unreadable):
            produced(request(whole))
        with contextlib.suppress(Unreadable):
            topics(request(whole))
        with contextlib.suppress(Unreadable):
            positions(request(whole))


NOISE = st.lists(
    st.one_of(
        st.binary(max_size=9),
        st.builds(asked, st.integers(0, 40), st.binary(max_size=9), st.integers(0, 13)),
        st.sampled_from([told(), ANSWER, produce(batch((None, b"x")))]),
    ),
    max_size=6,
)


@settings(max_examples=200)
@given(said=st.lists(st.tuples(st.sampled_from(["client", "server"]), NOISE), max_size=5))
def test_whatever_is_said_live_passes_unchanged(said: Any) -> None:
    play = live()
    talk_unchanged(play, said)
    assert len(play.recorded) == len(play.began)
