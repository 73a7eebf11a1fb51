"""What the memcached layer does, line by line; a real server is in tests/services."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import Playbook, talk_unchanged

from pytest_netcapture.engine.layers.layer import Deny, Play
from pytest_netcapture.engine.layers.memcached import memcached_layer
from pytest_netcapture.engine.layers.opening import OpeningLayer
from pytest_netcapture.flows import Origin

TALK = [
    (
        "client",
        b"set a 0 0 7\r\nb\r\nc\r\nd\r\nget a b\r\nset n 0 0 1 noreply\r\n1\r\nincr n 2\r\n",
    ),
    ("server", b"STORED\r\nVALUE a 0 5\r\nEND\r\n\r\nVALUE b 0 1\r\nx\r\nEND\r\n3\r\n"),
]


def live(size: int = 1 << 20) -> Playbook:
    play = Playbook(memcached_layer, has_server=True)
    for side, data in TALK:
        for at in range(0, len(data), size):
            getattr(play, side)(data[at : at + size])
    return play


def test_commands_and_their_answers() -> None:
    play = live()
    asked = [(flow.question, flow.values, flow.answer) for flow in play.began]  # type: ignore[union-attr]
    assert asked == [
        ("set", [b"a", b"0", b"0", b"b\r\nc\r\nd"], b"STORED\r\n"),
        ("get", [b"a", b"b"], b"VALUE a 0 5\r\nEND\r\n\r\nVALUE b 0 1\r\nx\r\nEND\r\n"),
        ("set", [b"n", b"0", b"0", b"1", b"noreply"], b""),
        ("incr", [b"n", b"2"], b"3\r\n"),
    ]
    left = list(play.recorded)

    def decide(flow: Any) -> Play | Deny:
        found = [one for one in left if (one.question, one.values) == (flow.question, flow.values)]  # type: ignore[union-attr]
        return Play(exchange=found[0]) if found else Deny(Origin.UNMATCHED)  # type: ignore[arg-type]

    played = Playbook(OpeningLayer, decide=decide).client(TALK[0][1])
    played.expect_client(TALK[1][1]).client(b"get z\r\n")
    said = b"SERVER_ERROR netcapture: no recording answers this: get z\r\n"
    played.expect_client(said)


@pytest.mark.parametrize("size", [1, 3])
def test_cut_at_every_byte_it_is_the_same(size: int) -> None:
    assert live(size).recorded == live().recorded


@pytest.mark.parametrize(
    ("side", "said"),
    [
        ("client", b"mg k v\r\n"),
        ("client", b"set a 0 0 x\r\n"),
        ("client", b"set a 0 0 1\r\nabc\r\n"),
        ("server", b"VALUE a 0 999999999999\r\n"),
        ("server", b"more\r\n"),
    ],
)
def test_what_cannot_be_read_is_relayed(side: str, said: bytes) -> None:
    play = live()
    if side == "server" and said != b"more\r\n":
        play.client(b"get a\r\n")
    getattr(play, side)(said)
    assert play.raw_reason
    assert (play.all_server if side == "client" else play.all_client).endswith(said)


LINES = st.sampled_from(
    [b"get a\r\n", b"set a 0 0 1\r\n", b"x\r\n", b"VALUE a 0 1\r\n", b"END\r\n"]
)
NOISE = st.lists(st.one_of(LINES, st.binary(max_size=9)), max_size=8)


@settings(max_examples=200)
@given(said=st.lists(st.tuples(st.sampled_from(["client", "server"]), NOISE), max_size=6))
def test_whatever_is_said_live_passes_unchanged(said: Any) -> None:
    play = Playbook(memcached_layer, has_server=True)
    talk_unchanged(play, said)
    assert len(play.recorded) == len(play.began)
