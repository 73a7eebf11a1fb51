"""What an HTTP/1 layer does, told as what goes over the wire."""

from __future__ import annotations

import gzip
import os
from typing import Any

import pytest
from playbook import Playbook

from pytest_netcapture.engine.layers.http1 import Http1Layer
from pytest_netcapture.engine.layers.layer import Deny, Forward, Play
from pytest_netcapture.flows import Body, FlowError, Headers, HttpResponse, Origin, TcpFlow

GET = b"GET /a?b=1 HTTP/1.1\r\nHost: Example.com\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
POST = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n3;ext=1\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
)


def playbook(**options: Any) -> Playbook:
    return Playbook(Http1Layer, **options)


def played(
    response: HttpResponse | None, error: FlowError | None = None, **options: Any
) -> Playbook:
    return playbook(late=True, decide=lambda _flow: Play(response, error), **options)


def response(data: bytes = b"hi", status: int = 200, **fields: Any) -> HttpResponse:
    headers = fields.pop("headers", [("Content-Length", str(len(data)))])
    body = fields.pop("body", None) or Body(size=len(data), data=data)
    return HttpResponse(status=status, reason="OK", headers=Headers(headers), body=body, **fields)


class TestForwarding:
    def test_an_exchange_is_forwarded_as_sent_and_recorded(self) -> None:
        play = playbook()
        play.client(GET).expect_server(GET).expect("connect").expect_recorded(0)
        play.server(OK).expect_client(OK).expect_recorded(1)
        flow = play.flow
        assert (flow.request.host, flow.request.port, flow.request.url) == (
            "example.com",
            80,
            "http://example.com/a?b=1",
        )
        assert (flow.response.status, flow.response.reason, flow.response.content) == (
            200,
            "OK",
            b"hi",
        )
        assert flow.started < flow.ended

    def test_the_flow_is_recorded_before_its_last_byte_is_written(self) -> None:
        play = playbook()
        play.client(GET)
        for index in range(len(CHUNKED)):
            play.server(CHUNKED[index : index + 1])
        assert play.all_client == CHUNKED
        assert [count for sent, count in play.recorded_by if sent == len(CHUNKED)] == [1]

    def test_a_connection_is_dialled_once(self) -> None:
        play = playbook()
        play.client(GET).server(OK).client(GET).server(OK)
        assert play.names == ["connect"]
        play.expect_recorded(2)

    def test_chunks_and_trailers_are_kept(self) -> None:
        play = playbook()
        play.client(GET).server(CHUNKED).expect_client(CHUNKED)
        body = play.flow.response.body
        assert (body.data, body.chunks) == (b"helloabc", [5, 3])
        assert play.flow.response.trailers.items() == [("X-Sum", "1")]

    def test_a_chunked_request_with_trailers(self) -> None:
        sent = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nT: v\r\n\r\n"
        play = playbook()
        play.client(sent).expect_server(sent).server(OK)
        assert play.flow.request.content == b"ab"
        assert play.flow.request.trailers["t"] == "v"

    def test_pipelined_requests_go_out_at_once_and_answers_find_them(self) -> None:
        play = playbook()
        play.client(GET + POST + GET).expect_server(GET + POST + GET)
        play.server(OK + CHUNKED + OK).expect_client(OK + CHUNKED + OK).expect_recorded(3)
        assert [flow.request.method for flow in play.recorded] == ["GET", "POST", "GET"]
        assert [flow.response.content for flow in play.recorded] == [b"hi", b"helloabc", b"hi"]

    @pytest.mark.parametrize("status", [204, 304])
    def test_statuses_without_body(self, status: int) -> None:
        head = b"HTTP/1.1 %d x\r\nContent-Length: 5\r\n\r\n" % status
        play = playbook()
        play.client(GET + GET).server(head + OK).expect_client(head + OK).expect_recorded(2)
        assert play.recorded[0].response.body.size == 0

    def test_head_has_no_body(self) -> None:
        sent = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"
        play = playbook()
        play.client(sent + GET).server(answer + OK).expect_client(answer + OK).expect_recorded(2)

    def test_interim_responses_are_kept_apart(self) -> None:
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        play = playbook()
        play.client(GET).server(hints).expect_client(hints).expect_recorded(0)
        play.server(OK)
        assert [(s, h.items()) for s, h in play.flow.response.interim] == [
            (103, [("Link", "</x>")])
        ]

    def test_an_offer_to_go_on_as_http2_is_left_out(self) -> None:
        sent = (
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, x\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
        )
        play = playbook()
        play.client(sent + GET)
        play.expect_server(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\n\r\n" + GET)
        play.server(OK)
        assert play.flow.request.headers["upgrade"] == "h2c"

    def test_expect_continue_is_between_the_two(self) -> None:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        play = playbook()
        play.client(head).expect_server(head)
        play.server(interim).expect_client(interim)
        play.client(b"body").expect_server(b"body").server(OK).expect_client(OK)
        assert play.flow.request.content == b"body"

    def test_a_body_ends_with_the_connection(self) -> None:
        play = playbook()
        play.client(GET).server(b"HTTP/1.1 200 OK\r\n\r\nabc").server(b"def").expect_recorded(0)
        play.server_eof().expect_recorded(1).expect("connect", "close")
        assert play.flow.response.content == b"abcdef"
        assert play.flow.response.closes
        assert play.flow.error is None

    def test_content_coding_is_removed_and_named(self) -> None:
        coded = gzip.compress(b"hello" * 100)
        answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(
            coded
        )
        play = playbook()
        play.client(GET).server(answer + coded).expect_client(answer + coded)
        body = play.flow.response.body
        assert (body.data, body.coding) == (b"hello" * 100, "gzip")

    def test_an_early_answer_completes_the_flow(self) -> None:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
        answer = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        play = playbook()
        play.client(head + b"part").server(answer).expect_client(answer).expect_recorded(1)
        assert play.flow.request.content == b"part"
        play.client(b"more").server_eof()
        assert play.all_server == head + b"partmore"
        assert "reset" not in play.names

    def test_an_upload_ends_when_the_server_has_closed(self) -> None:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n"
        play = playbook()
        play.client(head).server(OK).server_eof().expect("connect", "eof_client")
        play.client(b"body").expect().client(b"body").expect("close")
        play = playbook()
        play.client(head).server(OK).server_reset().expect("connect", "close").expect_recorded(1)
        play = playbook()
        play.client(head).server(OK).client_reset().expect("connect", "close").expect_recorded(1)

    def test_the_body_after_an_early_answer_is_not_a_request(self) -> None:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(GET)
        play = playbook()
        play.client(head).server(OK).client(GET).client(GET)
        assert len(play.began) == 2
        play.server(OK).expect_recorded(2)

    @pytest.mark.parametrize(
        "head",
        [
            b"GET / HTTP/1.1\nHost: a\n\n",
            b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"FOO-BAR /caf\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: one\r\n two\r\n\r\n",
            b"GET /" + b"x" * 60000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n"
            + b"".join(b"X-%d: y\r\n" % i for i in range(2000))
            + b"\r\n",
        ],
    )
    def test_unusual_heads_pass_unchanged(self, head: bytes) -> None:
        play = playbook()
        play.client(head).expect_server(head).server(OK).expect_client(OK).expect_recorded(1)
        assert play.raw_reason == ""

    def test_a_status_line_without_reason(self) -> None:
        answer = b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"
        play = playbook()
        play.client(GET).server(answer).expect_client(answer).expect_recorded(1)


class TestPlace:
    @pytest.mark.parametrize(
        ("line", "host", "expected"),
        [
            (b"GET / HTTP/1.1", b"A.example:8080", ("a.example", 8080)),
            (b"GET / HTTP/1.1", b"[::1]:81", ("::1", 81)),
            (b"GET / HTTP/1.1", b"[::1]", ("::1", 80)),
            (b"GET / HTTP/1.1", b"", ("192.0.2.7", 9999)),
            (b"GET / HTTP/1.1", b"a:b:c", ("192.0.2.7", 9999)),
            (b"GET http://B.example/x HTTP/1.1", b"a", ("b.example", 80)),
            (b"GET http://u:p@b.example:99?x HTTP/1.1", b"a", ("b.example", 99)),
            (b"CONNECT c.example:443 HTTP/1.1", b"a", ("c.example", 443)),
            (b"OPTIONS * HTTP/1.1", b"a", ("a", 80)),
        ],
    )
    def test_host_and_port(self, line: bytes, host: bytes, expected: tuple[str, int]) -> None:
        play = playbook(port=9999)
        play.client(line + b"\r\nHost: " + host + b"\r\n\r\n")
        request = play.began[0].request  # type: ignore[union-attr]
        assert (request.host, request.port) == expected

    def test_tls_means_https(self) -> None:
        play = playbook(tls=True)
        play.client(GET)
        assert play.began[0].request.url == "https://example.com/a?b=1"  # type: ignore[union-attr]

    def test_each_request_has_its_own(self) -> None:
        play = playbook()
        for host in (b"a", b"b:1", b"a"):
            play.client(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert [(f.host, f.port) for f in play.began] == [("a", 80), ("b", 1), ("a", 80)]


class TestSwitching:
    UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"
    SWITCH = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"

    def test_after_101_bytes_are_relayed(self) -> None:
        play = playbook()
        play.client(self.UPGRADE + b"early").expect_server(self.UPGRADE)
        play.server(self.SWITCH + b"frame").expect_client(self.SWITCH + b"frame").expect_server(
            b"early"
        )
        assert play.raw_reason == "upgrade other"
        assert (play.flow.response.status, play.flow.error) == (101, None)
        play.client(b"\x81\x00").expect_server(b"\x81\x00").server(b"\x82").expect_client(b"\x82")

    def test_a_refused_upgrade_goes_on(self) -> None:
        play = playbook()
        play.client(self.UPGRADE + GET).expect_server(self.UPGRADE)
        play.server(OK).expect_server(GET).server(OK).expect_recorded(2)

    def test_connect_becomes_a_tunnel(self) -> None:
        sent = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"
        answer = b"HTTP/1.1 200 Connection established\r\n\r\n"
        play = playbook()
        play.client(sent).server(answer).expect_client(answer).client(b"\x16\x03")
        assert play.all_server == sent + b"\x16\x03"
        assert play.raw_reason == "tunnel"


class TestEnds:
    def test_the_server_stops_in_the_middle_of_a_body(self) -> None:
        play = playbook()
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"
        play.client(GET).server(answer).server_eof().expect_client(answer).expect(
            "connect", "close"
        )
        assert play.flow.error == FlowError(
            "eof", "the server closed before its answer was complete", len(answer)
        )
        assert play.flow.response.content == b"abc"

    def test_the_server_resets(self) -> None:
        play = playbook()
        play.client(GET + GET).server_reset().expect("connect", "reset").expect_recorded(2)
        assert (play.flow.error.kind, play.flow.response) == ("reset", None)

    def test_a_partial_head_reaches_the_client(self) -> None:
        play = playbook()
        play.client(GET).server(b"HTTP/1.").server_eof().expect_client(b"HTTP/1.")
        assert play.flow.error.kind == "eof"

    def test_an_idle_connection_closes_on_both_sides(self) -> None:
        play = playbook()
        play.client(GET).server(OK).server_eof().expect("connect", "close")

    def test_the_client_goes_while_it_waits(self) -> None:
        play = playbook()
        play.client(GET).client_reset().expect("connect", "close").expect_recorded(1)
        assert play.flow.error.kind == "reset"

    def test_a_half_closed_client_gets_its_answer(self) -> None:
        play = playbook()
        play.client(GET).client_eof().expect("connect", "eof_server")
        play.server(OK).expect_client(OK).expect("close").expect_recorded(1)

    def test_an_idle_client_closes(self) -> None:
        play = playbook()
        play.client(GET).server(OK).client_eof().expect("connect", "close")

    def test_a_client_that_stops_in_its_body(self) -> None:
        play = playbook()
        play.client(POST[:-2]).client_eof().expect_server(POST[:-2]).expect("connect", "eof_server")
        play.server_eof().expect("close").expect_recorded(1)
        assert play.flow.error.kind == "eof"
        assert play.flow.request.content == b"bo"

    def test_a_client_that_stops_in_its_head(self) -> None:
        play = playbook()
        play.client(GET[:10]).client_eof()
        assert play.all_server == GET[:10]
        assert play.names[-1] == "eof_server"

    def test_the_upstream_cannot_be_reached(self) -> None:
        play = playbook()
        play.client(GET)
        play.layer.server_failed(FlowError("refused"))
        play.expect("connect", "reset").expect_recorded(1)
        assert play.flow.error.kind == "refused"


class TestMalformed:
    def test_a_response_that_is_none_is_relayed(self) -> None:
        play = playbook()
        play.client(GET).server(b"ICY 200 OK\r\n\r\nmusic").expect_client(
            b"ICY 200 OK\r\n\r\nmusic"
        )
        assert play.recorded[0].error.kind == "malformed"  # type: ignore[union-attr]
        assert isinstance(play.began[-1], TcpFlow)

    def test_a_request_that_is_none_is_relayed(self) -> None:
        play = playbook()
        play.client(b"GET /\r\n\r\nrest").expect_server(b"GET /\r\n\r\nrest")
        assert play.raw_reason.startswith("malformed request")

    def test_answers_due_come_before_a_malformed_request_is_relayed(self) -> None:
        play = playbook()
        play.client(GET + b"nonsense\r\n\r\n").expect_server(GET)
        play.server(OK).expect_client(OK).expect_server(b"nonsense\r\n\r\n").expect_recorded(1)
        assert play.flow.error is None

    def test_so_is_its_end(self) -> None:
        play = playbook()
        play.client(GET + b"nonsense\r\n\r\n").client_eof().expect("connect")
        play.server(OK).expect("become_raw", "eof_server").expect_server(GET + b"nonsense\r\n\r\n")

    def test_a_broken_chunk_is_relayed(self) -> None:
        head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        play = playbook()
        play.client(head + b"2\r\nab\r\nzz\r\n").expect_server(head + b"2\r\nab\r\nzz\r\n")
        assert play.recorded[0].error.kind == "malformed"  # type: ignore[union-attr]

    def test_a_held_request_that_breaks_is_relayed_whole(self) -> None:
        head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        play = playbook(late=True)
        play.client(head + b"2\r\nab\r\n").client(b"zz\r\n").expect_server(
            head + b"2\r\nab\r\nzz\r\n"
        )

    def test_a_server_that_speaks_unasked_is_relayed(self) -> None:
        play = playbook()
        play.client(GET).server(OK).server(b"HTTP/1.1 408 x\r\n\r\n")
        assert play.all_client == OK + b"HTTP/1.1 408 x\r\n\r\n"

    @pytest.mark.parametrize(
        "fields",
        [
            b"Content-Length: 5\r\nContent-Length: 6\r\n",
            b"Content-Length: -1\r\n",
            b"Content-Length: 1_0\r\n",
            b"Content-Length : 5\r\n",
            b"no colon\r\n",
            b"X: a\0b\r\n",
            b"X: a\rb\r\n",
            b" leading: fold\r\n",
            b": empty\r\n",
            b"Transfer-Encoding: gzip\r\n",
        ],
    )
    def test_ambiguous_requests_are_relayed(self, fields: bytes) -> None:
        sent = b"POST / HTTP/1.1\r\n" + fields + b"\r\nhello"
        play = playbook()
        play.client(sent).expect_server(sent)
        assert play.raw_reason.startswith("malformed request") or b"fold" in fields


class TestLate:
    def test_the_decision_waits_for_the_body(self) -> None:
        seen: list[bytes] = []

        def decide(flow: Any) -> Forward:
            seen.append(flow.request.content)
            return Forward()

        play = playbook(late=True, decide=decide)
        play.client(POST[:-1]).expect_server(b"").expect()
        play.client(POST[-1:]).expect_server(POST).expect("connect")
        assert seen == [b"body"]
        play.server(OK).expect_recorded(1)

    def test_our_continue_replaces_the_servers(self) -> None:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 4\r\n\r\n"
        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        play = playbook(late=True)
        play.client(head).expect_client(interim).expect_server(b"")
        play.client(b"body").expect_server(head + b"body")
        play.server(interim + OK).expect_client(OK)
        assert [status for status, _ in play.flow.response.interim] == [100]

    def test_our_continue_waits_for_its_turn(self) -> None:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        play = playbook(late=True)
        play.client(GET + head).server(OK[:5]).expect_client(b"")
        play.server(OK[5:]).expect_client(OK + interim)

    def test_large_bodies_are_held_on_disk(self, tmp_path: Any) -> None:
        body = bytes(range(256)) * 64
        framed = b"".join(
            b"1000\r\n" + body[i : i + 4096] + b"\r\n" for i in range(0, len(body), 4096)
        )
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        play = playbook(late=True, spool=tmp_path, window=1000)
        play.client(head + framed).client(b"0\r\n\r\n" + GET)
        play.expect_server(head + framed + b"0\r\n\r\n" + GET)
        play.server(OK)
        assert play.flow.request.content == body
        assert len(list(tmp_path.iterdir())) == 1, "what held the raw request is gone"

    def test_nothing_is_left_of_a_held_request_that_is_played(self, tmp_path: Any) -> None:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        descriptors = os.listdir("/proc/self/fd")
        play = played(response(), spool=tmp_path, window=10)
        play.client(head + b"14\r\n" + b"x" * 20 + b"\r\n0\r\n\r\n").expect_client(OK)
        assert len(list(tmp_path.iterdir())) == 1, "the recorded body only"
        play.client(head + b"14\r\n" + b"x" * 20).client_reset()
        assert len(list(tmp_path.iterdir())) == 2
        assert len(os.listdir("/proc/self/fd")) == len(descriptors)

    def test_an_idle_upstream_that_closes_meanwhile_is_replaced(self) -> None:
        play = playbook(late=True)
        play.client(POST[:-1]).server_eof().expect("drop_server")
        play.client(POST[-1:]).expect("connect").expect_server(POST).server(OK).expect_client(OK)

    def test_the_client_leaves_before_it_is_decided(self) -> None:
        play = playbook(late=True)
        play.client(POST[:-1]).client_eof().expect("close").expect_recorded(1)
        assert play.flow.error.kind == "eof"


class TestPlaying:
    def test_a_recorded_answer(self) -> None:
        play = played(response())
        play.client(GET).expect_client(OK).expect_recorded(1).expect_server(b"")
        assert play.flow.origin is Origin.PLAYED
        assert play.recorded_by == [(len(OK), 1)]
        play.client(GET + GET).expect_client(OK + OK).expect_recorded(3).expect()

    def test_answers_keep_their_order(self) -> None:
        def decide(flow: Any) -> Any:
            return Play(response()) if flow.request.method == "POST" else Forward()

        play = playbook(decide=decide, late=True)
        play.client(GET + POST + POST + GET).expect_server(GET).expect_client(b"")
        first = OK.replace(b"hi", b"yo")
        play.server(first).expect_client(first + OK + OK).expect_server(GET)
        play.server(first).expect_client(first).expect_recorded(4)

    def test_chunks_are_framed_as_they_were(self) -> None:
        body = Body(size=8, data=b"helloabc", chunks=[5, 3])
        recorded = response(
            headers=[("Transfer-Encoding", "chunked")], body=body, trailers=Headers([("X", "y")])
        )
        play = played(recorded)
        play.client(GET).expect_client(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"
        )

    def test_chunks_are_unframed_for_an_old_client(self) -> None:
        recorded = response(b"abc", headers=[("Transfer-Encoding", "chunked"), ("A", "b")])
        play = played(recorded)
        play.client(b"GET / HTTP/1.0\r\n\r\n").expect_client(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nabc")
        play.expect("close")

    def test_content_coding_is_applied_again(self) -> None:
        recorded = response(
            headers=[("Content-Length", "1"), ("Content-Encoding", "gzip")],
            body=Body(size=5, data=b"hello", coding="gzip"),
        )
        play = played(recorded).client(GET)
        head, _, content = play.all_client.partition(b"\r\n\r\n")
        assert gzip.decompress(content) == b"hello"
        assert b"Content-Length: %d\r\n" % len(content) in head + b"\r\n"

    def test_interim_responses_come_first(self) -> None:
        recorded = response(interim=[(100, Headers()), (103, Headers([("Link", "x")]))])
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        play = played(recorded).client(GET)
        play.expect_client(b"HTTP/1.1 100 Continue\r\n\r\n" + hints + OK)
        head = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
        play.client(head).expect_client(b"HTTP/1.1 100 Continue\r\n\r\n")
        play.client(b"x").expect_client(hints + OK)

    def test_bodyless_answers_keep_their_fields(self) -> None:
        recorded = response(headers=[("Content-Length", "500")], body=Body())
        play = played(recorded).client(b"HEAD / HTTP/1.1\r\n\r\n")
        play.expect_client(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")

    @pytest.mark.parametrize(
        ("sent", "headers", "closes"),
        [
            (GET, [("Connection", "close"), ("Content-Length", "2")], True),
            (GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), [], True),
            (b"GET / HTTP/1.0\r\n\r\n", [], True),
            (
                b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
                [("Connection", "keep-alive"), ("Content-Length", "2")],
                False,
            ),
            (GET, [], False),
        ],
    )
    def test_the_connection_ends_where_it_did(
        self, sent: bytes, headers: Any, closes: bool
    ) -> None:
        play = played(response(headers=headers)).client(sent)
        assert play.names == (["close"] if closes else [])

    def test_a_body_ended_by_the_close(self) -> None:
        play = played(response(headers=[], closes=True)).client(GET)
        play.expect_client(b"HTTP/1.1 200 OK\r\n\r\nhi").expect("close")

    def test_an_http2_recording_gets_a_length(self) -> None:
        recorded = response(headers=[("server", "x")], http_version="2")
        recorded.reason = ""
        play = played(recorded).client(GET)
        play.expect_client(b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: 2\r\n\r\nhi")

    def test_large_bodies_are_streamed(self, tmp_path: Any) -> None:
        data = bytes(range(256)) * 4096
        (tmp_path / "body").write_bytes(data)
        recorded = response(
            headers=[("Content-Encoding", "gzip")],
            body=Body(size=len(data), path=str(tmp_path / "body"), coding="gzip"),
        )
        play = played(recorded).client(GET)
        head, _, content = play.all_client.partition(b"\r\n\r\n")
        assert gzip.decompress(content) == data
        assert f"content-length: {len(content)}".encode() in head.lower()

    @pytest.mark.parametrize(("kind", "effect"), [("reset", "reset"), ("eof", "close")])
    def test_failures_are_played(self, kind: str, effect: str) -> None:
        partial = response(b"abc", headers=[("Content-Length", "10")])
        play = played(partial, FlowError(kind, after=3)).client(GET)
        play.expect_client(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").expect(effect)
        assert play.flow.error.kind == kind
        play = played(None, FlowError(kind)).client(GET)
        play.expect_client(b"").expect(effect)

    def test_a_recorded_silence_stays_silent(self) -> None:
        play = played(None, FlowError("timeout")).client(GET).client(GET)
        play.expect_client(b"").expect().expect_recorded(1)
        play.client_eof().expect("close")

    def test_a_chunked_answer_that_broke_off_stays_unfinished(self) -> None:
        partial = response(b"abc", headers=[("Transfer-Encoding", "chunked")])
        play = played(partial, FlowError("eof")).client(GET)
        assert play.all_client.endswith(b"3\r\nabc\r\n")

    def test_an_early_decision_to_play_waits_for_the_body(self) -> None:
        play = playbook(decide=lambda _flow: Play(response()))
        play.client(POST[:-1]).expect_client(b"").client(POST[-1:]).expect_client(OK)
        play.client(POST).expect_client(OK).expect_recorded(2)

    def test_an_upstream_that_closes_while_we_play_is_dropped(self) -> None:
        play = played(response())
        play.client(GET).server_eof().expect("drop_server").client(GET)
        assert play.all_client == OK + OK

    def test_a_half_closed_client_is_closed_after_its_answer(self) -> None:
        play = played(response())
        play.client(GET[:-1])
        play.layer.client_data(GET[-1:])
        play.client_eof().expect_client(OK).expect("close")


class TestDenying:
    def test_a_denied_request_is_reset(self) -> None:
        play = playbook(decide=lambda _flow: Deny(Origin.UNMATCHED))
        play.client(GET + GET).expect("reset").expect_client(b"").expect_recorded(1)
        assert play.flow.origin is Origin.UNMATCHED

    def test_answers_due_come_first(self) -> None:
        def decide(flow: Any) -> Any:
            return Deny() if flow.request.method == "POST" else Forward()

        play = playbook(decide=decide)
        play.client(GET + POST).expect("connect").server(OK).expect_client(OK).expect("reset")
        assert [flow.origin for flow in play.recorded] == [Origin.LIVE, Origin.BLOCKED]
