"""Damage to a stream is the same however the stream is cut into pieces."""

from __future__ import annotations

import pytest

from pytest_netcapture.engine.damage import Damage, Http1Body, Http2Data, everything

HEADS = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
)
BODY = b"0123456789"


def through(damage: Damage, data: bytes, size: int) -> bytes:
    out = b""
    for start in range(0, len(data), size):
        out += damage.pass_on(data[start : start + size])
        if damage.done:
            break
    return out


@pytest.mark.parametrize("size", range(1, len(HEADS + BODY) + 1))
@pytest.mark.parametrize("end", [0, 1, 9, 10])
def test_an_http1_body_is_cut_anywhere(size, end):
    damage = Damage(Http1Body(), end=end)
    assert through(damage, HEADS + BODY, size) == HEADS + BODY[:end]
    assert damage.done


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_shorter_body_is_whole(size):
    damage = Damage(Http1Body(), end=11)
    assert through(damage, HEADS + BODY, size) == HEADS + BODY
    assert not damage.done


@pytest.mark.parametrize("size", [1, 3, 100])
def test_one_byte_of_a_body_is_inverted(size):
    damaged = through(Damage(Http1Body(), flip=4), HEADS + BODY, size)
    assert damaged == HEADS + b"0123\xcb56789"


@pytest.mark.parametrize("size", [1, 3, 100])
def test_everything_counts_on_a_connection_that_is_not_decoded(size):
    assert through(Damage(everything, end=4), BODY, size) == b"0123"


def frame(kind: int, stream: int, data: bytes) -> bytes:
    return len(data).to_bytes(3, "big") + bytes((kind, 0)) + stream.to_bytes(4, "big") + data


def test_only_data_frames_of_the_stream_count():
    others = frame(1, 3, b"headers") + frame(0, 1, BODY) + frame(0, 3, b"01234")
    damage = Damage(Http2Data(3), end=7)
    assert damage.pass_on(others) == others
    last = frame(0, 3, b"56789") + frame(0, 1, BODY)
    assert damage.pass_on(last) == last[: 9 + 2]
    assert damage.done
