"""What the AMQP layer does, frame by frame; a real server is in tests/services."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import Playbook, talk_unchanged

from pytest_netcapture.engine.layers.amqp import PREFACE, amqp_layer, body_of
from pytest_netcapture.engine.layers.layer import Deny, Play
from pytest_netcapture.flows import Origin


def frame(kind: int, channel: int, content: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(content)) + content + b"\xce"


def method(channel: int, number: tuple[int, int], arguments: bytes = b"") -> bytes:
    return frame(1, channel, struct.pack(">HH", *number) + arguments)


def short(*texts: str) -> bytes:
    return b"".join(bytes([len(text)]) + text.encode() for text in texts)


def content(head: bytes, body: bytes, channel: int = 1) -> bytes:
    header = frame(2, channel, struct.pack(">HHQH", 60, 0, len(body), 0))
    return head + header + (frame(3, channel, body) if body else b"")


START = method(0, (10, 10), b"\0\x09" + bytes(8))
LOGIN = method(0, (10, 11), bytes(4) + short("PLAIN") + b"\0\0\0\x0c\0guest\0secret" + short("en"))
TUNE, TUNE_OK = method(0, (10, 30), bytes(8)), method(0, (10, 31), bytes(8))
OPEN, OPEN_OK = method(0, (10, 40), short("/", "") + b"\0"), method(0, (10, 41), b"\0")
HELLO = [
    ("client", PREFACE),
    ("server", START),
    ("client", LOGIN),
    ("server", TUNE),
    ("client", TUNE_OK + OPEN),
    ("server", OPEN_OK),
]


def publish(body: bytes, channel: int = 1) -> bytes:
    head = method(channel, (60, 40), b"\0\0" + short("", "orders") + b"\0")
    return content(head, body, channel)


def consume(tag: str, channel: int = 1) -> bytes:
    return method(channel, (60, 20), b"\0\0" + short("orders", tag) + bytes(5))


def consumed(tag: str, channel: int = 1) -> bytes:
    return method(channel, (60, 21), short(tag))


def deliver(tag: str, number: int, body: bytes, channel: int = 1) -> bytes:
    arguments = short(tag) + struct.pack(">QB", number, 0) + short("", "orders")
    return content(method(channel, (60, 60), arguments), body, channel)


def live(*talk: tuple[str, bytes], size: int = 1 << 20) -> Playbook:
    play = Playbook(amqp_layer, has_server=True)
    for side, data in [*HELLO, *talk]:
        for at in range(0, len(data), size):
            getattr(play, side)(data[at : at + size])
    return play


class Cassette:
    def __init__(self, flows: list[Any]) -> None:
        self.left = list(flows)

    def decide(self, flow: Any) -> Play | Deny:
        for one in self.left:
            asked = [(f.step, f.question, f.values, f.session) for f in (one, flow)]
            if asked[0] == asked[1]:
                self.left.remove(one)
                return Play(exchange=one, error=one.error)
        return Deny(Origin.UNMATCHED)


def replayed(recorded: Playbook) -> Playbook:
    play = Playbook(amqp_layer, decide=Cassette(recorded.recorded).decide)
    for side, data in HELLO:
        if side == "client":
            play.client(data)
    play.expect_client(START + TUNE + OPEN_OK)
    return play


def test_a_login_is_left_out() -> None:
    play = live()
    assert [flow.question for flow in play.recorded] == ["AMQP 0-9-1", "login", "tune", "open"]  # type: ignore[union-attr]
    assert "secret" not in repr(play.recorded)
    replayed(play)


def test_a_message_that_is_published_is_an_exchange() -> None:
    play = live(("client", publish(b"apple")))
    assert play.flow.values == [b"", b"orders", b"apple"]
    replayed(play).client(publish(b"apple")).expect_client(b"")
    refused = replayed(play).client(publish(b"pear"))
    assert b"netcapture: no recording answers this" in refused.take_client()


def test_confirmations_are_counted_on_each_connection() -> None:
    select, selected = method(1, (85, 10), b"\0"), method(1, (85, 11))
    talk = [("client", select), ("server", selected)]
    for number in (1, 2):
        ack = method(1, (60, 80), struct.pack(">QB", number, 0))
        talk += [("client", publish(b"%d" % number)), ("server", ack)]
    play = live(*talk)
    assert play.flow.answer == talk[-1][1]
    played = replayed(play).client(select).expect_client(selected)
    played.client(publish(b"2")).expect_client(method(1, (60, 80), struct.pack(">QB", 1, 0)))


def test_deliveries_go_to_the_consumer_of_now() -> None:
    talk = [("client", consume("old", 3)), ("server", consumed("old", 3))]
    talk += [("server", deliver("old", 1, b"apple", 3))]
    play = live(*talk)
    assert (play.flow.step, play.flow.question) == ("message", "orders")
    assert body_of(play.flow.answer) == b"apple"
    played = replayed(play).client(consume("new"))
    played.expect_client(consumed("new") + deliver("new", 1, b"apple"))


@pytest.mark.parametrize("size", [1, 3])
def test_cut_at_every_byte_it_is_the_same(size: int) -> None:
    talk = [("client", publish(b"apple") + consume("c")), ("server", consumed("c"))]
    talk += [("server", frame(8, 0, b"") + deliver("c", 1, b""))]
    assert live(*talk, size=size).recorded == live(*talk).recorded


@pytest.mark.parametrize(
    ("side", "said"),
    [
        ("client", method(1, (90, 10))),
        ("client", frame(3, 1, b"x")),
        ("client", method(1, (60, 20), b"\0\0\xff")),
        ("server", method(1, (50, 11))),
        ("server", b"\x01\0\0\0\0\0\x01x!"),
        ("server", b"HTTP/1.1 400\r\n"),
    ],
)
def test_what_cannot_be_read_is_relayed(side: str, said: bytes) -> None:
    play = live((side, said))
    assert play.raw_reason
    assert (play.all_server if side == "client" else play.all_client).endswith(said)


@pytest.mark.parametrize("at", range(0, 40, 3))
def test_a_server_that_resets_within_its_answer(at: int) -> None:
    declared = method(1, (50, 11), short("orders") + bytes(8))
    ask = method(1, (50, 10), b"\0\0" + short("orders") + bytes(5))
    play = live(("client", ask), ("server", declared[: min(at, len(declared) - 1)])).server_reset()
    assert play.flow.error.kind == "reset"
    assert replayed(play).client(ask).names == ["reset"]


NOISE = st.lists(
    st.one_of(
        st.builds(
            frame, st.sampled_from([1, 2, 3, 8, 9]), st.integers(0, 2), st.binary(max_size=20)
        ),
        st.binary(max_size=9),
        st.sampled_from([publish(b"x"), consume("c"), consumed("c"), deliver("c", 1, b"x")]),
    ),
    max_size=8,
)


@settings(max_examples=200)
@given(said=st.lists(st.tuples(st.sampled_from(["client", "server"]), NOISE), max_size=5))
def test_whatever_is_said_live_passes_unchanged(said: Any) -> None:
    play = live()
    talk_unchanged(play, said)
    assert len(play.recorded) == len(play.began)
