"""The main job on a TUN device; what `auto` takes where the kernel lacks nftables; cassettes are the same."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin_lab import REDIRECTOR, TIMEOUT, Project, Server, receipt_of

from pytest_netcapture.redirect import tun_probing

FORBIDDING = str(Path(__file__).parent / "forbidding.py")
NAMES = ("tproxy", "tun", "seccomp")
pytestmark = pytest.mark.skipif(
    bool(REDIRECTOR), reason="not in CI: another redirector is asked for"
)


@pytest.fixture(scope="module", autouse=True)
def _needs_tun() -> None:
    support = tun_probing.probe()
    if not support.available:
        pytest.skip(f"needs tun: {support.reason}")


SUITE = """
pytestmark = pytest.mark.cassette
def test_get(netcapture):
    assert get("/a")
    assert netcapture.http.one(path="/a").process.pid == os.getpid()
def test_curl():
    subprocess.run(["curl", "-sSf", URL + "/b"], check=True, capture_output=True)
def test_posts():
    assert get("/c", method="POST", data=b"x" * 100_000)
"""


ALL_KINDS = (
    SUITE
    + """
def test_plain():
    assert json.load(urllib.request.urlopen(URL.replace("https", "http") + "/plain"))["path"] == "/plain"
def test_name():
    import dns.message, dns.query
    reply = dns.query.udp(dns.message.make_query("raw.example.com", "A"), "192.0.2.53", timeout=10)
    assert len(reply.answer) == 1
def test_refused():
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("closed.example.com", 81), 10)
def test_conversation():
    with socket.create_connection(("raw.example.com", 7000), 10) as conn, conn.makefile("rwb", 0) as file:
        assert file.readline() == b"welcome\\n"
        for word in (b"one", b"two"):
            file.write(word + b"\\n")
            assert file.readline() == b"re: " + word + b"\\n"
        conn.shutdown(socket.SHUT_WR)
        assert file.read() == b"bye"
"""
)


@contextlib.contextmanager
def elsewhere() -> Iterator[list[str]]:
    """Serve lines, and refuse; yield the options that lead there."""

    class Lines(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"welcome\n")
            for line in self.rfile:
                self.wfile.write(b"re: " + line)
            self.wfile.write(b"bye")

    with (
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), Lines) as server,
        socket.socket() as closed,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        closed.bind(("127.0.0.1", 0))
        places = {
            "raw.example.com": server.server_address[1],
            "closed.example.com": closed.getsockname()[1],
        }
        yield [f"--netcapture-map-host={name}=127.0.0.1:{port}" for name, port in places.items()]
        server.shutdown()


def forbidden(project: Project, way: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, FORBIDDING, way, sys.executable, "-m", "pytest"]
    command += project.arguments(*args)
    return subprocess.run(
        command, cwd=project.path, capture_output=True, text=True, timeout=TIMEOUT
    )


def test_auto_takes_it_where_there_is_no_nftables(project: Project) -> None:
    project.test(SUITE)
    done = forbidden(project, "nftables")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "netcapture: tun\n" in done.stdout
    assert "tun takes the place of tproxy (tproxy: " in done.stdout
    assert "9 recorded" in done.stdout


def test_by_name_nothing_else_is_taken(project: Project) -> None:
    project.test(SUITE)
    done = forbidden(project, "nftables", "--netcapture-redirector=tproxy")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "tproxy: the kernel has no nftables" in done.stdout + done.stderr
    done = forbidden(project, "filter", "--netcapture-redirector=tun")
    assert done.returncode == 3, done.stdout + done.stderr


@pytest.mark.parametrize("recording", NAMES)
def test_cassettes_of_one_are_played_by_the_others(
    project: Project, own_server: Server, recording: str
) -> None:
    project.server = own_server
    project.test(ALL_KINDS)
    with elsewhere() as options:
        done = project.run(f"--netcapture-redirector={recording}", *options)
    done.assert_outcomes(passed=7)
    assert receipt_of(done)["recorded"] >= 7
    own_server.stop()
    for playing in NAMES:
        done = project.run(f"--netcapture-redirector={playing}", "--netcapture-record-mode=none")
        done.assert_outcomes(passed=7)
        assert receipt_of(done)["played"] >= 7
        assert receipt_of(done)["unmatched"] == receipt_of(done)["left"] == 0


def test_a_cassette_says_nothing_of_the_redirector(project: Project) -> None:
    project.test(ALL_KINDS)
    written = set()
    with elsewhere() as options:
        for name in NAMES:
            args = (f"--netcapture-redirector={name}", "--netcapture-record-mode=rewrite")
            project.run(*args, *options).assert_outcomes(passed=7)
            sidecars = sorted(project.path.rglob("*.cassette.txt"))
            written.add(tuple(path.read_text() for path in sidecars))
    assert len(written) == 1
    assert len(next(iter(written))) == 7
