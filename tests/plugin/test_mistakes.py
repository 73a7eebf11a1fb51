"""What is said to ten typical mistakes, whole, as tests/plugin/mistakes keeps it: cause and cure.

After a change that is meant, `NETCAPTURE_KEEP_TEXTS=1 pytest tests/plugin/test_mistakes.py` keeps what is said now.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

KEPT = Path(__file__).parent / "mistakes"
TESTS = """
@pytest.mark.cassette
def test_01_a_request_that_was_not_recorded(netcapture):
    swallow("/json?page=" + os.environ["PAGE"])

@pytest.mark.cassette
def test_02_a_date_in_the_body(netcapture):
    swallow("/x", method="POST", data=json.dumps({"at": os.environ["AT"], "n": 1}).encode())

@pytest.mark.netcapture(block=True)
def test_03_a_blocked_host(netcapture):
    swallow("/x")

def test_04_the_wrong_amount(netcapture):
    get("/x", method="POST", data=b'{"amount": 43, "currency": "eur"}')
    netcapture.assert_requested("POST", URL + "/x", json={"amount": 42})

def test_05_a_criterion_that_is_none(netcapture):
    netcapture.assert_requested("POST", URL + "/x", jsn={"amount": 42})

def test_06_a_mock_that_nobody_asks(netcapture):
    netcapture.mock("GET", URL + "/user").respond(json={})
    netcapture.mock("GET", URL + "/x").respond(json={})
    get("/x")
    netcapture.assert_all_mocks_used()

def test_07_an_argument_that_is_none(netcapture):
    netcapture.mock("GET", URL + "/x").respond(200, jsno={})

def test_08_the_wrong_order(netcapture):
    get("/second")
    get("/first")
    netcapture.assert_order(URL + "/first", URL + "/second")

def test_09_a_mock_on_loopback(netcapture):
    netcapture.mock("GET", "http://localhost:8000/x").respond()

def test_10_more_than_one(netcapture):
    get("/x")
    get("/y")
    netcapture.http.one(host="api.example.com")
"""
NAMES = re.findall(r"def (test_\d\d_\w+)", TESTS)
CURES = {
    "test_01": "new_episodes",
    "test_02": 'filters={"ignore": ["body.at"]}',
    "test_03": "--netcapture-allow=api.example.com",
    "test_04": "42",
    "test_05": "did you mean 'json'?",
    "test_06": "/user, made at test_it.py:",
    "test_07": "did you mean 'json'?",
    "test_08": "came only before the steps ahead of it",
    "test_09": "--netcapture-loopback=capture",
    "test_10": "expected one flow, found 2",
}


def texts_of(result: pytest.RunResult) -> dict[str, str]:
    """Return what each failed test says, without what differs from run to run."""
    text = result.stdout.str()
    parts = re.split(
        r"^_{3,} (?:ERROR at \w+ of )?(test_\d\d_\w+) _{3,}$", text, flags=re.MULTILINE
    )
    said = dict(zip(parts[1::2], parts[2::2], strict=True))
    return {
        name: _settled(re.split(r"^={3,}", part, flags=re.MULTILINE)[0])
        for name, part in said.items()
    }


def _settled(text: str) -> str:
    raised = [line[4:] for line in text.splitlines() if line.startswith("E   ")]
    text = "\n".join(raised) if raised else text
    for pattern, instead in {
        r"pid \d+|(?<=python\()\d+": "1",
        r"python[\d.]*\(": "python(",
        r"test_it\.py:\d+": "test_it.py:1",
        r"\S*python[\d.]* .*-m ?pytest.*": "python -m pytest",
        r"\d+ B\b": "1 B",
        r"\d+(\.\d+)? (ms|s)\b": "1 ms",
        r"198\.18\.\d+\.\d+": "198.18.0.1",
        r"2001:db8:[0-9a-f:]+": "2001:db8::1",
    }.items():
        text = re.sub(pattern, instead, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def test_ten_mistakes(project, monkeypatch):
    project.test(TESTS)
    monkeypatch.setenv("PAGE", "1")
    monkeypatch.setenv("AT", "2026-01-02T03:04:05Z")
    project.run("-k", "test_01 or test_02").assert_outcomes(passed=2, deselected=8)
    monkeypatch.setenv("PAGE", "2")
    monkeypatch.setenv("AT", "2026-01-02T03:04:06Z")
    result = project.run()
    result.assert_outcomes(failed=10)
    told = texts_of(result)
    assert sorted(told) == sorted(NAMES)
    if os.environ.get("NETCAPTURE_KEEP_TEXTS"):
        for name, text in told.items():
            (KEPT / f"{name}.txt").write_text(text)
    for name, text in told.items():
        assert CURES[name[:7]] in text, text
        assert "pytest_netcapture/" not in text, text  # none of our frames
        assert text == (KEPT / f"{name}.txt").read_text()
    assert len(list(KEPT.glob("*.txt"))) == len(NAMES)
