"""An answer that begins before its request is complete, recorded by the HTTP/2 layer and played."""

from __future__ import annotations

from typing import Any

import pytest
from http2_lab import POST, Conversation

from pytest_netcapture.cassettes.dialogue import Dialogue
from pytest_netcapture.engine.layers.layer import Play
from pytest_netcapture.flows import GrpcFlow, Headers

GRPC = [*POST, ("content-type", "application/grpc"), ("te", "trailers")]


def framed(text: str) -> bytes:
    message = b"\x0a" + bytes((len(text),)) + text.encode()
    return b"\0" + len(message).to_bytes(4, "big") + message


def recorded(first: str = "a", *, server_first: bool = False) -> Any:
    """Two messages each way, and trailers; the server answers each at once."""
    talk = Conversation()
    stream = talk.request(GRPC, end=False)
    if server_first:
        talk.answer(1, end=False)
    talk.send(talk.client, stream, framed(first), end=False)
    if not server_first:
        talk.answer(1, end=False)
    talk.send(talk.server, 1, framed("one"), end=False)
    talk.send(talk.client, stream, framed("b"), end=False)
    talk.send(talk.server, 1, framed("two"), end=False)
    talk.client.h2.end_stream(stream)
    talk.move()
    talk.server.h2.send_headers(1, [("grpc-status", "0")], end_stream=True)
    talk.move()
    return talk.play.flow


def played(*flows: Any) -> tuple[Conversation, list[int]]:
    chosen: list[int] = []
    dialogue = Dialogue(list(flows), chosen.append, lambda data: data)
    return Conversation(late=True, early=lambda _: Play(dialogue=dialogue)), chosen


def test_the_moments_of_an_early_answer_are_kept() -> None:
    flow = recorded()
    assert isinstance(flow, GrpcFlow)
    size = len(framed("a"))
    assert flow.response is not None
    assert flow.response.after == [size, size, 2 * size, 2 * size + 1]


def test_an_answer_to_a_whole_request_has_no_moments() -> None:
    talk = Conversation()
    talk.request(body=b"x")
    talk.answer(1, body=b"y")
    assert talk.play.flow.response.after == []


def test_the_answer_follows_what_it_answered() -> None:
    talk, chosen = played(recorded())
    stream = talk.request(GRPC, end=False)
    assert talk.client.of(stream) == []
    talk.send(talk.client, stream, framed("a"), end=False)
    assert talk.client.frames(stream) == [framed("one")]
    talk.send(talk.client, stream, framed("b")[:4], end=False)
    assert talk.client.frames(stream) == [framed("one")]
    talk.send(talk.client, stream, framed("b")[4:], end=False)
    assert talk.client.frames(stream) == [framed("one"), framed("two")]
    talk.play.expect_recorded(0)
    talk.client.h2.end_stream(stream)
    talk.move()
    assert talk.client.end(stream) == "ended"
    talk.play.expect_recorded(1)
    assert chosen == [0]
    assert talk.play.flow.request.content == framed("a") + framed("b")
    assert talk.play.flow.status == 0


def test_a_server_that_speaks_first_does() -> None:
    talk, _ = played(recorded(server_first=True))
    stream = talk.request(GRPC, end=False)
    assert dict(talk.client.fields(stream))[":status"] == "200"
    assert talk.client.body(stream) == b""


def test_the_recording_that_begins_so_is_played() -> None:
    talk, chosen = played(recorded("x"), recorded("a"))
    stream = talk.request(GRPC, end=False)
    talk.send(talk.client, stream, framed("a"), end=False)
    assert chosen == [1]


@pytest.mark.parametrize("said", [[framed("z")], [framed("a"), framed("b"), framed("c")]])
def test_another_message_fails_the_test(said: list[bytes]) -> None:
    talk, _ = played(recorded())
    stream = talk.request(GRPC, end=False)
    for message in said:
        talk.send(talk.client, stream, message, end=False)
    assert "unlike" in talk.play.names
    assert talk.client.end(stream) == 2
    talk.play.expect_recorded(1)


def test_an_early_answer_to_an_upload_is_played_early() -> None:
    live = Conversation()
    live.request(body=b"x" * 100, end=False)
    live.answer(1, status=413, headers=(("x", "y"),))
    talk, _ = played(live.play.flow)
    stream = talk.request(POST, end=False)
    talk.send(talk.client, stream, b"x" * 60, end=False)
    assert talk.client.of(stream) == []
    talk.send(talk.client, stream, b"x" * 60, end=False)
    assert talk.seen(stream) == ("413", b"", "ended")


def test_a_client_that_gave_up_is_left_to_do_so_again() -> None:
    live = Conversation()
    stream = live.request(GRPC, framed("a"), end=False)
    live.answer(1, body=framed("one"), end=False)
    live.client.h2.reset_stream(stream, 8)
    live.move()
    flow = live.play.flow
    assert flow.error.detail == "by the client"
    talk, _ = played(flow)
    stream = talk.request(GRPC, framed("a"), end=False)
    assert talk.seen(stream) == ("200", framed("one"), None)
    talk.client.h2.reset_stream(stream, 8)
    talk.move()
    talk.play.expect_recorded(1)


def test_what_is_asked_for_is_not_grpc_by_accident() -> None:
    talk = Conversation()
    talk.request([*POST, ("content-type", "application/json")], b"{}")
    talk.answer(1)
    assert not isinstance(talk.play.flow, GrpcFlow)
    assert talk.play.flow.request.headers == Headers([("content-type", "application/json")])
