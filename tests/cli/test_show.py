"""`netcapture show` and `stats`: what a cassette holds, for people and for programs."""

from __future__ import annotations

import json
import sys

import pytest_netcapture
from pytest_netcapture.flows import MongoFlow


def test_a_cassette_is_shown_whole(netcapture, cassette, exchange_of, lookup_of):
    long = json.dumps({"items": [{"id": n} for n in range(100)]}).encode()
    path = cassette(lookup_of(), exchange_of("GET", "/v1/items?page=2", long))
    done = netcapture("show", path)
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0] == "api.cassette: 2 flows"
    assert "--- 1. DNS api.example.com A -> 10.0.0.1" in lines
    assert "--- 2. GET https://api.example.com/v1/items?page=2 -> 200" in lines
    assert "  Host: api.example.com" in lines
    assert '        "id": 99' in "\n".join(lines)
    brief = netcapture("show", "--brief", path).out
    assert "more lines" in brief
    assert '"id": 99' not in brief
    assert "\n" + brief.partition("\n")[2].strip() in (path.parent / "api.cassette.txt").read_text()


def test_one_flow_of_many(netcapture, cassette, exchange_of):
    path = cassette(exchange_of(target="/a"), exchange_of(target="/b"))
    done = netcapture("show", "-n", "2", path)
    assert "/b" in done.out
    assert "com/a" not in done.out
    wrong = netcapture("show", "-n", "3", path)
    assert wrong.status == 2
    assert "has no flow 3" in wrong.err
    assert "there are 1 to 2" in wrong.err


def test_json_has_a_line_for_each_flow(netcapture, cassette, exchange_of, lookup_of):
    path = cassette(
        lookup_of(),
        exchange_of("POST", "/b", b"\xff\x00", body=b"plain", status=201),
        exchange_of(target="/a", answer=b'{"price": 1.10}', coding="gzip"),
    )
    done = netcapture("show", "--json", path)
    dns, first, second = map(json.loads, done.out.splitlines())
    assert dns["kind"] == "dns"
    assert dns["answers"] == [
        {"name": "api.example.com", "type": "A", "ttl": 60, "data": "10.0.0.1"}
    ]
    assert first["request"]["method"] == "GET"
    assert first["request"]["url"] == "https://api.example.com/a"
    assert first["request"]["headers"] == [["Host", "api.example.com"]]
    assert first["response"]["body"] == {"size": 15, "coding": "gzip", "json": {"price": 1.1}}
    assert '"price": 1.10' in done.out, "numbers are spelled as they were"
    assert second["response"]["body"] == {"size": 2, "base64": "/wA="}
    assert second["request"]["body"] == {"size": 5, "text": "plain"}
    assert [flow["number"] for flow in (dns, first, second)] == [1, 2, 3]


def test_escapes_of_a_body_do_not_reach_the_terminal(netcapture, cassette, exchange_of):
    path = cassette(exchange_of(answer="\x1b]0;title\x07 \u202eevil".encode(), answer_headers=()))
    out = netcapture("show", path).out
    assert "\\x1b]0;title\\x07" in out
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_documents_need_a_package_that_may_not_be_here(netcapture, cassette, monkeypatch):
    flow = MongoFlow(
        service="mongodb", host="db.example.com", port=27017, step="command", question="find"
    )
    path = cassette(flow)
    monkeypatch.delattr(pytest_netcapture, "mongodb_documents", raising=False)
    monkeypatch.setitem(sys.modules, "pytest_netcapture.mongodb_documents", None)
    assert "pip install 'pytest-netcapture[mongodb]'" in netcapture("show", path).out
    (shown,) = map(json.loads, netcapture("show", "--json", path).out.splitlines())
    assert shown["command"] == "find"


def test_folders_are_looked_through(netcapture, cassette, exchange_of, tmp_path):
    cassette(exchange_of(target="/one"), name="one.cassette")
    cassette(exchange_of(target="/two"), name="two.cassette")
    (tmp_path / "other.txt").write_text("no cassette")
    out = netcapture("show", tmp_path).out
    assert out.index("one.cassette: 1 flow") < out.index("two.cassette: 1 flow")


def test_what_is_not_there_is_named(netcapture, cassette, exchange_of, tmp_path):
    path = cassette(exchange_of())
    done = netcapture("show", tmp_path / "apu.cassette")
    assert done.status == 2
    assert "there is no cassette" in done.err
    assert "there are: api.cassette" in done.err
    (tmp_path / "empty").mkdir()
    done = netcapture("show", tmp_path / "empty")
    assert done.status == 2
    assert "no .cassette file" in done.err
    path.write_bytes(path.read_bytes()[:-9])
    done = netcapture("show", path)
    assert done.status == 1
    assert str(path) in done.err
    assert "cure:" in done.err


def test_numbers_of_cassettes(netcapture, cassette, exchange_of, lookup_of, tmp_path):
    shared = b"x" * 5000
    cassette(
        lookup_of(),
        exchange_of(target="/a", answer=shared),
        exchange_of(target="/b", answer=shared),
        exchange_of("POST", "/c", b"{}", status=404, host="other.example.com"),
    )
    cassette(exchange_of(), name="more.cassette")
    found = json.loads(netcapture("stats", "--json", tmp_path).out)
    assert found["cassettes"] == 2
    assert found["flows"] == 5
    assert found["kinds"] == {"http": 4, "dns": 1}
    assert found["hosts"] == {"api.example.com": 4, "other.example.com": 1}
    assert found["statuses"] == {"200": 3, "404": 1}
    assert found["bodies"] == 3
    assert found["sent_size"] - found["body_size"] == 5000
    assert found["largest"][0] == [5000, "GET https://api.example.com/b -> 200"]
    text = netcapture("stats", tmp_path).out
    assert text.startswith("2 cassettes, ")
    assert "5 flows: 4 http, 1 dns" in text
    assert "methods: 3 GET, 1 POST" in text
