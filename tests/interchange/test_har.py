"""HAR: what is written is of the format, what browsers write is read."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.errors import CassetteError
from pytest_netcapture.flows import (
    Body,
    DnsFlow,
    FlowError,
    Headers,
    HttpFlow,
    HttpRequest,
    HttpResponse,
    Process,
    WebSocketFlow,
    WebSocketMessage,
)
from pytest_netcapture.interchange import har

DAY = dt.datetime(2026, 11, 30, tzinfo=dt.timezone.utc)


def exchange(kind=HttpFlow, **more):
    request = HttpRequest(
        method="POST",
        scheme="https",
        host="api.example.com",
        port=443,
        target="/items?page=2&q=a+b",
        headers=Headers(
            [
                ("Host", "api.example.com"),
                ("Cookie", "sid=1; theme=dark"),
                ("Content-Type", "application/x-www-form-urlencoded"),
            ]
        ),
        body=Body(3, b"a=1"),
        http_version="2",
    )
    response = HttpResponse(
        status=302,
        reason="Found",
        headers=Headers(
            [
                ("Location", "/next"),
                ("Set-Cookie", "a=1; Path=/"),
                ("Set-Cookie", "b=2"),
                ("Content-Encoding", "gzip"),
                ("Content-Type", "image/png"),
            ]
        ),
        body=Body(4, b"\x89PNG", coding="gzip"),
        http_version="2",
    )
    named = {"host": request.host, "port": 443, "request": request, "response": response}
    return kind(**(named | more))


def written(*flows, **more):
    text, left = har.write(flows, DAY, **more)
    return json.loads(text)["log"], left


def test_an_exchange_as_an_entry():
    flow = exchange(started=5_000_000_000, ended=5_250_000_000, process=Process(1, "curl"))
    log, left = written(flow, DnsFlow(name="x", type="A"), clock=4_000_000_000)
    assert left == 1
    assert log["version"] == "1.2"
    assert log["creator"]["name"] == "pytest-netcapture"
    (entry,) = log["entries"]
    assert entry["startedDateTime"] == "2026-11-30T00:00:01.000+00:00"
    assert entry["time"] == 250
    assert entry["comment"] == "by curl"
    request, response = entry["request"], entry["response"]
    assert request["url"] == "https://api.example.com/items?page=2&q=a+b"
    assert request["queryString"] == [
        {"name": "page", "value": "2"},
        {"name": "q", "value": "a b"},
    ]
    assert request["cookies"] == [{"name": "sid", "value": "1"}, {"name": "theme", "value": "dark"}]
    assert request["postData"] == {
        "mimeType": "application/x-www-form-urlencoded",
        "text": "a=1",
        "params": [{"name": "a", "value": "1"}],
    }
    assert response["httpVersion"] == "HTTP/2.0"
    assert response["redirectURL"] == "/next"
    assert [cookie["name"] for cookie in response["cookies"]] == ["a", "b"]
    assert response["content"] == {
        "size": 4,
        "mimeType": "image/png",
        "text": "iVBORw==",
        "encoding": "base64",
    }


REQUIRED = {
    "entry": {"startedDateTime", "time", "request", "response", "cache", "timings"},
    "request": {
        "method",
        "url",
        "httpVersion",
        "cookies",
        "headers",
        "queryString",
        "headersSize",
        "bodySize",
    },
    "response": {
        "status",
        "statusText",
        "httpVersion",
        "cookies",
        "headers",
        "content",
        "redirectURL",
        "headersSize",
        "bodySize",
    },
}


def test_every_field_that_the_format_requires_is_there():
    failed = exchange(response=None, error=FlowError("reset"))
    log, _ = written(exchange(), failed)
    assert {"version", "creator", "entries"} <= set(log)
    for entry in log["entries"]:
        assert set(entry) >= REQUIRED["entry"]
        assert set(entry["request"]) >= REQUIRED["request"]
        assert set(entry["response"]) >= REQUIRED["response"]
        assert {"size", "mimeType"} <= set(entry["response"]["content"])
        assert {"send", "wait", "receive"} <= set(entry["timings"])
    assert log["entries"][1]["response"]["status"] == 0
    assert log["entries"][1]["response"]["_error"] == "reset"


def test_what_is_written_is_read_again():
    messages = [
        WebSocketMessage(sent=True, kind="text", data=b"hi", time=0),
        WebSocketMessage(sent=False, kind="binary", data=b"\xff", time=2_000_000_000),
    ]
    socket = exchange(WebSocketFlow, messages=messages)
    text, _ = har.write([exchange(), socket, exchange(response=None)], DAY)
    one, two, three = har.read(text, "a.har")
    for again in (one, two, three):
        assert again.request == exchange().request
    assert one.response == exchange().response
    assert two.messages == messages
    assert three.response is None


def test_a_browsers_entry():
    """Chrome keeps pseudo header fields, joins fields of one name by a line end, decodes content."""
    entry = {
        "request": {
            "method": "GET",
            "url": "https://www.example.com/",
            "httpVersion": "http/2.0",
            "headers": [{"name": ":method", "value": "GET"}, {"name": "Accept", "value": "*/*"}],
        },
        "response": {
            "status": 200,
            "statusText": "",
            "httpVersion": "h2",
            "headers": [
                {"name": "content-encoding", "value": "br"},
                {"name": "set-cookie", "value": "a=1\nb=2"},
            ],
            "content": {"size": 5, "mimeType": "text/html", "text": "<html"},
        },
    }
    (flow,) = har.read(json.dumps({"log": {"entries": [entry]}}).encode(), "chrome.har")
    assert flow.request.http_version == "2"
    assert flow.request.headers.fields == [("Host", "www.example.com"), ("Accept", "*/*")]
    assert flow.response.headers.get_all("set-cookie") == ["a=1", "b=2"]
    assert flow.response.content == b"<html"
    assert flow.response.body.coding == "br"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"{", "not to be read as JSON"),
        (b"[]", "it has no 'log'"),
        (b'{"log": {}}', "it has no 'entries'"),
        (b'{"log": {"entries": [1]}}', "entry 1: it has no 'request'"),
        (
            b'{"log": {"entries": [{"request": {"headers": []}, "response": {}}]}}',
            "entry 1: the method None is none",
        ),
    ],
)
def test_what_cannot_be_read_is_named(text, problem):
    with pytest.raises(CassetteError) as caught:
        list(har.read(text, "some.har"))
    assert str(caught.value).startswith("some.har")
    assert problem in str(caught.value)


VALID, _ = har.write([exchange()], DAY)


@given(st.binary(max_size=60), st.integers(0, len(VALID)), st.integers(0, 40))
def test_any_damage_is_an_error_or_exchanges(noise, at, gone):
    try:
        flows = list(har.read(VALID[:at] + noise + VALID[at + gone :], "a.har"))
    except CassetteError:
        return
    assert all(isinstance(flow, HttpFlow) for flow in flows)
