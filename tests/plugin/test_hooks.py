"""The project's own code in recording and replaying: hooks of conftest.py, vcrpy's callables."""

from __future__ import annotations

HOOKS = """
import json, re

def pytest_netcapture_flow(flow):
    print("FLOW", flow)

def pytest_netcapture_before_record(flow):
    if flow.protocol != "http":
        return None
    if flow.request.path == "/count":
        return False
    flow.response.set_content(flow.response.text + " (edited)")
    flow.request.headers = flow.request.headers.replace("x-room", None)

def pytest_netcapture_before_replay(flow):
    if flow.request.path == "/status/201":
        flow.response.status = 202

def pytest_netcapture_match(request, recorded):
    return request.path.startswith("/status/200") and recorded.request.path.startswith("/status/200") or None
"""
CONFIG = """
import pytest

@pytest.fixture
def netcapture_config():
    def request(request):
        if request.path == "/count":
            return None
        request.target = request.target.partition("?")[0]
        return request

    def response(response):
        response.headers = response.headers.replace("server", "a server")
        return response

    return {"before_record_request": request, "before_record_response": response}
"""
TEST = """
    @pytest.mark.cassette
    def test_it(netcapture):
        print("SAID", get("/status/200?at=" + os.environ["AT"], headers={"x-room": "hidden-room"}))
        with urllib.request.urlopen(URL + "/status/201", timeout=20) as answer:
            print("STATUS", answer.status)
        if os.environ["AT"] == "one":
            get("/count")
"""


def test_hooks_change_what_is_recorded_played_and_matched(project, monkeypatch):
    project.write("conftest.py", HOOKS)
    project.test(TEST)
    monkeypatch.setenv("AT", "one")
    first = project.run("-s")
    first.assert_outcomes(passed=1)
    text = first.stdout.str()
    assert "STATUS 201" in text  # the live client gets what the server said
    assert "(edited)" not in text
    assert "· 8 recorded ·" in text  # two exchanges of three, six look-ups
    assert "FLOW GET https://api.example.com/count" in text
    kept = (project.path / project.cassettes()[0]).read_bytes()
    assert b"(edited)" in kept
    assert not any(word in kept for word in (b"/count", b"hidden-room"))

    monkeypatch.setenv("AT", "two")
    second = project.run("-s", "--netcapture-record-mode=none")
    second.assert_outcomes(passed=1)
    text = second.stdout.str()
    assert "STATUS 202" in text
    assert "(edited)" in text
    assert "0 packets left" in text


def test_what_no_hook_matches_still_fails(project, monkeypatch):
    project.write(
        "conftest.py", "def pytest_netcapture_match(request, recorded):\n    return False"
    )
    project.test(TEST)
    monkeypatch.setenv("AT", "one")
    project.run().assert_outcomes(passed=1)
    monkeypatch.setenv("AT", "two")
    result = project.run()
    result.assert_outcomes(failed=1)
    assert "query.at" in result.stdout.str()


def test_a_hook_that_raises_fails_its_test_and_nothing_is_recorded(project, monkeypatch):
    project.write(
        "conftest.py",
        "def pytest_netcapture_before_record(flow):\n    raise LookupError('on purpose')\n",
    )
    project.test(TEST)
    monkeypatch.setenv("AT", "one")
    result = project.run()
    result.assert_outcomes(passed=1, errors=1)
    text = result.stdout.str()
    assert "hook: failed, so nothing of this test was recorded" in text
    assert "LookupError: on purpose" in text
    assert " 0 recorded" in text
    assert project.cassettes() == []
    assert project.left_behind() == []

    project.write("conftest.py", "")
    project.run().assert_outcomes(passed=1)
    project.write(
        "conftest.py",
        "def pytest_netcapture_before_replay(flow):\n    raise LookupError('at replay')\n",
    )
    result = project.run()
    result.assert_outcomes(failed=1)
    assert "LookupError: at replay" in result.stdout.str()


def test_vcrpys_callables(project, monkeypatch):
    project.write("conftest.py", CONFIG)
    project.test(TEST)
    monkeypatch.setenv("AT", "one")
    project.run().assert_outcomes(passed=1)
    kept = (project.path / project.cassettes()[0]).read_bytes()
    assert b"a server" in kept
    assert b"at=one" not in kept
    assert b"/count" not in kept
    monkeypatch.setenv("AT", "two")
    result = project.run("--netcapture-record-mode=none", "-n", "2", use="xdist")
    result.assert_outcomes(passed=1)
    assert "0 packets left" in result.stdout.str()


def test_hooks_are_known_when_capture_is_off(project):
    project.write("conftest.py", HOOKS)
    project.test("def test_it():\n    pass\n")
    project.run(netcapture=False).assert_outcomes(passed=1)
