"""Reading gRPC bodies without their schema."""

from __future__ import annotations

import contextlib
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.flows import Body, GrpcFlow, Headers, HttpRequest, HttpResponse
from pytest_netcapture.grpc_messages import Splitter, fields_of, split


def framed(data: bytes, flag: int = 0) -> bytes:
    return bytes((flag,)) + len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"", {}),
        (b"\x08\x96\x01", {1: 150}),
        (b"\x12\x07testing", {2: "testing"}),
        (b"\x1a\x03\x08\x96\x01", {3: {1: 150}}),
        (b"\x08\x01\x08\x02", {1: [1, 2]}),
        (b"\x0d\0\0\x80\x3f\x11\0\0\0\0\0\0\xf0\x3f", {1: 1.0, 2: 1.0}),
        (b"\x12\x02\xff\xff", {2: b"\xff\xff"}),
    ],
)
def test_fields_by_number(data: bytes, fields: dict[int, object]) -> None:
    assert fields_of(data) == fields


@pytest.mark.parametrize("data", [b"\x08", b"\x12\x05abc", b"\x0b", b"\x00\x01", b"\xff" * 11])
def test_what_is_not_protobuf_is_said_to_be(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        fields_of(data)


@given(st.binary(max_size=200))
def test_only_value_errors(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        fields_of(data)
    split(data, "gzip")


@given(st.lists(st.binary(max_size=20), max_size=5), st.integers(1, 9))
def test_messages_however_they_are_cut(messages: list[bytes], cut: int) -> None:
    body = b"".join(map(framed, messages))
    splitter = Splitter()
    pieces = [body[i : i + cut] for i in range(0, len(body), cut)]
    assert [m for piece in pieces for m in splitter.feed(piece)] == messages


def test_compressed_messages_and_a_bomb() -> None:
    assert split(framed(gzip.compress(b"x"), 1), "gzip") == [b"x"]
    assert split(framed(zlib.compress(b"x"), 1), "deflate") == [b"x"]
    assert split(framed(b"not gzip", 1), "gzip") == [b"not gzip"]
    bomb = gzip.compress(bytes(1 << 27))
    assert len(split(framed(bomb, 1), "gzip")[0]) == 1 << 26


def call(**headers: str) -> GrpcFlow:
    request = HttpRequest(
        method="POST",
        scheme="https",
        host="a",
        port=443,
        target="/pkg.Service/Do",
        headers=Headers(list(headers.items())),
        body=Body(7, framed(b"\x08\x01")),
    )
    return GrpcFlow(request=request)


def test_a_call_before_and_after_its_answer() -> None:
    flow = call(**{"grpc-timeout": "100m"})
    assert (flow.service, flow.method, flow.status, flow.timeout) == (
        "pkg.Service",
        "Do",
        None,
        0.1,
    )
    assert [m.fields for m in flow.messages] == [{1: 1}]
    assert str(flow) == "gRPC pkg.Service/Do → …"
    trailers = Headers([("grpc-status", "5"), ("grpc-message", "a%20b")])
    flow.response = HttpResponse(status=200, trailers=trailers)
    assert (flow.status, flow.status_message) == (5, "a b")
    assert str(flow) == "gRPC pkg.Service/Do → NOT_FOUND"
    flow.response = HttpResponse(status=200, headers=trailers)
    assert flow.status == 5, "an answer of trailers only"


@pytest.mark.parametrize("text", ["", "x", "10", "m", "1x"])
def test_a_bad_timeout_is_none(text: str) -> None:
    assert call(**{"grpc-timeout": text}).timeout is None
