"""`netcapture grep`: every part of a cassette is searched, whatever its size."""

from __future__ import annotations

import json

import pytest

from pytest_netcapture.cassettes.format import SEGMENT


@pytest.fixture
def path(cassette, exchange_of, lookup_of):
    return cassette(
        lookup_of(),
        exchange_of(
            "POST",
            "/v1/orders?day=monday",
            b'{"order": 17,\n "state": "Open"}\n',
            body=b"item=needle",
            headers=[("X-Request-Kind", "bulk")],
        ),
    )


@pytest.mark.parametrize(
    ("pattern", "part", "line"),
    [
        ("day=monday", "flow", "POST https://api.example.com/v1/orders?day=monday -> 200"),
        ("kind: b", "request", "X-Request-Kind: bulk"),
        ("json$", "response", "Content-Type: application/json"),
        ("need.e", "request body", "item=needle"),
        ('^ "state', "response body", ' "state": "Open"}'),
    ],
)
def test_each_part_is_searched(netcapture, path, pattern, part, line):
    done = netcapture("grep", "-i", pattern, path)
    assert done.status == 0
    assert done.out.splitlines() == [f"{path}:2:{part}:{line}"]


def test_nothing_found(netcapture, path):
    assert netcapture("grep", "nowhere", path) == (1, "", "")
    assert netcapture("grep", "open", path).status == 1, "case counts"
    assert netcapture("grep", "-F", "need.e", path).status == 1


def test_for_programs(netcapture, path, tmp_path):
    (found,) = map(json.loads, netcapture("grep", "--json", "needle", tmp_path).out.splitlines())
    assert found == {
        "cassette": str(path),
        "number": 2,
        "flow": "POST https://api.example.com/v1/orders?day=monday -> 200",
        "part": "request body",
        "line": "item=needle",
    }
    assert netcapture("grep", "-l", "example", tmp_path).out == f"{path}\n"


def test_a_bad_expression_is_refused(netcapture, path):
    done = netcapture("grep", "(", path)
    assert done.status == 2
    assert "no regular expression" in done.err
    assert "-F" in done.err


def test_large_bodies_are_searched_across_their_pieces(netcapture, cassette, exchange_of):
    """Of a large body on one line only the place is shown; what lies across a border is found once."""
    data = bytearray(b"x" * (3 * SEGMENT))
    for at in (10, SEGMENT - 3, 2 * SEGMENT + 5):
        data[at : at + 6] = b"needle"
    path = cassette(exchange_of(answer=bytes(data), answer_headers=()))
    lines = netcapture("grep", "needle", path).out.splitlines()
    assert len(lines) == 3
    assert all("needle" in line and len(line) < 400 for line in lines)


def test_a_shared_body_counts_for_each_flow(netcapture, cassette, exchange_of):
    answer = b"the needle" * 10
    path = cassette(*(exchange_of(target=t, answer=answer) for t in ("/a", "/b")))
    lines = netcapture("grep", "needle", path).out.splitlines()
    assert [line.split(":")[1] for line in lines] == ["1", "2"]
