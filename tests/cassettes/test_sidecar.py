"""The text for reviewers."""

from __future__ import annotations

from pytest_netcapture.flows import DnsAnswer, DnsFlow, FlowError, Process


def sidecar(tmp_path):
    return (tmp_path / "c.cassette.txt").read_text()


def test_a_whole_one(record, flow_of, tmp_path):
    flow = flow_of(
        "POST",
        "/v1/charges?key=1",
        headers=[("Authorization", "Bearer abc"), ("X-Noise", "n")],
        body=b'{"amount":42}',
        status=201,
        answer_headers=[("Content-Type", "application/json"), ("Date", "now")],
    )
    flow.process = Process(4711, "checkout")
    flow.response.reason = "Created"
    answers = [DnsAnswer("api.example.com", "A", 60, "192.0.2.1")]
    record(flow, DnsFlow(name="api.example.com", type="A", answers=answers))
    text = sidecar(tmp_path)
    tag = text.partition("Bearer ")[2][:19]
    assert (
        text
        == f"""\
c.cassette: 2 flows
For review only: this file is written with the cassette and never read.

--- 1. DNS api.example.com A -> 192.0.2.1

--- 2. POST https://api.example.com/v1/charges?key=1 -> 201  by checkout
  Authorization: Bearer {tag}
  [13 bytes, f26e267ee0]
    {{
      "amount": 42
    }}
< 201 Created
  Content-Type: application/json
  [12 bytes, 6bc0da1f42]
    {{
      "ok": true
    }}
"""
    )


def test_long_binary_and_hostile_bodies(record, flow_of, tmp_path):
    record(
        flow_of("GET", "/long", answer=b"line\n" * 100, answer_headers=()),
        flow_of("GET", "/png", answer=b"\x89PNG\0\xff" * 10, answer_headers=()),
        flow_of("GET", "/evil", answer=b"\x1b]0;title\x07 \xe2\x80\xae", answer_headers=()),
    )
    text = sidecar(tmp_path)
    assert text.count("line\n") == 20
    assert "... 80 more lines" in text
    assert "PNG" not in text
    assert "[60 bytes" in text
    assert "\x1b" not in text
    assert "\\x1b]0;title\\x07" in text


def test_a_failure(record, flow_of, tmp_path):
    flow = flow_of()
    flow.error = FlowError("reset", after=7)
    record(flow)
    assert "! reset after 7 bytes" in sidecar(tmp_path)


def test_a_lost_sidecar_comes_back(record, flow_of, tmp_path):
    record(flow_of())
    before = (tmp_path / "c.cassette").read_bytes()
    (tmp_path / "c.cassette.txt").unlink()
    record(flow_of(), mode="all")
    assert "GET https://api.example.com/" in sidecar(tmp_path)
    assert (tmp_path / "c.cassette").read_bytes() == before
