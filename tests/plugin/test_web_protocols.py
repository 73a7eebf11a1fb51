"""HTTP/2, WebSockets and gRPC as a test's author meets them: recorded, then played with nobody there."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin_lab import HOST, Project, receipt_of

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))  # for web_servers

from web_servers import certificates, hypercorn

PROGRAMS = Path(__file__).parent.parent / "engine" / "programs"


@pytest.fixture
def project(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project whose tests reach hypercorn as api.example.com."""
    with hypercorn(tmp_path_factory.mktemp("hypercorn"), http3=True) as web:
        server = project.server._replace(https=web.https, http=web.http, ca=web.ca)
        yield Project(project.pytester, server, project.temp)


@contextlib.contextmanager
def grpc_server(folder: Path) -> Iterator[int]:
    """The port of a grpcio server without TLS."""
    _, chain, key = certificates(folder)
    command = [sys.executable, PROGRAMS.parent / "grpc_server.py", chain, key]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        _, port = map(int, process.stdout.readline().split())
        yield port
        process.stdin.close()


@pytest.fixture(scope="module")
def grpc_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with grpc_server(tmp_path_factory.mktemp("grpc")) as port:
        yield port


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


@pytest.mark.shows("HTTP/2", "asserted", clients=["httpx", "curl"], servers=["hypercorn"])
@pytest.mark.shows("WebSocket", "asserted", clients=["websockets"], servers=["hypercorn"])
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


ASSERTED = f"""
import pathlib, subprocess, sys
import httpx, pytest

pytestmark = pytest.mark.cassette
PROGRAMS = pathlib.Path({str(PROGRAMS)!r})

def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.splitlines(), done.stderr

GET3 = (sys.executable, PROGRAMS / "get3.py", "{HOST}", "443")

def test_http3(netcapture):
    assert run(*GET3, "GET:/a?b=1+POST:/c:5")[0] == ["GET /a?b=1 200 3 8", "POST /c 200 3 9"]
    netcapture.assert_requested("POST", "https://{HOST}/c", body=b"xxxxx", times=1)
    exchange = netcapture.http.one(path="/a", query={{"b": "1"}})
    assert (exchange.request.http_version, exchange.response.text) == ("3", "GET /a 0")
    assert exchange.process.name.startswith("python")

@pytest.mark.netcapture(http3="refuse")
def test_http3_is_refused(netcapture):
    said, _ = run(*GET3, "GET:/a")
    assert said == ["no connection: HTTP/3 is refused (--netcapture-http3=refuse)"]
    assert run("curl", "-sS", "https://{HOST}/a")[0] == ["GET /a 0"]
    netcapture.assert_requested("GET", "https://{HOST}/a", times=1)
    assert "refused" in netcapture.udp.one(port=443).reason

def test_events(netcapture):
    with httpx.Client() as client, client.stream("GET", "https://{HOST}/events") as answer:
        for line in answer.iter_lines():
            if line and "2" not in line:
                client.get("https://{HOST}/next")
    assert netcapture.http.one(path="/events").response.body.chunks == [9, 9, 9]
    netcapture.assert_requested(path="/next", times=2)

def test_a_websocket_over_http2(netcapture):
    said, err = run("node", PROGRAMS / "ws_http2.js", "https://{HOST}", "hi")
    assert said[-1] == "closed 4000 bye", err
    flow = netcapture.websockets.one(method="CONNECT")
    assert ([m.text for m in flow.sent], flow.close_code) == (["hi"], 4000)

def test_a_websocket_over_http3(netcapture):
    said, err = run(sys.executable, PROGRAMS / "ws_http3.py", "{HOST}", "443", "hi")
    assert said[-1] == "closed 4000 bye", err
    assert netcapture.websockets.one(path="/ws").request.http_version == "3"

def test_grpc(netcapture):
    said, err = run(sys.executable, PROGRAMS / "grpc_talk.py", "{HOST}:8080", "Both", "a")
    assert said == ["ready", "you said a", "next?", "[] OK"], err
    call = netcapture.grpc.one(path="/test.Talk/Both")
    assert (call.service, call.method, call.status) == ("test.Talk", "Both", 0)
    assert [m.fields for m in call.requests] == [{{1: "a"}}]
"""


@pytest.mark.shows("HTTP/3", "asserted", clients=["aioquic"], servers=["hypercorn"])
@pytest.mark.shows(
    "events and streamed bodies", "asserted", clients=["httpx"], servers=["hypercorn"]
)
@pytest.mark.shows("WebSocket over HTTP/2", "asserted", clients=["Node"], servers=["hypercorn"])
@pytest.mark.shows("WebSocket over HTTP/3", "asserted", clients=["aioquic and wsproto"])
@pytest.mark.shows("gRPC", "asserted", clients=["grpcio"], servers=["grpcio"])
def test_they_are_asserted_on(project: Project, grpc_port: int) -> None:
    project.write("test_it.py", ASSERTED)
    recorded = project.run(f"--netcapture-map-host={HOST}:8080=127.0.0.1:{grpc_port}")
    recorded.assert_outcomes(passed=6)
    played = project.run("-n", "2", "--netcapture-record-mode=none", use="xdist")
    played.assert_outcomes(passed=6)
    assert receipt_of(played)["left"] == 0


CALLS = f"""
import subprocess, sys
import pytest

pytestmark = pytest.mark.cassette
SAYS = {{says!r}}

@pytest.mark.parametrize("number", range(3))
def test_both(number):
    talk = [sys.executable, {str(PROGRAMS / "grpc_talk.py")!r}, "{HOST}:8080", "Both", SAYS]
    out = subprocess.run(talk, capture_output=True, text=True)
    assert out.stdout.splitlines() == ["ready", "you said " + SAYS, "next?", "[] OK"]
"""


@pytest.mark.shows("gRPC", "replayed", clients=["grpcio"], servers=["grpcio"])
def test_calls_are_played_with_the_server_gone(project: Project, tmp_path: Path) -> None:
    project.write("test_it.py", CALLS.format(says="hi"))
    with grpc_server(tmp_path) as port:
        mapped = f"--netcapture-map-host={HOST}:8080=127.0.0.1:{port}"
        project.run(mapped).assert_outcomes(passed=3)
    play = (mapped, "-n", "2", "--netcapture-record-mode=none")
    played = project.run(*play, use="xdist")
    played.assert_outcomes(passed=3)
    assert receipt_of(played)["left"] == 0
    project.write("test_it.py", CALLS.format(says="other"))
    failed = project.run(*play, use="xdist")
    failed.assert_outcomes(failed=3)
    text = failed.stdout.str()
    assert text.count("message 1 of the client is not the recorded one") == 3
    assert re.search(r"message\.1 +- hi\n +\+ other\n", text)
