"""How long a chaos run takes: 50 tests that make 200 exchanges, on two workers."""

from __future__ import annotations

import os
import re
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from figures import Row
from lab import Lab

_TESTS, _EXCHANGES, _WORKERS = 50, 4, 2
_MINUTES = 5.0
_DONE = re.compile(r"(\d+) tries of (\d+) exchanges: (.*?); ")
_QUIET = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-W", "ignore")


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b'{"path": "%s", "items": [1, 2, 3]}' % self.path.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def measure(lab: Lab) -> Iterator[Row]:
    folder = lab.path("chaos")
    os.makedirs(folder)
    with open(os.path.join(folder, "test_generated.py"), "w") as file:
        file.write(_suite())
    with ThreadingHTTPServer(("127.0.0.1", 0), _Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mapped = f"--netcapture-map-host=api.example.com:80=127.0.0.1:{server.server_port}"
        _pytest(lab, folder, mapped, "--netcapture-record-mode=once")
        server.shutdown()
    began = time.perf_counter()
    said = _pytest(lab, folder, "--netcapture-chaos", "-n", str(_WORKERS))
    minutes = (time.perf_counter() - began) / 60
    found = _DONE.search(said)
    if found is None or int(found[2]) != _TESTS * _EXCHANGES:
        raise RuntimeError(f"pytest says: {said[-600:]}")
    note = f"{found[1]} tries: {found[3]}"
    yield Row("chaos: 50 tests, 200 exchanges", minutes, "min", ("at most", _MINUTES), note)


def _pytest(lab: Lab, folder: str, *options: str) -> str:
    command = [sys.executable, "-m", "pytest", "--netcapture", *_QUIET, *options, folder]
    return lab.run(command, timeout=1200)


def _suite() -> str:
    """Return tests of a client as it should be: it has a time-out, and tries three times."""
    text = """\
        import http.client, json, time, urllib.error, urllib.request
        import pytest

        pytestmark = pytest.mark.cassette

        def get(path):
            for last in (False, False, True):
                try:
                    with urllib.request.urlopen("http://api.example.com" + path, timeout=10) as a:
                        return json.load(a)
                except urllib.error.HTTPError as error:
                    if error.code not in (429, 500) or last:
                        raise
                except TimeoutError:
                    if last:
                        raise
    """
    tests = [
        f"def test_{number}():\n"
        + "\n".join(
            f"    assert get('/{number}/{n}')['path'] == '/{number}/{n}'" for n in range(_EXCHANGES)
        )
        for number in range(_TESTS)
    ]
    return textwrap.dedent(text) + "\n\n" + "\n\n\n".join(tests) + "\n"
