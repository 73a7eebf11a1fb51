"""What `netcapture run` shows while a program runs, on standard error, and what it leaves alone."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading

import pytest

pytestmark = pytest.mark.live
COMMAND = [sys.executable, "-c", "from pytest_netcapture.cli.main import main; main()", "run"]
CODE = """
import sys, urllib.request, urllib.error
for path in sys.argv[1:]:
    try:
        print(len(urllib.request.urlopen("http://api.example.com" + path, timeout=20).read()))
    except urllib.error.HTTPError as error:
        print(error.code)
"""


@pytest.fixture(scope="module")
def port():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            data = b'{"name": "Ada \\u001b[2J"}\x1b[2J'
            self.send_response(404 if self.path == "/gone" else 200)
            self.send_header("X-Kind", "answer")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield httpd.server_address[1]
        httpd.shutdown()
        thread.join()


def run(port, *options, paths=("/fine", "/gone")):
    mapping = f"--map-host=api.example.com:80=127.0.0.1:{port}"
    command = [*COMMAND, mapping, *options, "--", sys.executable, "-c", CODE, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done


def test_a_line_for_each_flow(port):
    done = run(port)
    assert done.stdout == "29\n404\n", "what the program prints is its own"
    lines = done.stderr.splitlines()
    assert any(line.startswith("GET http://api.example.com/fine → 200 29 B ") for line in lines)
    assert any(line.startswith("GET http://api.example.com/gone → 404 29 B ") for line in lines)
    assert lines[-1].startswith("netcapture: ")
    assert "X-Kind" not in done.stderr
    assert run(port, "-q").stderr == ""


def test_more_of_each_flow_and_nothing_that_moves_the_cursor(port):
    told = run(port, "-v").stderr
    assert "  < X-Kind: answer" in told
    assert '{"name": "Ada ' in told
    assert "\x1b" not in told


def test_only_some(port):
    lines = run(port, "--grep", "/g.ne").stderr.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["http://api.example.com/gone"]
    wrong = subprocess.run([*COMMAND, "--grep", "(", "--", "true"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "--grep: '(' is no regular expression" in wrong.stderr


def test_for_programs(port, tmp_path):
    out = tmp_path / "flows.jsonl"
    run(port, "-q", "--json", str(out))
    flows = [json.loads(line) for line in out.read_text().splitlines()]
    statuses = [flow["response"]["status"] for flow in flows if flow["kind"] == "http"]
    assert statuses == [200, 404]
    assert {flow["kind"] for flow in flows} == {"dns", "http"}
