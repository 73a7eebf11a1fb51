"""However the bytes are cut the same comes of it; garbage ends a connection, and nothing raises."""

from __future__ import annotations

from typing import Any

import h2.events as ev
import hpack
import pytest
from http2_lab import GET, POST, Conversation, frames_of
from hyperframe import frame as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import Playbook

from pytest_netcapture.engine.layers.http2 import Http2Layer
from pytest_netcapture.engine.layers.http2_frames import PREFACE, Code
from pytest_netcapture.engine.layers.layer import Forward, Play
from pytest_netcapture.flows import Headers, HttpResponse

HELLO = PREFACE + hf.SettingsFrame(0).serialize()
BLOCK = hpack.Encoder().encode(GET)
POST_BLOCK = hpack.Encoder().encode(POST)
OK = hpack.Encoder().encode([(":status", "200")])


def headers(stream: int = 1, *flags: str, block: bytes = BLOCK) -> bytes:
    return hf.HeadersFrame(stream, data=block, flags=["END_HEADERS", *flags]).serialize()


def data(stream: int, content: bytes, *flags: str) -> bytes:
    return hf.DataFrame(stream, data=content, flags=list(flags)).serialize()


@given(st.integers(1, 40), st.booleans())
@settings(max_examples=30, deadline=None)
def test_any_fragmentation_is_the_same(cut: int, late: bool) -> None:
    talk = Conversation(cut=cut, late=late)
    talk.request([*POST, ("content-length", "5")], body=b"hello")
    talk.request()
    talk.answer(3, body=b"three")
    talk.answer(1, status=201, headers=(("x", "y"),), body=b"one")
    assert talk.seen(1) == ("201", b"one", "ended")
    assert talk.seen(3) == ("200", b"three", "ended")
    assert [flow.request.content for flow in talk.play.recorded] == [b"", b"hello"]
    assert talk.server.body(1) == b"hello"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n" + b" " * 24, Code.PROTOCOL_ERROR),
        (PREFACE + headers(), Code.PROTOCOL_ERROR),
        (HELLO + headers(2), Code.PROTOCOL_ERROR),
        (HELLO + b"\0\0\1\1\4\0\0\0\0\x82", Code.PROTOCOL_ERROR),
        (HELLO + headers(1, block=b"\xff\xff\xff\xff"), Code.COMPRESSION_ERROR),
        (HELLO + data(1, b"x"), Code.PROTOCOL_ERROR),
        (HELLO + b"\xff\xff\xff\0\0\0\0\0\1", Code.FRAME_SIZE_ERROR),
        (HELLO + hf.HeadersFrame(1, data=BLOCK).serialize() + data(1, b""), Code.PROTOCOL_ERROR),
        (HELLO + hf.ContinuationFrame(1, data=BLOCK).serialize(), Code.PROTOCOL_ERROR),
        (HELLO + hf.PushPromiseFrame(1, 2, flags=["END_HEADERS"]).serialize(), Code.PROTOCOL_ERROR),
        (HELLO + hf.WindowUpdateFrame(0, window_increment=(1 << 31) - 1).serialize(), 3),
        (HELLO + hf.SettingsFrame(0, settings={4: 1 << 31}).serialize(), Code.FLOW_CONTROL_ERROR),
        (HELLO + hf.SettingsFrame(0, settings={5: 1}).serialize(), Code.PROTOCOL_ERROR),
        (HELLO + b"\0\0\5\4\0\0\0\0\0hello", Code.FRAME_SIZE_ERROR),
        (HELLO + b"\0\0\7\6\0\0\0\0\0ping567", Code.FRAME_SIZE_ERROR),
        (HELLO + b"\0\0\1\0\x08\0\0\0\1\5", Code.PROTOCOL_ERROR),
    ],
    ids=range(16),
)
def test_what_breaks_a_connection_says_why(sent: bytes, code: int) -> None:
    play = Playbook(Http2Layer, decide=lambda _flow: Forward())
    play.client(sent)
    goaway = frames_of(play.all_client)[-1]
    assert (goaway.type, goaway.error_code) == (7, code)
    assert goaway.additional_data
    assert play.names[-1] == "close"


MALFORMED: list[list[tuple[str, str]]] = [
    [*GET, ("Upper", "x")],
    [*GET, ("connection", "close")],
    [*GET, ("te", "gzip")],
    [*GET, (":path", "/")],
    [("x", "y"), *GET],
    GET[1:],
    [*GET[:3], (":path", "")],
    [*GET, ("x", "a\nb")],
    [*GET, (":strange", "y")],
    [(":method", "CONNECT"), *GET[1:]],
]


@pytest.mark.parametrize("fields", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_request_is_reset_and_not_forwarded(fields: list[tuple[str, str]]) -> None:
    talk = Conversation()
    block = hpack.Encoder().encode(fields)
    talk.play.client(headers(1, "END_STREAM", block=block))
    (reset,) = frames_of(talk.play.take_client())
    assert (reset.type, reset.error_code) == (3, Code.PROTOCOL_ERROR)
    assert not talk.play.began


def test_a_body_that_is_not_as_long_as_declared_is_reset() -> None:
    talk = Conversation(has_server=True)
    block = hpack.Encoder().encode([*POST, ("content-length", "9")])
    talk.play.client(headers(1, block=block) + data(1, b"short", "END_STREAM"))
    (reset,) = frames_of(talk.play.take_client())
    assert reset.error_code == Code.PROTOCOL_ERROR
    assert talk.play.flow.error.kind == "malformed"
    talk.move()
    assert talk.server.end(1) == Code.PROTOCOL_ERROR


def test_a_response_without_sense_is_reset_on_both_sides() -> None:
    talk = Conversation()
    talk.request()
    block = hpack.Encoder().encode([("server", "x")])
    talk.play.server(headers(1, block=block))
    talk.move()
    assert talk.client.end(1) == Code.PROTOCOL_ERROR
    assert talk.play.flow.error.kind == "malformed"
    assert talk.server.end(1) == Code.PROTOCOL_ERROR


def test_a_push_ends_the_server_s_connection_only() -> None:
    talk = Conversation()
    talk.request()
    talk.play.server(hf.PushPromiseFrame(1, 2, data=BLOCK, flags=["END_HEADERS"]).serialize())
    talk.move()
    assert talk.client.end(1) == Code.PROTOCOL_ERROR
    assert "drop_server" in talk.play.names
    assert "close" not in talk.play.names


def test_more_streams_than_we_allow_are_refused() -> None:
    play = Playbook(Http2Layer)
    play.client(HELLO + b"".join(headers(n, "END_STREAM") for n in range(1, 259, 2)))
    play.server(hf.SettingsFrame(0).serialize())
    refused = [f for f in frames_of(play.all_client) if f.type == 3]
    assert [f.stream_id for f in refused] == [257]


def test_a_flood_that_is_not_read_is_cut_off() -> None:
    play = Playbook(Http2Layer)
    play.client(HELLO)
    play.stuffed.add("client")
    ping = hf.PingFrame(0, opaque_data=b"12345678").serialize()
    for _ in range(20):
        play.client(ping * 1000)
    last = frames_of(play.all_client)[-1]
    assert last.error_code == Code.ENHANCE_YOUR_CALM
    assert play.names[-1] == "close"


def test_a_header_bomb_is_cut_off() -> None:
    encoder = hpack.Encoder()
    block = encoder.encode([*GET, ("x", "a" * 3000)]) + b"\xbe" * 15000
    play = Playbook(Http2Layer)
    play.client(HELLO + hf.HeadersFrame(1, data=block[:16000], flags=[]).serialize())
    play.client(hf.ContinuationFrame(1, data=block[16000:], flags=["END_HEADERS"]).serialize())
    assert frames_of(play.all_client)[-1].error_code == Code.ENHANCE_YOUR_CALM


PIECES = [
    HELLO,
    headers(1),
    headers(1, "END_STREAM"),
    headers(3, block=POST_BLOCK),
    headers(5, "END_STREAM", block=POST_BLOCK),
    data(1, b"x"),
    data(3, b"yy", "END_STREAM"),
    hf.RstStreamFrame(3, error_code=8).serialize(),
    hf.WindowUpdateFrame(1, window_increment=5).serialize(),
    hf.GoAwayFrame(0, last_stream_id=1).serialize(),
    hf.SettingsFrame(0, settings={3: 1, 4: 1}).serialize(),
    hf.PingFrame(0, opaque_data=b"12345678").serialize(),
    hf.PriorityFrame(1, depends_on=1).serialize(),
    headers(1, block=OK),
    headers(1, "END_STREAM", block=OK),
    headers(3, "END_STREAM", block=OK),
]
events = st.lists(
    st.tuples(
        st.sampled_from(["client", "server"]),
        st.one_of(st.sampled_from(PIECES), st.binary(max_size=40)),
    ),
    max_size=14,
)
endings = st.sampled_from(["client_eof", "server_eof", "client_reset", "server_reset"])


@given(events, endings, st.booleans(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_nothing_raises_and_each_flow_has_its_end(
    script: list[tuple[str, bytes]], ending: str, late: bool, plays: bool
) -> None:
    answer = HttpResponse(status=200, headers=Headers([]))

    def decide(_flow: Any) -> Any:
        return Play(answer) if plays else Forward()

    play = Playbook(Http2Layer, late=late, decide=decide)
    play.client(HELLO)
    play.server(hf.SettingsFrame(0).serialize())
    for side, piece in script:
        getattr(play, side)(piece)
    getattr(play, ending)()
    play.client_reset()
    http = [flow for flow in play.began if flow.protocol == "http"]
    assert all(any(flow is each for each in play.recorded) for flow in http)


def test_an_unknown_frame_is_ignored() -> None:
    talk = Conversation()
    talk.play.client(b"\0\0\3\x99\0\0\0\0\1abc")
    talk.request()
    talk.answer(1, body=b"hi")
    assert talk.seen(1)[1] == b"hi"
    assert not talk.client.of_kind(ev.ConnectionTerminated)


def test_a_websocket_that_is_none_is_passed_on_and_noted() -> None:
    talk = Conversation()
    connect = [(":method", "CONNECT"), (":protocol", "websocket"), *GET[1:]]
    stream = talk.request(connect, end=False)
    talk.answer(1, end=False)
    talk.send(talk.client, stream, b"\xff" * 10, end=False)
    assert talk.server.body(1) == b"\xff" * 10
    assert talk.play.flow.error.kind == "malformed"
    talk.send(talk.server, 1, b"more")
    assert talk.client.body(stream) == b"more"
    talk.play.expect_recorded(1)
