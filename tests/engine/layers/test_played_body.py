"""The pieces of a recorded body at its own pace; streams that are played so."""

import zlib

import pytest
from http2_lab import Conversation
from playbook import Playbook

from pytest_netcapture.engine.layers.http1 import Http1Layer
from pytest_netcapture.engine.layers.layer import Play
from pytest_netcapture.engine.layers.played_body import Pause, paced
from pytest_netcapture.flows import Body, Headers, HttpResponse


def body(**more):
    return Body(size=9, data=b"onetwosix", chunks=[3, 3, 3], gaps=[0, 4, 20], **more)


def shown(pieces):
    return [piece.seconds if isinstance(piece, Pause) else piece for piece in pieces]


def played(**more):
    headers = Headers(list(more.pop("headers", ())))
    response = HttpResponse(status=200, headers=headers, body=body())
    return lambda _: Play(response, **more)


def test_a_pause_before_what_had_to_be_waited_for():
    assert shown(paced(body())) == [b"one", pytest.approx(0.4), b"two", 2.0, b"six"]


def test_coded_pieces_keep_their_pauses():
    pieces = list(paced(body(coding="gzip")))
    waits = [piece.seconds for piece in pieces if isinstance(piece, Pause)]
    assert waits == [pytest.approx(0.4), 2.0]
    first = zlib.decompressobj(31)
    assert first.decompress(pieces[0]) == b"one"
    assert first.decompress(b"".join(pieces[1:])) == b"twosix"


def test_over_http1_pauses_are_the_way_outs_business():
    chunked = [("Transfer-Encoding", "chunked")]
    play = Playbook(Http1Layer, late=True, decide=played(paced=True, headers=chunked))
    streamed = []
    play.to_client_stream = streamed.extend
    play.client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    waits = [piece.seconds for piece in streamed if isinstance(piece, Pause)]
    assert waits == [pytest.approx(0.4), 2.0]
    assert b"".join(streamed) == b"3\r\none\r\n3\r\ntwo\r\n3\r\nsix\r\n0\r\n\r\n"


def test_over_http2_a_stream_rests_and_others_go_on():
    talk = Conversation(late=True, decide=played(paced=True))
    slow, other = talk.request(), talk.request()
    assert talk.client.body(slow) == talk.client.body(other) == b"one"
    assert [seconds for seconds, _ in talk.play.timers] == [pytest.approx(0.4)] * 2
    _, first_goes_on = talk.play.timers.pop(0)
    first_goes_on()
    talk.move()
    assert (talk.client.body(slow), talk.client.body(other)) == (b"onetwo", b"one")
    for _ in range(3):
        _, goes_on = talk.play.timers.pop(0)
        goes_on()
        talk.move()
    assert talk.play.timers == []
    assert talk.seen(slow) == talk.seen(other) == ("200", b"onetwosix", "ended")


def test_at_full_speed_nothing_rests():
    talk = Conversation(late=True, decide=played())
    stream = talk.request()
    assert talk.play.timers == []
    assert talk.seen(stream) == ("200", b"onetwosix", "ended")


def test_a_client_that_resets_a_stream_that_rests():
    talk = Conversation(late=True, decide=played(paced=True))
    stream = talk.request()
    talk.client.h2.reset_stream(stream, error_code=8)
    talk.move()
    for _, goes_on in talk.play.timers:
        goes_on()
    talk.move()
    assert talk.client.body(stream) == b"one"
