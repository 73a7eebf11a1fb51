"""Cassettes of vcrpy's and cassetter's: every version is read, hostile ones are refused."""

from __future__ import annotations

import gzip

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.errors import CassetteError
from pytest_netcapture.flows import Body, Headers, HttpFlow, HttpRequest, HttpResponse, UdpFlow
from pytest_netcapture.interchange import vcr

ONE = b"""
interactions:
- request:
    body: a=1&b=2
    headers:
      Content-Type: [application/x-www-form-urlencoded]
      X-Two: [one, two]
    method: POST
    uri: https://api.example.com:8443/items?page=2
  response:
    body: {string: "caf\\xE9"}
    headers:
      Set-Cookie: [a=1, b=2]
    status: {code: 201, message: Created}
version: 1
"""
OLD_YAML = b"""
- request: !!python/object:vcr.request.Request
    body: null
    headers: !!python/object/apply:__builtin__.frozenset
    - - !!python/tuple [accept, '*/*']
      - !!python/tuple [user-agent, some client]
    host: old.example.com
    method: GET
    path: /ip
    port: 80
    protocol: http
  response:
    body: {string: !!python/unicode "old"}
    headers: [!!python/unicode "content-type: text/plain\\r\\n", "x-a: b: c\\r\\n"]
    status: {code: 200, message: OK}
"""
OLD_JSON = b"""[{"request": {"body": null, "protocol": "http", "method": "GET", "headers": {"accept": "*/*"},
 "host": "old.example.com", "path": "/ip", "port": 8080},
 "response": {"status": {"message": "OK", "code": 200}, "headers": ["content-type: text/plain\\r\\n"],
 "body": {"base64_string": "b2xk"}}}]"""
HTTPX = b"""{"version": 1, "interactions": [{"request": {"method": "GET", "uri": "http://h.example.com/",
 "body": "", "headers": {}}, "response": {"status_code": 200, "http_version": "HTTP/1.1",
 "headers": {"content-type": "text/plain"}, "content": "new"}}]}"""
CASSETTER = b"""
version: 1
interactions:
- request:
    method: PUT
    uri: https://api.example.com/blob
    headers: {accept: [a, b]}
    body: {type: binary, content: deadbeef00ff}
  response:
    status: 200
    headers: {content-type: [application/json]}
    body: {type: json, content: {score: 9.5, name: "\\xE9", none: null}}
  recorded_at: '2026-01-03T00:00:00Z'
ws_interactions:
- uri: wss://ws.example.com/stream
  headers: {origin: [https://example.com]}
  frames:
  - {direction: send, frame_type: text, body: {type: text, content: hello}, offset_ms: 0}
  - {direction: recv, frame_type: binary, body: {type: binary, content: '0001'}, offset_ms: 250}
"""


def read(text):
    return list(vcr.read(text, "some.yaml"))


def test_a_cassette_of_today():
    (flow,) = read(ONE)
    assert flow.url == "https://api.example.com:8443/items?page=2"
    assert flow.request.form == [("a", "1"), ("b", "2")]
    assert flow.request.headers.get_all("x-two") == ["one", "two"]
    assert flow.request.headers["host"] == "api.example.com:8443"
    assert (flow.response.status, flow.response.reason) == (201, "Created")
    assert flow.response.content == "café".encode()
    assert flow.response.headers.get_all("set-cookie") == ["a=1", "b=2"]


@pytest.mark.parametrize(
    ("text", "url", "content"),
    [
        (OLD_YAML, "http://old.example.com/ip", b"old"),
        (OLD_JSON, "http://old.example.com:8080/ip", b"old"),
        (HTTPX, "http://h.example.com/", b"new"),
    ],
    ids=["yaml before version 1", "json before version 1", "httpx of earlier years"],
)
def test_cassettes_of_other_versions(text, url, content):
    (flow,) = read(text)
    assert flow.url == url
    assert flow.response.content == content
    assert flow.response.status == 200
    assert flow.response.headers["content-type"] == "text/plain"


def test_bodies_of_file_objects_and_iterators():
    text = ONE.replace(
        b"body: a=1&b=2",
        b"body: !!python/object/new:_io.BytesIO\n      state: !!python/tuple [!!binary YWI=, 2, null]",
    )
    assert read(text)[0].request.content == b"ab"


def test_coded_bodies_are_decoded_and_coded_again_on_replay():
    packed = yaml.safe_load(ONE)
    response = packed["interactions"][0]["response"]
    response["headers"]["Content-Encoding"] = ["gzip"]
    response["body"]["string"] = gzip.compress(b"plain text")
    (flow,) = read(yaml.safe_dump(packed).encode())
    assert flow.response.content == b"plain text"
    assert flow.response.body.coding == "gzip"
    response["body"]["string"] = "decoded already"
    (flow,) = read(yaml.safe_dump(packed).encode())
    assert flow.response.content == b"decoded already"
    assert flow.response.body.coding == "gzip", "a client will decode it"


def test_cassetters_cassettes():
    exchange, socket = read(CASSETTER)
    assert exchange.request.content == b"\xde\xad\xbe\xef\x00\xff"
    assert exchange.response.json() == {"score": 9.5, "name": "é", "none": None}
    assert socket.url == "https://ws.example.com/stream"
    assert socket.opened
    assert [(m.sent, m.kind, m.data) for m in socket.messages] == [
        (True, "text", b"hello"),
        (False, "binary", b"\x00\x01"),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ONE.replace(b"a=1&b=2", b"!!python/object/apply:os.system [echo]"), "os.system"),
        (ONE.replace(b"a=1&b=2", b"!!python/name:os.system"), "os.system"),
        (ONE.replace(b"code: 201", b"code: many"), "interaction 1: the status 'many' is none"),
        (ONE.replace(b"https:", b"gopher:"), "interaction 1: 'gopher:"),
        (ONE.replace(b"POST", b"[1]"), "interaction 1: the method [1] is none"),
        (ONE.replace(b"  response:", b"  other:"), "interaction 1: it has no response"),
        (ONE.replace(b"[one, two]", b"[[one]]"), "a list stands where text is due"),
        (b"just text", "it has no interactions"),
        (b"a: [", "not to be read as YAML"),
        (b"", "it has no interactions"),
        (b"\x00\xff", "not to be read as YAML"),
    ],
)
def test_what_cannot_be_read_is_named(text, problem):
    with pytest.raises(CassetteError) as caught:
        read(text)
    assert str(caught.value).startswith("some.yaml")
    assert problem in str(caught.value)


def test_aliases_that_stand_for_much_are_not_spelled_out():
    lines = [b'a0: &a0 ["x", "x"]']
    lines += [b"a%d: &a%d [*a%d, *a%d]" % (n, n, n - 1, n - 1) for n in range(1, 40)]
    text = b"\n".join(lines) + ONE.replace(b"[one, two]", b"*a39")
    with pytest.raises(CassetteError, match="a list stands where text is due"):
        read(text)


@given(st.binary(max_size=200), st.integers(0, len(ONE)), st.integers(0, 40))
def test_any_damage_is_an_error_or_exchanges(noise, at, gone):
    try:
        flows = read(ONE[:at] + noise + ONE[at + gone :])
    except CassetteError:
        return
    assert all(isinstance(flow, HttpFlow) for flow in flows)


def test_vcrpy_reads_what_is_exported(tmp_path):
    """With vcrpy itself, as with any cassette of its own."""
    from vcr.cassette import Cassette
    from vcr.request import Request

    request = HttpRequest(
        method="POST",
        scheme="https",
        host="api.example.com",
        port=443,
        target="/items?page=2",
        headers=Headers([("Host", "api.example.com"), ("Content-Type", "text/plain")]),
        body=Body(5, b"hello"),
    )
    response = HttpResponse(
        status=200,
        reason="OK",
        headers=Headers(
            [
                ("Content-Encoding", "gzip"),
                ("Content-Length", "999"),
                ("Transfer-Encoding", "chunked"),
                ("Set-Cookie", "a=1"),
                ("Set-Cookie", "b=2"),
            ]
        ),
        body=Body(4, b"\xff\xfe\x00a", coding="gzip"),
    )
    flow = HttpFlow(host=request.host, port=443, request=request, response=response)
    text, left = vcr.write([flow, UdpFlow(host="h", port=1)])
    assert left == 1
    path = tmp_path / "out.yaml"
    path.write_text(text)
    loaded = Cassette.load(path=str(path))
    asked = Request("POST", "https://api.example.com/items?page=2", "hello", {})
    assert loaded.can_play_response_for(asked)
    told = loaded.play_response(asked)
    assert told["body"]["string"] == b"\xff\xfe\x00a"
    assert told["status"] == {"code": 200, "message": "OK"}
    assert told["headers"] == {"Content-Length": ["4"], "Set-Cookie": ["a=1", "b=2"]}
    (again,) = read(text.encode())
    assert again.request.headers == request.headers
    assert again.response.content == response.content
