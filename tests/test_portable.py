"""Criteria survive the way to the engine: they match the same there."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netcapture import portable
from pytest_netcapture.flows import Body, Headers, HttpFlow, HttpRequest
from pytest_netcapture.matching import Criteria

FLOW = HttpFlow(
    request=HttpRequest(
        method="POST",
        scheme="https",
        host="a.example",
        port=443,
        target="/x?a=1&b=2",
        headers=Headers([("X-A", "b")]),
        body=Body(15, b'{"n":[1,"two"]}'),
    )
)


@pytest.mark.parametrize(
    ("criteria", "matches"),
    [
        ({"method": "POST", "url": "https://a.example/x"}, True),
        ({"host": re.compile("^A", re.IGNORECASE), "port": {443, 8443}}, True),
        ({"port": range(1, 443)}, False),
        ({"query": [("a", "1"), ("b", 2)], "exact": True}, True),
        ({"headers": {"x-a": ("b",)}}, True),
        ({"json": {"n": [int, str]}}, True),
        ({"json": {"n": [str, str]}}, False),
        ({"json": {"n": (1, re.compile("w"))}, "exact": True}, True),
        ({"body": bytearray(b'{"n":[1,"two"]}')}, True),
        ({"path__contains": "x"}, True),
    ],
)
def test_what_can_be_sent_is_whole_and_means_the_same(criteria, matches):
    data, whole = portable.pack(criteria)
    assert whole
    assert portable.unpack(data, HttpFlow).matches(FLOW) is matches
    assert Criteria.build(None, None, criteria, kind=HttpFlow).matches(FLOW) is matches


def test_what_cannot_is_left_out():
    data, whole = portable.pack(
        {"host": "a.example", "json": {"n": lambda n: False}, "exact": True, "port": 1 << 70}
    )
    assert not whole
    assert portable.unpack(data, HttpFlow).names() == {"host"}


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.text() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@settings(deadline=None)
@given(_values)
def test_any_json_criterion_matches_itself_as_before(value):
    data, whole = portable.pack({"json": value})
    assert whole
    (check,) = portable.unpack(data, HttpFlow).checks
    assert repr(check.matcher.wanted) == repr(value)
