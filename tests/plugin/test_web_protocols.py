"""HTTP/2, WebSockets and gRPC as a test's author meets them: recorded, then played with nobody there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin_lab import HOST, Project, receipt_of

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))  # for web_servers

from web_servers import hypercorn

PROGRAMS = Path(__file__).parent.parent / "engine" / "programs"


@pytest.fixture
def project(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project whose tests reach hypercorn as api.example.com."""
    with hypercorn(tmp_path_factory.mktemp("hypercorn")) as web:
        server = project.server._replace(https=web.https, http=web.http, ca=web.ca)
        yield Project(project.pytester, server, project.temp)


TESTS = f"""
import subprocess, sys
import httpx, pytest

pytestmark = pytest.mark.cassette
SAYS = {{says!r}}

@pytest.mark.parametrize("number", range(3))
def test_httpx_sees_http2(netcapture, number):
    with httpx.Client(http2=True) as client:
        answer = client.get(f"https://{HOST}/{{{{number}}}}")
    assert answer.http_version == "HTTP/2"
    assert answer.text == f"GET /{{{{number}}}} 0"
    netcapture.assert_requested("GET", f"https://{HOST}/{{{{number}}}}")
    assert netcapture.http.one(status=200).request.http_version == "2"

def test_curl_sees_http2():
    out = ["curl", "-sS", "-w", " %{{{{http_version}}}}", "https://{HOST}/x"]
    assert subprocess.run(out, capture_output=True, text=True).stdout == "GET /x 0 2"

def test_a_websocket(netcapture):
    program = [sys.executable, {str(PROGRAMS / "ws_websockets.py")!r}, "wss://{HOST}/ws", SAYS]
    out = subprocess.run(program, capture_output=True, text=True)
    assert out.stdout.splitlines() == ["welcome", SAYS + "!", "4000 bye"], out.stderr
    (flow,) = netcapture.websockets
    assert [m.text for m in flow.sent] == [SAYS]
    assert netcapture.websockets.one(path="/ws").close_code == 4000
"""


def write(project: Project, says: str = "hi") -> None:
    project.write("test_it.py", TESTS.format(says=says))


def test_they_are_recorded_and_played(project: Project) -> None:
    write(project)
    recorded = project.run()
    recorded.assert_outcomes(passed=5)
    assert receipt_of(recorded)["recorded"] > 0
    played = project.run("-n", "2", "--netcapture-record-mode=none", use="xdist")
    played.assert_outcomes(passed=5)
    assert receipt_of(played)["left"] == 0
    sidecar = next(project.path.rglob("*websocket*.cassette.txt")).read_text()
    assert "> text hi" in sidecar
    write(project, "something else")
    failed = project.run("--netcapture-record-mode=none", "-k", "websocket")
    failed.assert_outcomes(failed=1, errors=0)
    text = failed.stdout.str()
    assert "message 1 of the client is not the recorded one" in text
    assert "something else" in text
    assert "hi" in text
