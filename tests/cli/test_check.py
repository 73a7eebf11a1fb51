"""`netcapture check` and `scrub`: what is wrong is found, told by its place, and mended."""

from __future__ import annotations

import json

import msgspec
import pytest

from pytest_netcapture.cassettes.format import (
    SEGMENT,
    encode_end,
    encode_header,
    encode_record,
    read_payload,
)
from pytest_netcapture.cassettes.records import encode
from pytest_netcapture.cassettes.source import Source
from pytest_netcapture.cassettes.writing import write_flows
from pytest_netcapture.settings import Filters

SECRET = "hunter2-hunter2"
TOKEN = "ghp_" + "a1B2" * 10


@pytest.fixture
def leaking(tmp_path, exchange_of):
    """A cassette that was recorded without scrubbing what is named here."""
    flow = exchange_of(
        "POST",
        f"/login?api_key={SECRET}",
        json.dumps({"note": f"it is {TOKEN}", "pin": "9876-5432"}).encode(),
        headers=[("X-Token", SECRET)],
        body=b'{"user": "ada"}',
    )
    path = tmp_path / "leaking.cassette"
    keep = Filters(keep=("api_key", "X-Token"))
    write_flows(str(path), [flow], filters=keep)
    raw = path.read_bytes()
    # Token shapes are always scrubbed: put one back, as an older version may have left it.
    tag = raw[raw.index(b"it is ") + 6 :][:19]
    return replaced(path, tag, TOKEN.encode())


def replaced(path, old, new):
    """Write a cassette again with other bytes in its bodies, their ids left."""
    source = Source(str(path))
    frames = [encode_header(source.header.salt, "2026-01-02")]
    for ((offset, size),) in source.bodies.values():
        body = msgspec.msgpack.decode(read_payload(source.descriptor, source.path, offset, size))
        body["data"] = body["data"].replace(old, new)
        frames.append(encode_record(msgspec.msgpack.encode(body)))
    for recording in source.recordings:
        record = recording.record()
        for message in (record.request, record.response):
            if message.body.size:
                message.body.size = len(source.content(message.body).replace(old, new))
        frames.append(encode_record(encode(record)))
    source.close()
    path.write_bytes(b"".join([*frames, encode_end(len(frames) - 1)]))
    return path


def test_a_sound_cassette(netcapture, cassette, exchange_of):
    path = cassette(exchange_of(headers=[("Authorization", f"Bearer {SECRET}")]))
    assert netcapture("check", path) == (0, "1 cassette: nothing wrong\n", "")


def test_secrets_are_told_by_their_places_and_taken_out(netcapture, leaking):
    done = netcapture("check", "--secrets", leaking)
    assert done.status == 1
    (line,) = done.out.splitlines()
    assert line.startswith(
        f"{leaking}: secret: flow 1, POST https://api.example.com/login?api_key="
    )
    for place in ("request target", "request header X-Token", "response body"):
        assert place in line
    assert "1 problem" in done.err
    (found,) = map(json.loads, netcapture("check", "--secrets", "--json", leaking).out.splitlines())
    assert found["kind"] == "secret"

    done = netcapture("scrub", leaking)
    assert done.status == 0
    assert "scrubbed: flow 1" in done.out
    data = leaking.read_bytes()
    assert SECRET.encode() not in data
    assert TOKEN.encode() not in data
    assert SECRET not in (leaking.parent / f"{leaking.name}.txt").read_text()
    source = Source(str(leaking))
    assert source.header.recorded == "2026-01-02", "scrubbing is no recording"
    assert source.recordings[0].flow().request.json() == {"user": "ada"}
    assert netcapture("check", leaking).status == 0
    before = leaking.read_bytes()
    assert netcapture("scrub", leaking) == (0, "", "")
    assert leaking.read_bytes() == before


def test_fields_may_be_named_and_kept(netcapture, leaking, monkeypatch):
    netcapture("scrub", leaking)
    assert b"9876-5432" in leaking.read_bytes()
    assert "response body" in netcapture("check", "--secret-json", "pin", leaking).out
    assert netcapture("check", "--secret-value", "9876-5432", leaking).status == 1
    monkeypatch.setenv("SOME_PASSWORD", "9876-5432")
    assert netcapture("check", leaking).status == 1
    netcapture("scrub", leaking)
    assert b"9876-5432" not in leaking.read_bytes()


def test_what_was_kept_on_purpose(netcapture, cassette, exchange_of, tmp_path):
    path = tmp_path / "kept.cassette"
    flow = exchange_of(headers=[("X-Token", "not-a-secret")])
    write_flows(str(path), [flow], filters=Filters(keep=("x-token",)))
    assert netcapture("check", path).status == 1
    assert netcapture("check", "--keep", "x-token", path).status == 0


def test_large_bodies_are_looked_through(netcapture, exchange_of, tmp_path, monkeypatch):
    path = tmp_path / "large.cassette"
    answer = b"x" * SEGMENT + b" plain-value-1234 " + b"y" * 10
    write_flows(str(path), [exchange_of(answer=answer, answer_headers=())])
    assert netcapture("check", path).status == 0
    monkeypatch.setenv("API_TOKEN", "plain-value-1234")
    assert "response body" in netcapture("check", path).out
    netcapture("scrub", path)
    assert netcapture("check", path).status == 0


def test_the_text_beside_it(netcapture, cassette, exchange_of):
    path = cassette(exchange_of())
    text = path.parent / "api.cassette.txt"
    right = text.read_text()
    text.write_text(right.replace("200", "500"))
    done = netcapture("check", path)
    assert done.status == 1
    assert "text: the text beside it says something else" in done.out
    assert netcapture("check", "--fix", path).status == 0
    assert text.read_text() == right
    text.unlink()
    assert "cannot be read" in netcapture("check", path).out
    netcapture("check", "--fix", path)
    assert text.read_text() == right


def test_damage_is_told_and_the_rest_is_looked_at(netcapture, cassette, exchange_of, tmp_path):
    torn = cassette(exchange_of(), name="a.cassette")
    torn.write_bytes(torn.read_bytes()[:-5])
    other = replaced(cassette(exchange_of(), name="b.cassette"), b"true", b"fals")
    cassette(exchange_of(), name="c.cassette")
    done = netcapture("check", tmp_path)
    assert done.status == 1
    assert f"{torn}: damage: " in done.out
    assert f"{other}: damage: flow 1: a body is not what its digest says" in done.out
    assert "c.cassette" not in done.out
    assert netcapture("scrub", torn).status == 1
