"""Requests a second of one Python client: mocked, played, and with what others have for it.

All in one run: httpx asks for 1 KiB over one connection, in a test of its own for each. responses
patches requests, so requests is its client.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator

from figures import Row, median_ratio
from lab import Lab, Missing, program
from server import free_port

_REQUESTS = 1500
_PEERS = ("respx", "responses", "pytest-httpserver", "werkzeug")
_RATE = re.compile(r"^RATE (\S+) ([\d.]+)$", re.MULTILINE)
_QUIET = ("-q", "-s", "-p", "no:randomly", "-p", "no:cacheprovider", "-W", "ignore")
_TESTS = f"""
import os, time

import httpx
import pytest

URL = "http://api.example.com/x"
BODY = "x" * 1024
COUNT = {_REQUESTS}


def rate(name, url=URL, get=None):
    with httpx.Client() as client:
        get = get or client.get
        assert get(url).text == BODY
        began = time.perf_counter()
        for _ in range(COUNT):
            get(url)
        print(f"\\nRATE {{name}} {{COUNT / (time.perf_counter() - began):.1f}}")
"""
_OURS = (
    _TESTS
    + """
def test_mocked(netcapture):
    netcapture.mock("GET", URL).respond(text=BODY)
    rate("mocked")

def test_called(netcapture):
    from pytest_netcapture import Response
    netcapture.mock("GET", URL).respond_with(lambda request: Response(text=BODY))
    rate("callable")

def test_with_a_fault(netcapture):
    netcapture.mock("GET", URL).respond(text=BODY)
    netcapture.fault(path="/x").status(503, probability=1e-9)
    rate("mocked-and-fault")

@pytest.mark.cassette(repeat="any")
def test_played():
    rate("played") if os.environ.get("PLAY") else httpx.get(URL)
"""
)
_THEIRS = (
    _TESTS
    + """
def test_respx(respx_mock):
    respx_mock.get(URL).respond(text=BODY)
    rate("respx")

def test_responses():
    import requests, responses
    with responses.RequestsMock() as mock, requests.Session() as session:
        mock.get(URL, body=BODY)
        rate("responses", get=session.get)

def test_httpserver(httpserver):
    httpserver.expect_request("/x").respond_with_data(BODY)
    rate("pytest-httpserver", httpserver.url_for("/x"))

@pytest.mark.skipif("WIREMOCK" not in os.environ, reason="no WireMock")
def test_wiremock():
    rate("WireMock", os.environ["WIREMOCK"] + "/x")
"""
)


def measure(lab: Lab) -> Iterator[Row]:
    folder = lab.path("mocks")
    os.makedirs(folder)
    python = _install(lab)
    for name, text in (("ours", _OURS), ("theirs", _THEIRS)):
        with open(os.path.join(folder, f"test_{name}.py"), "w") as file:
            file.write(textwrap.dedent(text))
    _record(lab, folder)
    with contextlib.ExitStack() as stack:
        try:
            wiremock, why = stack.enter_context(_wiremock(lab)), ""
        except Missing as error:
            wiremock, why = "", str(error)
        seen: dict[str, list[float]] = {}
        for _ in range(lab.rounds):
            for said in (
                _pytest(lab, sys.executable, folder, "test_ours.py", ["--netcapture"], PLAY="1"),
                _pytest(lab, python, folder, "test_theirs.py", [], WIREMOCK=wiremock),
            ):
                for name, value in _RATE.findall(said):
                    seen.setdefault(name, []).append(float(value))
    mocked = seen["mocked"]
    yield Row("mocks: requests/s, mocked", statistics.median(mocked))
    for name, values in seen.items():
        if name != "mocked":
            note = f"{statistics.median(values):,.0f}/s"
            yield Row(f"mocks: mocked / {name}", median_ratio(mocked, values), note=note)
    if why:
        yield Row("mocks: mocked / WireMock", None, note=f"skipped: {why}")


def _record(lab: Lab, folder: str) -> None:
    """Record one exchange from a server of this process."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1024")
            self.end_headers()
            self.wfile.write(b"x" * 1024)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mapped = f"--netcapture-map-host=api.example.com:80=127.0.0.1:{server.server_port}"
        options = ["--netcapture", "--netcapture-record-mode=rewrite", mapped, "-k", "played"]
        _pytest(lab, sys.executable, folder, "test_ours.py", options)
        server.shutdown()


def _pytest(
    lab: Lab, python: str, folder: str, name: str, options: list[str], **variables: str
) -> str:
    environment = {**lab.environment, **{k: v for k, v in variables.items() if v}}
    command = [python, "-m", "pytest", *_QUIET, *options, os.path.join(folder, name)]
    return lab.run(command, env=environment, timeout=600)


def _install(lab: Lab) -> str:
    """Return the Python of a virtual environment with the peers, beside what is here."""
    venv = lab.path("venv-mocks")
    try:
        lab.run([sys.executable, "-m", "venv", venv])
        packages = ["pytest", "httpx", "requests", *_PEERS]
        lab.run([f"{venv}/bin/pip", "install", "-q", "--retries", "1", *packages], timeout=300)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        reason = re.sub(r"\s+", " ", str(error))[-120:]
        raise Missing(f"pip cannot install the peers: {reason}") from None
    return f"{venv}/bin/python"


@contextlib.contextmanager
def _wiremock(lab: Lab) -> Iterator[str]:
    """Run WireMock, which npm has with its jar; yield its address. Raises `Missing`."""
    java, npm = program("java"), program("npm")
    folder = lab.path("wiremock")
    os.makedirs(folder)
    try:
        lab.run([npm, "install", "--silent", "--no-audit", "wiremock"], cwd=folder, timeout=300)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        raise Missing(f"npm cannot install wiremock: {str(error)[-120:]}") from None
    jars = glob.glob(os.path.join(folder, "node_modules/wiremock/**/*.jar"), recursive=True)
    if not jars:
        raise Missing("npm's wiremock has no jar")
    os.makedirs(os.path.join(folder, "mappings"))
    answer = {"request": {"url": "/x"}, "response": {"status": 200, "body": "x" * 1024}}
    with open(os.path.join(folder, "mappings", "x.json"), "w") as file:
        json.dump(answer, file)
    port = free_port()
    command = [java, "-jar", jars[0], "--port", str(port), "--root-dir", folder]
    command += ["--bind-address", "127.0.0.1", "--no-request-journal", "--disable-banner"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
    shutil.rmtree(folder)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/x").read()
            return
        time.sleep(0.1)
    raise Missing("WireMock did not start within a minute")
