"""What the HTTP/2 layer does between a client and a server, both of them the h2 library."""

from __future__ import annotations

import gzip
import os
from typing import Any

import h2.events as ev
import pytest
from http2_lab import GET, POST, Conversation, frames_of
from hyperframe.frame import GoAwayFrame, SettingsFrame
from playbook import Playbook

from pytest_netcapture.engine.layers.http2 import Http2Layer
from pytest_netcapture.engine.layers.http2_frames import PREFACE
from pytest_netcapture.engine.layers.layer import Deny, Forward, Play
from pytest_netcapture.flows import Body, FlowError, Headers, HttpResponse, Origin

INTERNAL_ERROR, REFUSED, CANCEL = 2, 7, 8
BIG = os.urandom(3_000_000)


def response(data: bytes = b"hi", status: int = 200, **fields: Any) -> HttpResponse:
    headers = fields.pop("headers", [("content-type", "text/plain")])
    body = fields.pop("body", None) or Body(size=len(data), data=data)
    return HttpResponse(
        http_version="2", status=status, headers=Headers(headers), body=body, **fields
    )


def played(
    answer: HttpResponse | None, error: FlowError | None = None, **options: Any
) -> Conversation:
    return Conversation(late=True, decide=lambda _flow: Play(answer, error), **options)


class TestForwarding:
    def test_an_exchange_is_forwarded_and_recorded(self) -> None:
        talk = Conversation()
        assert talk.request([*GET, ("x-a", "1"), ("cookie", "a=1"), ("cookie", "b=2")]) == 1
        sent = talk.server.fields(1, ev.RequestReceived)
        assert sent == [*GET, ("x-a", "1"), ("cookie", "a=1; b=2")]  # the h2 library joins them
        talk.play.expect("connect").expect_recorded(0)
        talk.answer(1, headers=(("server", "x"),), body=b"hi")
        assert talk.seen(1) == ("200", b"hi", "ended")
        flow = talk.play.flow
        assert flow.request.url == "https://example.com/a?b=1"
        assert flow.request.headers.items() == [("x-a", "1"), ("cookie", "a=1; b=2")]
        assert (flow.request.http_version, flow.response.http_version) == ("2", "2")
        assert flow.response.headers.items() == [("server", "x")]
        assert flow.response.content == b"hi"
        assert flow.started < flow.ended

    def test_the_flow_is_recorded_before_its_last_bytes_are_written(self) -> None:
        talk = Conversation(cut=1)
        talk.request()
        talk.answer(1, body=b"hi")
        full = talk.play.all_client.rindex(b"hi")
        assert [n for size, n in talk.play.recorded_by if size >= full + 2] == [1]

    def test_streams_are_answered_in_any_order(self) -> None:
        talk = Conversation()
        for _ in range(3):
            talk.request()
        for stream in (5, 1, 3):
            talk.answer(stream, body=b"%d" % stream)
        assert [talk.seen(n)[1] for n in (1, 3, 5)] == [b"1", b"3", b"5"]
        assert [flow.response.content for flow in talk.play.recorded] == [b"5", b"1", b"3"]

    def test_request_bodies_and_trailers_both_ways(self) -> None:
        talk = Conversation()
        stream = talk.request(body=b"body", end=False)
        talk.client.h2.send_headers(stream, [("x-sum", "1")], end_stream=True)
        talk.move()
        assert talk.server.body(1) == b"body"
        assert talk.server.fields(1, ev.TrailersReceived) == [("x-sum", "1")]
        talk.answer(1, body=b"hi", end=False)
        talk.server.h2.send_headers(1, [("grpc-status", "0")], end_stream=True)
        talk.move()
        assert talk.client.fields(1, ev.TrailersReceived) == [("grpc-status", "0")]
        flow = talk.play.flow
        assert flow.request.content == b"body"
        assert flow.request.trailers.items() == [("x-sum", "1")]
        assert flow.response.trailers.items() == [("grpc-status", "0")]

    def test_interim_responses_come_before_the_final_one(self) -> None:
        talk = Conversation()
        talk.request()
        talk.server.h2.send_headers(1, [(":status", "103"), ("link", "</x>")])
        talk.move()
        talk.play.expect_recorded(0)
        assert talk.client.fields(1, ev.InformationalResponseReceived)[0] == (":status", "103")
        talk.answer(1)
        assert talk.play.flow.response.interim == [(103, Headers([("link", "</x>")]))]

    def test_large_headers_go_through_in_continuations(self) -> None:
        value = "x" * 50_000
        talk = Conversation(client_settings={6: 1 << 20}, server_settings={6: 1 << 20})
        talk.server.h2.decoder.max_header_list_size = 1 << 20
        talk.client.h2.decoder.max_header_list_size = 1 << 20
        talk.request([*GET, ("x-long", value)])
        assert ("x-long", value) in talk.server.fields(1, ev.RequestReceived)
        talk.answer(1, headers=(("x-back", value),))
        assert ("x-back", value) in talk.client.fields(1)

    def test_frame_boundaries_of_a_stream_are_kept(self) -> None:
        talk = Conversation()
        talk.request()
        talk.answer(1, headers=(("content-type", "text/event-stream"),), end=False)
        for event in (b"data: 1\n\n", b"data: 22\n\n"):
            talk.send(talk.server, 1, event, end=False)
            assert talk.client.frames(1)[-1] == event, "at once"
        talk.server.h2.end_stream(1)
        talk.move()
        assert talk.play.flow.response.body.chunks == [9, 10]

    def test_boundaries_of_a_body_of_declared_length_mean_nothing(self) -> None:
        talk = Conversation()
        talk.request()
        talk.answer(1, headers=(("content-length", str(len(BIG))),), body=BIG)
        assert talk.client.body(1) == BIG
        assert talk.play.flow.response.body.chunks == []

    def test_a_coded_body_is_decoded_in_the_flow_only(self) -> None:
        coded = gzip.compress(b"hello" * 100)
        talk = Conversation()
        talk.request()
        talk.answer(1, headers=(("content-encoding", "gzip"),), body=coded)
        assert talk.client.body(1) == coded
        assert talk.play.flow.response.content == b"hello" * 100
        assert talk.play.flow.response.body.coding == "gzip"


class TestFlowControl:
    def test_a_client_that_does_not_read_slows_the_server_down(self) -> None:
        talk = Conversation()
        talk.client.reads = False
        talk.request()
        with pytest.raises(AssertionError, match="the window stays closed"):
            talk.answer(1, body=BIG)
        assert len(talk.client.body(1)) == 65535
        taken = talk.server.h2.local_flow_control_window(1)
        assert taken == 0
        talk.client.h2.increment_flow_control_window(1 << 24)
        talk.client.h2.increment_flow_control_window(1 << 24, 1)
        talk.move()
        assert len(talk.client.body(1)) == 1 << 20, "what the layer had taken from the server"
        assert talk.server.h2.local_flow_control_window(1) == 1 << 20

    def test_a_server_that_does_not_read_slows_the_client_down(self) -> None:
        talk = Conversation()
        talk.server.reads = False
        with pytest.raises(AssertionError, match="the window stays closed"):
            talk.request(body=BIG)
        assert len(talk.server.body(1)) == 65535
        assert talk.client.h2.local_flow_control_window(1) == 0

    def test_a_stalled_stream_does_not_stall_another(self) -> None:
        talk = Conversation(client_settings={4: 10})
        talk.client.reads = False
        talk.request()
        talk.request()
        talk.answer(1, body=b"x" * 1000)
        talk.answer(3, body=b"y" * 10)
        assert talk.seen(3) == ("200", b"y" * 10, "ended")
        assert talk.client.body(1) == b"x" * 10
        talk.client.h2.increment_flow_control_window(990, 1)
        talk.move()
        assert talk.seen(1) == ("200", b"x" * 1000, "ended")

    def test_streams_share_the_window_of_a_connection(self) -> None:
        talk = Conversation(client_settings={4: 1 << 20})
        talk.client.reads = False
        for stream in (1, 3):
            talk.request()
            talk.answer(stream, body=b"%d" % stream * 60_000)
        talk.client.h2.increment_flow_control_window(1 << 20)
        talk.move()
        assert talk.seen(1) == ("200", b"1" * 60_000, "ended")
        assert talk.seen(3) == ("200", b"3" * 60_000, "ended")

    def test_dropped_data_gives_its_window_back(self) -> None:
        talk = Conversation(client_settings={4: 10})
        talk.client.reads = False
        for stream in range(1, 61, 2):
            talk.request()
            talk.answer(stream, body=b"x" * 1_000_000, end=False)
            talk.client.h2.reset_stream(stream, CANCEL)
            talk.move()
        assert talk.server.end(59) == CANCEL

    def test_the_server_decides_how_many_streams_there_are_at_a_time(self) -> None:
        talk = Conversation(server_settings={3: 2})
        for _ in range(4):
            talk.request(body=b"b")
        assert len(talk.server.of_kind(ev.RequestReceived)) == 2
        talk.answer(1, body=b"1")
        assert len(talk.server.of_kind(ev.RequestReceived)) == 3
        for stream in (3, 5, 7):
            talk.answer(stream, body=b"%d" % stream)
        assert [talk.seen(n)[1] for n in (1, 3, 5, 7)] == [b"1", b"3", b"5", b"7"]
        assert talk.server.body(7) == b"b"


class TestEnds:
    @pytest.mark.parametrize("code", [0, 2, 8, 99])
    def test_a_reset_by_the_server_reaches_the_client_behind_the_data(self, code: int) -> None:
        talk = Conversation()
        talk.request()
        talk.answer(1, body=b"half", end=False)
        talk.server.h2.reset_stream(1, code)
        talk.move()
        assert talk.seen(1) == ("200", b"half", code)
        error = talk.play.flow.error
        assert (error.kind, error.code, error.after) == ("reset", code, 4)
        assert talk.play.flow.response.content == b"half"

    def test_a_reset_by_the_client_reaches_the_server(self) -> None:
        talk = Conversation()
        talk.request()
        talk.answer(1, body=b"half", end=False)
        talk.client.h2.reset_stream(1, CANCEL)
        talk.move()
        assert talk.server.end(1) == CANCEL
        assert talk.play.flow.error == FlowError("reset", "by the client", 4, CANCEL)
        talk.request()
        talk.answer(3)
        assert talk.seen(3)[0] == "200"

    def test_an_early_answer_then_a_reset_without_error(self) -> None:
        talk = Conversation()
        talk.request(body=b"half", end=False)
        talk.answer(1, status=413)
        talk.server.h2.reset_stream(1, 0)
        talk.move()
        assert talk.client.of_kind(ev.ResponseReceived)
        assert talk.play.flow.error is None
        assert talk.play.flow.response.status == 413
        talk.play.expect_recorded(1)

    def test_a_server_that_goes_away_still_answers_what_it_has(self) -> None:
        talk = Conversation()
        talk.request()
        talk.request()
        talk.play.server(GoAwayFrame(0, last_stream_id=1, error_code=0).serialize())
        goaway, refused = frames_of(talk.play.take_client())
        assert (goaway.type, goaway.last_stream_id, goaway.error_code) == (7, 3, 0)
        assert (refused.type, refused.stream_id, refused.error_code) == (3, 3, REFUSED)
        talk.play.expect_recorded(1)
        assert talk.play.flow.error.code == REFUSED
        talk.server.h2.send_headers(1, [(":status", "200")], end_stream=True)
        talk.play.server(talk.server.h2.data_to_send())
        (answer,) = frames_of(talk.play.take_client())
        assert (answer.stream_id, "END_STREAM" in answer.flags) == (1, True)
        assert talk.play.flow.response.status == 200

    def test_a_server_that_closes_ends_the_connection(self) -> None:
        talk = Conversation()
        talk.request()
        talk.answer(1, body=b"half", end=False)
        talk.play.server_eof()
        assert talk.play.names[-1] == "close"
        assert talk.play.flow.error.kind == "eof"

    def test_a_server_that_resets_resets_the_client(self) -> None:
        talk = Conversation()
        talk.request()
        talk.play.server_reset()
        assert talk.play.names[-1] == "reset"
        assert talk.play.flow.error.kind == "reset"

    def test_a_client_that_vanishes_is_noted(self) -> None:
        talk = Conversation()
        talk.request()
        talk.play.client_reset()
        assert talk.play.flow.error.kind == "reset"
        talk.play.expect_recorded(1)

    def test_pings_are_answered_and_settings_too(self) -> None:
        talk = Conversation()
        talk.client.h2.ping(b"12345678")
        talk.move()
        assert [e.ping_data for e in talk.client.of_kind(ev.PingAckReceived)] == [b"12345678"]
        assert talk.client.of_kind(ev.SettingsAcknowledged)

    @pytest.mark.parametrize("able", [0, 1])
    def test_extended_connect_is_offered_as_the_server_does(self, able: int) -> None:
        talk = Conversation(has_server=True, server_settings={8: able})
        changed = talk.client.of_kind(ev.RemoteSettingsChanged)[0].changed_settings
        assert (changed[8].new_value if 8 in changed else 0) == able

    def test_a_server_that_speaks_http1_is_relayed(self) -> None:
        raw = b"HTTP/1.1 400 Bad Request\r\n\r\n"
        play = Playbook(Http2Layer, has_server=True)
        play.client(PREFACE + SettingsFrame(0).serialize()).server(raw).expect_client(raw)
        assert play.raw_reason == "the server does not speak HTTP/2"


class TestPlaying:
    def test_an_answer_is_played_without_a_server(self) -> None:
        talk = played(response(trailers=Headers([("X-Sum", "1")])))
        talk.request()
        assert talk.seen(1) == ("200", b"hi", "ended")
        assert talk.client.fields(1, ev.TrailersReceived) == [("x-sum", "1")]
        assert talk.play.flow.origin is Origin.PLAYED
        assert talk.play.names == []

    def test_an_http1_recording_loses_what_belongs_to_http1(self) -> None:
        headers = [("Content-Type", "x"), ("Connection", "close"), ("Transfer-Encoding", "chunked")]
        talk = played(HttpResponse(status=200, headers=Headers(headers)))
        talk.request()
        assert talk.client.fields(1) == [(":status", "200"), ("content-type", "x")]

    def test_pieces_are_played_as_they_came(self) -> None:
        body = Body(size=5, data=b"aabbb", chunks=[2, 3])
        talk = played(response(body=body))
        talk.request()
        assert talk.client.frames(1) == [b"aa", b"bbb"]

    def test_a_wrong_length_is_corrected(self) -> None:
        body = Body(size=500, data=b"hello" * 100, coding="gzip")
        headers = [("content-encoding", "gzip"), ("content-length", "1")]
        talk = played(response(body=body, headers=headers))
        talk.request()
        coded = talk.client.body(1)
        assert gzip.decompress(coded) == b"hello" * 100
        assert ("content-length", str(len(coded))) in talk.client.fields(1)

    def test_a_large_answer_is_not_written_faster_than_the_client_reads(self) -> None:
        talk = played(response(BIG), client_settings={4: 1 << 24})
        talk.client.h2.increment_flow_control_window(1 << 24)
        talk.move()
        talk.play.stuffed.add("client")
        talk.request()
        assert talk.client.body(1) == b""
        talk.play.free("client")
        talk.move()
        assert talk.seen(1) == ("200", BIG, "ended")

    def test_a_large_answer_follows_the_window(self) -> None:
        talk = played(response(BIG))
        talk.request()
        assert talk.seen(1) == ("200", BIG, "ended")

    def test_large_answers_take_turns(self) -> None:
        talk = played(response(BIG))
        talk.client.reads = False
        talk.request()
        talk.request()
        talk.client.h2.increment_flow_control_window(1 << 24)
        for stream in (1, 3):
            talk.client.h2.increment_flow_control_window(1 << 22, stream)
        talk.move()
        streams = [e.stream_id for e in talk.client.of_kind(ev.DataReceived)]
        assert streams.index(3) < len(streams) - streams[::-1].index(1) - 1
        assert talk.client.body(1) == talk.client.body(3) == BIG

    def test_the_body_is_read_before_the_decision(self) -> None:
        seen = []

        def decide(flow: Any) -> Any:
            seen.append(flow.request.content)
            return Play(response())

        talk = Conversation(late=True, decide=decide)
        talk.request(body=b"he", end=False)
        assert seen == []
        talk.send(talk.client, 1, b"llo")
        assert seen == [b"hello"]
        assert talk.seen(1)[1] == b"hi"

    def test_a_client_that_expects_100_gets_it_from_here(self) -> None:
        talk = played(response())
        stream = talk.request([*POST, ("expect", "100-continue")], end=False)
        assert talk.client.fields(stream, ev.InformationalResponseReceived) == [(":status", "100")]
        talk.send(talk.client, stream, b"body")
        assert talk.seen(stream)[1] == b"hi"

    def test_a_held_request_is_forwarded_whole_after_all(self) -> None:
        talk = Conversation(late=True)
        stream = talk.request([*POST, ("expect", "100-continue")], end=False)
        talk.send(talk.client, stream, BIG)
        assert talk.server.body(1) == BIG
        talk.server.h2.send_headers(1, [(":status", "100")])
        talk.move()
        assert len(talk.client.of_kind(ev.InformationalResponseReceived)) == 1
        talk.answer(1, body=b"hi")
        assert talk.seen(1)[1] == b"hi"
        assert talk.play.flow.request.content == BIG

    def test_a_held_coded_request_is_forwarded_as_it_was(self) -> None:
        talk = Conversation(late=True)
        coded = gzip.compress(b"hello")
        talk.request([*POST, ("content-encoding", "gzip")], body=coded)
        assert talk.server.body(1) == coded
        talk.answer(1)
        assert talk.play.flow.request.content == b"hello"

    @pytest.mark.parametrize(
        ("error", "end"),
        [
            (FlowError("reset", "CANCEL", 2, CANCEL), CANCEL),
            (FlowError("reset", "by the peer", 2), INTERNAL_ERROR),
            (FlowError("eof", "", 2), INTERNAL_ERROR),
            (FlowError("malformed", "", 2), 1),
            (FlowError("timeout"), None),
            (FlowError("reset", "by the client", 2, CANCEL), None),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_failures_are_played(self, error: FlowError, end: int | None) -> None:
        talk = played(response(), error)
        talk.request()
        assert talk.seen(1) == ("200", b"hi", end)

    def test_a_denied_stream_is_reset_and_others_go_on(self) -> None:
        answers = iter([Deny(Origin.UNMATCHED), Play(response()), Forward()])
        talk = Conversation(late=True, decide=lambda _flow: next(answers))
        for _ in range(3):
            talk.request()
        talk.answer(1, body=b"live")
        assert talk.client.end(1) == INTERNAL_ERROR
        assert talk.seen(3)[1] == b"hi"
        assert talk.seen(5)[1] == b"live"
        assert [flow.origin.value for flow in talk.play.recorded] == ["unmatched", "played", "live"]

    def test_played_streams_survive_the_server(self) -> None:
        answers = iter([Play(response()), Forward(), Play(response()), Forward()])
        talk = Conversation(late=True, decide=lambda _flow: next(answers))
        talk.request()
        talk.request()
        talk.play.server_eof()
        talk.move()
        assert talk.client.end(3) == INTERNAL_ERROR
        talk.request()
        assert talk.seen(5)[1] == b"hi"
        assert "close" not in talk.play.names
        talk.request()
        assert talk.play.names.count("connect") == 2
