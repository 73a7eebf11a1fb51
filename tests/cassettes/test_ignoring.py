"""What is not compared, and what is taken out of requests."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.cassettes.editing import Edited
from pytest_netcapture.cassettes.ignoring import Ignored, parse
from pytest_netcapture.cassettes.keys import Matcher
from pytest_netcapture.flows import Body, Headers, HttpRequest
from pytest_netcapture.settings import CassetteUse, Edit

DEFAULT = CassetteUse("x").match_on
LINE = ("GET", "https", "api.example.com", 443)


def request(target="/x", headers=(), body=b"", method="POST"):
    return HttpRequest(
        method=method,
        scheme="https",
        host="api.example.com",
        port=443,
        target=target,
        headers=Headers(list(headers)),
        body=Body(len(body), body),
    )


def rest(ignore, body, match_on=DEFAULT, headers=()):
    kind = ("content-type", "application/json")
    return Matcher(match_on, ignore=ignore).rest(Headers([kind, *headers]), body)


@pytest.mark.parametrize(
    ("ignore", "one", "other", "same"),
    [
        ("body.ts", {"a": 1, "ts": 1}, {"ts": 2, "a": 1}, True),
        ("body.ts", {"a": 1, "ts": 1}, {"a": 1}, True),
        ("body.ts", {"a": {"ts": 1}}, {"a": {"ts": 2}}, False),
        ("body.*.ts", {"a": {"ts": 1}}, {"a": {"ts": 2}}, True),
        ("body.items[*].id", {"items": [{"id": 1}, {"id": 2}]}, {"items": [{"id": 3}, {}]}, True),
        ("body.items[1].id", {"items": [{"id": 1}]}, {"items": [{"id": 3}]}, False),
        ("body[*].id", [{"id": 1, "n": 1}], [{"id": 2, "n": 1}], True),
        ("body[0]", [1, 2], [3, 2], True),
        ("body.x_*", {"x_a": 1, "y": 1}, {"x_b": 2, "y": 1}, True),
    ],
)
def test_paths_of_json(ignore, one, other, same):
    for match_on in (DEFAULT, ("method", "json")):
        left, right = (
            rest([ignore], json.dumps(value).encode(), match_on) for value in (one, other)
        )
        assert (left == right) is same
    assert rest([], json.dumps(one).encode()) != rest([], json.dumps(other).encode())


def test_query_headers_and_forms():
    matcher = Matcher((*DEFAULT, "headers"), ignore=["query.n*", "headers.X-Date", "body.nonce"])
    assert matcher.line(*LINE, "/x?a=1&nonce=2") == matcher.line(*LINE, "/x?a=1")
    assert matcher.line(*LINE, "/x?a=1") != matcher.line(*LINE, "/x?a=2")
    form = ("content-type", "application/x-www-form-urlencoded")
    left = matcher.rest(Headers([form, ("x-date", "1")]), b"nonce=1&b=2")
    assert left == matcher.rest(Headers([form, ("X-Date", "2")]), b"b=2&nonce=9")
    assert left != matcher.rest(Headers([form, ("X-Date", "2")]), b"b=3&nonce=9")


def test_what_is_covered_is_no_difference():
    ignored = Ignored(["query.n*", "headers.x-date", "body.items[*].id"])
    covered = ["query.nonce", "headers.X-Date", "body.items[3].id", "body.items[0].id.part"]
    assert all(map(ignored.covers, covered))
    assert not any(map(ignored.covers, ["path", "query.a", "body.items[3].name", "body"]))


@pytest.mark.parametrize(
    "name", ["", "path", "body", "query", "query.", "body.", "body[x]", "bodyx.a"]
)
def test_what_is_no_name(name):
    with pytest.raises(ValueError, match=r"it (begins|names|is)"):
        parse(name)


@given(st.text("abc.[]*0", max_size=12))
def test_any_text_is_a_name_or_refused(text):
    with contextlib.suppress(ValueError):
        Ignored([text]).covers(text)


def test_vcrpys_own_matchers():
    raw = Matcher(("method", "raw_body"))
    assert raw.rest(Headers([]), b'{"a":1, "b":2}') != raw.rest(Headers([]), b'{"b":2, "a":1}')
    uri = Matcher(("method", "uri"))
    assert uri.line(*LINE, "/x?a=1&b=2") != uri.line(*LINE, "/x?b=2&a=1")
    assert uri.line(*LINE, "/x?a=1&b=2") == uri.line(*LINE, "/x?a=1&b=2")
    url = Matcher(("method", "url"))
    assert url.line(*LINE, "/x?a=1&b=2") == url.line(*LINE, "/x?b=2&a=1")


@pytest.mark.parametrize(
    ("edits", "before", "after"),
    [
        (
            [Edit("header", "X-Key")],
            {"headers": [("x-key", "1"), ("a", "b")]},
            {"headers": [("a", "b")]},
        ),
        (
            [Edit("header", "x-key", "k")],
            {"headers": [("X-Key", "1")]},
            {"headers": [("X-Key", "k")]},
        ),
        ([Edit("query", "key")], {"target": "/x?a=1&key=2&key=3"}, {"target": "/x?a=1"}),
        ([Edit("query", "key")], {"target": "/x?key=2"}, {"target": "/x"}),
        ([Edit("query", "a b", "c d")], {"target": "/x?a+b=1"}, {"target": "/x?a+b=c+d"}),
        ([Edit("post", "pin")], {"body": b"pin=1&n=%20"}, {"body": b"n=%20"}),
        ([Edit("post", "pin", "0")], {"body": b"pin=1"}, {"body": b"pin=0"}),
    ],
)
def test_edits(edits, before, after):
    assert Edited(edits).request(request(**before)) == request(**after)


def test_edits_of_json_and_its_length():
    kind = ("content-type", "application/json; charset=utf-8")
    given = request(headers=[kind, ("content-length", "25")], body=b'{"pin": 1234, "n": [1.0]}')
    edited = Edited([Edit("post", "pin")]).request(given)
    assert edited.body.content == b'{"n":[1.0]}'
    assert edited.headers.get("content-length") == "11"
    same = request(headers=[kind], body=b'{"n": 1}')
    assert Edited([Edit("post", "pin")]).request(same) is same


@given(st.binary(max_size=60), st.text("a=&?%+", max_size=12))
def test_any_request_can_be_edited(body, query):
    edits = [
        Edit(place, "a", value) for place in ("header", "query", "post") for value in (None, "b")
    ]
    Edited(edits).request(request(f"/x?{query}", body=body))
