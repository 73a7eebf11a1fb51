"""The plugin by BPF: the test process and its children are captured, its own servers are left alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "redirect"))  # for the lab

from ebpf_lab import Group, needs_ebpf

pytestmark = pytest.mark.live

LIVE_SERVER = '''
    import subprocess
    import threading
    import urllib.request
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    import pytest


    class Shop(BaseHTTPRequestHandler):
        """A live server of the tests that calls another one."""

        def do_GET(self):
            command = ["curl", "-sS", "-w", "%{remote_ip}", "https://api.example.com/echo"]
            done = subprocess.run(command, capture_output=True)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(done.stdout + done.stderr)

        def log_message(self, *args):
            pass


    @pytest.fixture(scope="session")
    def shop():
        server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        server.server_close()


    @pytest.mark.parametrize("number", range(3))
    def test_outbound(netcapture, shop, number):
        with urllib.request.urlopen(shop) as answer:
            told = answer.read().decode()
        exchange = netcapture.http.one(host="api.example.com")
        assert exchange.response.status == 200, told
        assert exchange.process.name == "curl"
        assert "127.0.0.1" not in told
        assert len(netcapture.http) == 1


    def test_nothing(netcapture):
        assert not netcapture.flows
'''


@pytest.fixture(autouse=True)
def group(pytester, monkeypatch):
    """A group in which pytest runs: it attaches to its own."""
    needs_ebpf()
    made = Group()
    popen = pytester.popen

    def inside(command, *args, **kwargs):
        return popen(made.command(*map(str, command)), *args, **kwargs)

    monkeypatch.setattr(pytester, "popen", inside)
    yield made
    made.close()


def test_a_live_server_works_and_what_it_calls_is_captured_per_test(project):
    project.test(LIVE_SERVER)
    result = project.run("--netcapture-redirector=ebpf", "-p", "no:xdist")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["netcapture: ebpf*"])


def test_what_is_recorded_by_bpf_is_played_in_a_namespace(project):
    project.test(
        """
        @pytest.mark.cassette
        def test_it(netcapture):
            assert get("/echo") and get("/hello")
            assert len(netcapture.http) == 2
        """
    )
    recorded = project.run("--netcapture-redirector=ebpf")
    recorded.assert_outcomes(passed=1)
    played = project.run("--netcapture-record-mode=none", "--netcapture-redirector=tproxy")
    played.assert_outcomes(passed=1)
    played.stdout.fnmatch_lines(["*6 played*0 unmatched*0 packets left this machine"])
