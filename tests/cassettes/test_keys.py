"""When two requests are the same."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netcapture.cassettes.keys import (
    Matcher,
    canonical_body,
    canonical_json,
    canonical_path,
    canonical_query,
)
from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import Headers
from pytest_netcapture.settings import MATCHERS, CassetteUse

DEFAULT = CassetteUse("x").match_on
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(value=st.dictionaries(st.text(max_size=5), JSON_VALUES), seed=st.integers(0, 99))
def test_json_spelling_means_nothing(value, seed):
    items = list(value.items())
    random.Random(seed).shuffle(items)
    one = json.dumps(value).encode()
    other = json.dumps(dict(items), indent=3, ensure_ascii=False).encode()
    assert canonical_body(one, "application/json") == canonical_body(other, "text/plain")
    assert canonical_json(canonical_json(one)) == canonical_json(one)


@given(
    pairs=st.lists(st.tuples(st.text("abc", min_size=1), st.text("xyz%&= é")), max_size=5),
    seed=st.integers(0, 99),
)
def test_order_of_parameters_means_nothing(pairs, seed):
    from urllib.parse import urlencode

    shuffled = list(pairs)
    random.Random(seed).shuffle(shuffled)
    assert canonical_query(urlencode(pairs)) == canonical_query(urlencode(shuffled))
    kind = "application/x-www-form-urlencoded; charset=utf-8"
    assert canonical_body(urlencode(pairs).encode(), kind) == canonical_body(
        urlencode(shuffled).encode(), kind
    )


@given(
    st.binary(max_size=80),
    st.sampled_from(
        ["", "application/json", "multipart/form-data", "application/x-www-form-urlencoded"]
    ),
)
def test_any_body_has_a_key(body, kind):
    assert isinstance(canonical_body(body, kind), bytes)


@given(st.binary(max_size=60))
def test_other_bytes_are_another_key(body):
    assert canonical_body(b"x" + body, "") != canonical_body(b"y" + body, "")


def test_deep_json_is_compared_as_bytes():
    deep = b"[" * 100_000
    assert canonical_body(deep, "application/json") == deep


def test_escapes_in_paths():
    assert canonical_path("/a%2fb%7Ec") == canonical_path("/a%2Fb~c") != canonical_path("/a/b~c")


def test_multipart_boundary_means_nothing():
    make = lambda b: (
        f"--{b}\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--{b}--\r\n".encode()
    )
    assert canonical_body(make("xx"), "multipart/form-data; boundary=xx") == canonical_body(
        make("yyy"), "multipart/form-data; boundary=yyy"
    )


def test_a_large_body_has_one_key_however_it_is_cut():
    data = b"abc scrubbed-0123456789 def" * 10
    keys = {
        Matcher(DEFAULT).rest(Headers([]), (data[i : i + n] for i in range(0, len(data), n)))
        for n in range(1, 40)
    }
    assert len(keys) == 1
    other = data.replace(b"0123456789", b"abcdefabcd")
    assert keys == {Matcher(DEFAULT).rest(Headers([]), iter([other]))}


def test_unknown_names_are_the_user_s_mistake():
    with pytest.raises(UsageError, match="did you mean 'body'"):
        Matcher(("method", "boddy"))


def test_url_is_its_parts():
    assert Matcher(("url",)).names == ("scheme", "host", "port", "path", "query")
    assert set(Matcher(MATCHERS).names) == set(MATCHERS) - {"url"}


def test_headers_without_hop_by_hop_ones(record, open_cassette, flow_of, request_of):
    record(flow_of(headers=[("Accept", "a/b"), ("Date", "1"), ("Connection", "close")]))
    cassette = open_cassette("none", match_on=("method", "headers"))
    assert (
        cassette.play_http(request_of(headers=[("Accept", "x/y")])).differences[0].field
        == "headers.accept"
    )
    assert cassette.play_http(
        request_of("GET", "/other", headers=[("accept", "a/b"), ("Date", "2")])
    ).response


def test_json_and_form_matchers(record, open_cassette, flow_of, request_of):
    record(flow_of("POST", "/", body=b'{"a": 1}'), flow_of("POST", "/", body=b"b=1&a=2"))
    cassette = open_cassette("none", match_on=("json",))
    assert (
        cassette.play_http(request_of("PUT", "/x", body=b'{ "a":1 }')).request.content
        == b'{"a": 1}'
    )
    cassette = open_cassette("none", match_on=("form",))
    assert (
        cassette.play_http(request_of("PUT", "/x", body=b"a=2&b=1")).request.content == b"b=1&a=2"
    )


def test_another_secret_and_a_returned_tag_match(record, open_cassette, flow_of, request_of):
    flow = flow_of(
        "POST",
        "/u/hunter2-a?token=t1",
        headers=[("X-Api-Key", "hunter2-a")],
        body=b'{"password": "p1", "n": 1}',
    )
    record(
        flow,
        flow_of("GET", "/login", answer=b'{"access_token": "tok-12345678"}'),
        flow_of("GET", "/me/tok-12345678"),
    )
    cassette = open_cassette("none")
    other = request_of(
        "POST",
        "/u/other-key?token=t2",
        headers=[("X-Api-Key", "other-key")],
        body=b'{"n": 1, "password": "p2"}',
    )
    assert cassette.play_http(other).response
    token = cassette.play_http(request_of("GET", "/login")).response.json()["access_token"]
    assert cassette.play_http(request_of("GET", f"/me/{token}")).response
