"""However the bytes are cut, the same goes out and the same is recorded; nothing raises or is lost."""

from __future__ import annotations

import gzip
import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import Playbook

from pytest_netcapture.engine.layers.http1 import Http1Layer
from pytest_netcapture.engine.layers.layer import Forward, Play
from pytest_netcapture.flows import Body, Headers, HttpResponse

CODED = gzip.compress(b"hello " * 50, mtime=0)

EXCHANGES: list[tuple[bytes, bytes]] = [
    (
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ),
    (
        b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\n\n\r\n00\r\n\r\n",
    ),
    (
        b"PUT /3 HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n2\r\nxy\r\n0\r\nT: 1\r\n\r\n",
        b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    ),
    (
        b"HEAD /4 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
    ),
    (
        b"GET /5 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\nContent-Length: 7\n\n",
    ),
    (
        b"GET /6 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\nSum: 1\r\nB: 2\r\n\r\n"
        % (20, CODED[:20], len(CODED) - 20, CODED[20:]),
    ),
]


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    points = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(points) if a < b]


def essence(play: Playbook) -> list[bytes]:
    out = []
    for flow in play.recorded:
        flow.started = flow.ended = 0
        out.append(msgspec.json.encode(flow))
    return out


def run(requests: list[bytes], responses: list[bytes], *, late: bool = False) -> Playbook:
    play = Playbook(Http1Layer, late=late)
    for piece in requests:
        play.client(piece)
    for piece in responses:
        play.server(piece)
    return play.server_eof()


sequences = st.lists(st.sampled_from(EXCHANGES), min_size=1, max_size=5)
cuts = st.lists(st.integers(0, 5000), max_size=12)


@given(sequences, cuts, cuts, st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_fragmentation_is_the_same(
    exchanges: list[tuple[bytes, bytes]], cuts_in: list[int], cuts_out: list[int], late: bool
) -> None:
    requests = b"".join(request for request, _ in exchanges)
    responses = b"".join(response for _, response in exchanges)
    whole = run([requests], [responses], late=late)
    cut = run(pieces_of(requests, cuts_in), pieces_of(responses, cuts_out), late=late)
    assert whole.all_server == cut.all_server == requests
    assert whole.all_client == cut.all_client == responses
    assert len(cut.recorded) == len(exchanges)
    assert essence(whole) == essence(cut)
    assert all(flow.error is None for flow in cut.recorded)


@pytest.mark.parametrize("exchange", EXCHANGES, ids=range(len(EXCHANGES)))
def test_every_single_cut_records_before_the_last_byte(exchange: tuple[bytes, bytes]) -> None:
    request, response = exchange
    expected = essence(run([request], [response]))
    for cut in range(1, len(response)):
        play = Playbook(Http1Layer)
        middle = cut % len(request)
        play.client(request[:middle]).client(request[middle:])
        play.server(response[:cut]).server(response[cut:])
        assert play.all_client == response
        for sent, count in play.recorded_by:
            assert count == 1 or sent < len(response)
        assert essence(play) == expected


@given(sequences, cuts, st.integers(0, 63))
@settings(max_examples=100, deadline=None)
def test_played_and_forwarded_answers_keep_their_order(
    exchanges: list[tuple[bytes, bytes]], cuts_in: list[int], which: int
) -> None:
    """Bit i of `which`: exchange i is played."""
    answers = [b"%d" % index for index in range(len(exchanges))]
    seen: list[Any] = []

    def decide(flow: Any) -> Any:
        index = len(seen)
        seen.append(flow)
        if not which >> index & 1:
            return Forward()
        return Play(HttpResponse(status=200, headers=Headers([("N", str(index))]), body=Body()))

    play = Playbook(Http1Layer, late=True, decide=decide)
    requests = b"".join(request.replace(b"HEAD", b"GET") for request, _ in exchanges)
    for piece in pieces_of(requests, cuts_in):
        play.client(piece)
    for index in range(len(exchanges)):
        if not which >> index & 1:
            play.server(b"HTTP/1.1 200 OK\r\nN: %d\r\nContent-Length: 0\r\n\r\n" % index)
    got = [line[3:] for line in play.all_client.split(b"\r\n") if line.startswith(b"N: ")]
    assert got == answers
    assert len(play.recorded) == len(exchanges)


events = st.lists(
    st.one_of(
        st.tuples(st.just("client"), st.binary(max_size=60)),
        st.tuples(st.just("server"), st.binary(max_size=60)),
        st.tuples(
            st.just("client"),
            st.sampled_from(
                [request for request, _ in EXCHANGES] + [b"GET", b" /", b"\r\n", b"0\r\n\r\n"]
            ),
        ),
        st.tuples(
            st.just("server"), st.sampled_from([r for _, r in EXCHANGES] + [b"HTTP/1.1 ", b"\r\n"])
        ),
    ),
    max_size=12,
)
endings = st.sampled_from(["client_eof", "server_eof", "client_reset", "server_reset"])


@given(events, endings, endings)
@settings(max_examples=300, deadline=None)
def test_whatever_comes_goes_out_and_nothing_raises(
    script: list[tuple[str, bytes]], first: str, second: str
) -> None:
    play = Playbook(Http1Layer)
    sent = {"client": b"", "server": b""}
    for side, data in script:
        getattr(play, side)(data)
        sent[side] += data
    assert sent["client"].startswith(play.all_server)
    assert sent["server"].startswith(play.all_client)
    getattr(play, first)()
    if first == "client_eof" and not getattr(play.layer, "_broken", ""):
        assert not sent["client"].removeprefix(play.all_server).strip(b"\r\n"), "all goes out"
    if first == "server_eof":
        assert play.all_client == sent["server"]
    getattr(play, second)()
    play.server_reset()
    http = [flow for flow in play.began if flow.protocol == "http"]
    assert all(any(flow is each for each in play.recorded) for flow in http), (
        "each flow has its end"
    )


@given(events, endings)
@settings(max_examples=200, deadline=None)
def test_a_played_connection_never_raises(script: list[tuple[str, bytes]], ending: str) -> None:
    answer = HttpResponse(status=200, headers=Headers([("Content-Length", "0")]))
    play = Playbook(Http1Layer, late=True, decide=lambda _flow: Play(answer))
    for side, data in script:
        getattr(play, side)(data)
    getattr(play, ending)()
