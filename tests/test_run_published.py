"""`netcapture run --publish`: the host reaches a server that runs in a sandbox."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request

import pytest

pytestmark = pytest.mark.live
COMMAND = [sys.executable, "-c", "from pytest_netcapture.cli.main import main; main()", "run"]
SERVER = """if True:
    import http.server
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")
    server = http.server.HTTPServer(("", 8080), Handler)
    print("ready", flush=True)
    server.handle_request()
"""


def test_a_server_is_reached_from_the_host():
    command = [*COMMAND, "--publish", "0:8080", "--block", "--", sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        told = re.match(
            r"netcapture: 127.0.0.1:(\d+) leads to port 8080\n", program.stderr.readline()
        )
        assert told
        assert program.stdout.readline() == "ready\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{told[1]}/", timeout=20) as answer:
            assert answer.read() == b"hello"
        _, rest = program.communicate(timeout=20)
    assert program.returncode == 0, rest


def test_a_port_that_is_none_is_refused():
    ran = subprocess.run(
        [*COMMAND, "--publish", "http", "--", "true"], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2
    assert "--publish: 'http': 'http' is not a port" in ran.stderr
