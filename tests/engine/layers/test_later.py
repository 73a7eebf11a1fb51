"""Decisions that are made later: what waits for them, and what does not."""

from __future__ import annotations

from typing import Any

from http2_lab import Conversation
from playbook import Playbook

from pytest_netcapture.engine.layers.http1 import Http1Layer
from pytest_netcapture.engine.layers.layer import Deny, Forward, Later, Play
from pytest_netcapture.flows import Body, Headers, HttpResponse

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


def hi() -> Play:
    return Play(HttpResponse(status=200, reason="OK", headers=Headers([]), body=Body(2, b"hi")))


class Deciding:
    """Decides nothing until it is told to; keeps what waits, in order."""

    def __init__(self) -> None:
        self.waiting: list[Later] = []

    def __call__(self, _flow: Any) -> Any:
        self.waiting.append(Later())
        return self.waiting[-1]


def undecided(**options: Any) -> tuple[Playbook, Deciding]:
    deciding = Deciding()
    return Playbook(Http1Layer, late=True, decide=deciding, **options), deciding


class TestHttp1:
    def test_pipelined_requests_wait_for_the_first_one(self) -> None:
        play, deciding = undecided()
        play.client(GET % 1 + GET % 2).expect_client(b"")
        assert len(deciding.waiting) == 1
        deciding.waiting[0].settle(hi())
        play.expect_client(OK).expect_recorded(1)
        deciding.waiting[1].settle(hi())
        play.expect_client(OK).expect_recorded(2)
        assert [flow.request.path for flow in play.recorded] == ["/1", "/2"]

    def test_a_request_with_a_body_is_forwarded_whole(self) -> None:
        play, deciding = undecided()
        play.client(POST[:-2]).client(POST[-2:] + GET % 2).expect_server(b"").expect()
        deciding.waiting[0].settle(Forward())
        play.expect_server(POST).expect("connect")
        play.server(OK).expect_client(OK)
        assert len(deciding.waiting) == 2

    def test_a_client_that_has_ended_its_side_is_answered(self) -> None:
        play, deciding = undecided()
        play.client(GET % 1).client_eof().expect()
        deciding.waiting[0].settle(hi())
        play.expect_client(OK).expect("close").expect_recorded(1)

    def test_a_client_that_is_gone_is_not(self) -> None:
        play, deciding = undecided()
        play.client(GET % 1).client_reset().expect("close").expect_recorded(1)
        assert play.flow.error.kind == "reset"
        deciding.waiting[0].settle(hi())
        play.expect_client(b"").expect().expect_recorded(1)

    def test_an_idle_server_that_ends_meanwhile_is_dialled_again(self) -> None:
        play, deciding = undecided()
        play.client(GET % 1)
        play.server_eof().expect("drop_server")
        deciding.waiting[0].settle(Forward())
        play.expect("connect").expect_server(GET % 1)

    def test_denied_in_the_end(self) -> None:
        play, deciding = undecided()
        play.client(GET % 1)
        deciding.waiting[0].settle(Deny())
        play.expect("reset").expect_recorded(1)


class TestHttp2:
    def test_streams_do_not_wait_for_each_other(self) -> None:
        deciding = Deciding()
        talk = Conversation(late=True, decide=deciding)
        talk.request()
        talk.request()
        deciding.waiting[1].settle(hi())
        talk.move()
        assert talk.seen(3) == ("200", b"hi", "ended")
        assert talk.client.end(1) is None
        deciding.waiting[0].settle(hi())
        talk.move()
        assert talk.seen(1) == ("200", b"hi", "ended")

    def test_a_stream_that_the_client_has_reset_is_not_answered(self) -> None:
        deciding = Deciding()
        talk = Conversation(late=True, decide=deciding)
        talk.request()
        talk.client.h2.reset_stream(1)
        talk.move()
        talk.play.expect_recorded(1)
        deciding.waiting[0].settle(hi())
        talk.move()
        talk.play.expect_recorded(1)
        assert talk.client.body(1) == b""


def test_a_decision_made_before_anybody_waits_is_there() -> None:
    later, made = Later(), []
    later.settle(Forward())
    later.then(made.append)
    assert made == [Forward()]
