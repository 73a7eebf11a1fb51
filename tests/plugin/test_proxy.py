"""`netcapture proxy`: clients outside of any sandbox, captured since they take a proxy."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.live
COMMAND = [sys.executable, "-c", "from pytest_netcapture.cli.main import main; main()", "proxy"]


class Proxy:
    """One that runs: the ports of its modes, and the file that clients are to trust."""

    def __init__(self, process):
        self.process = process
        self.urls = {}
        self.ca = ""
        while not self.ca:
            line = process.stderr.readline()
            assert line, process.wait(20)
            if url := re.fullmatch(r"netcapture: (\w+)://127.0.0.1:(\d+)\n", line):
                self.urls[url[1]] = f"{url[1]}://127.0.0.1:{url[2]}"
            elif trusted := re.search(r"are to trust (\S+); Ctrl-C ends it", line):
                self.ca = trusted[1]

    def end(self):
        """End it as Ctrl-C does; return its exit status and what it said."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


@pytest.fixture
def proxy(project):
    with contextlib.ExitStack() as stack:

        def start(*options):
            command = [*COMMAND, "--mode", "regular@0", "--mode", "socks5@0"]
            server = [option.replace("--netcapture-", "--") for option in project.server.options()]
            process = subprocess.Popen(
                [*command, *server, *options], stderr=subprocess.PIPE, text=True, cwd=project.path
            )
            stack.callback(process.wait, 20)
            stack.callback(process.kill)
            return Proxy(process)

        yield start


def curl(*arguments, status=0):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    environ = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    command = ["curl", "-sS", "--max-time", "20", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60)
    assert done.returncode == status, done.stderr
    return done.stdout


@pytest.mark.parametrize("mode", ["http", "socks5h"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_curl_through_each_mode(proxy, mode, scheme):
    running = proxy()
    target = f"{scheme}://api.example.com/status/201"
    told = curl("-w", "%{http_code}", "-x", running.urls[mode], "--cacert", running.ca, target)
    assert told.endswith("201")
    status, said = running.end()
    assert status == 0
    assert f"GET {target} → 201" in said
    assert re.search(r"^netcapture: .* flows .*$", said, re.MULTILINE)


def test_recorded_and_replayed(proxy, project):
    running = proxy("--record", "a.cassette")
    ask = ("--cacert", running.ca, "-x", running.urls["http"], "https://api.example.com/count")
    first = curl(*ask)
    running.end()
    running = proxy("--replay", "a.cassette")
    ask = ("--cacert", running.ca, "-x", running.urls["socks5h"], "https://api.example.com/count")
    assert curl(*ask) == first
    status, said = running.end()
    assert status == 0
    assert "[played]" in said


def test_a_reverse_proxy(project):
    """To clients it is the server, without TLS; what it says to the server is decrypted and named."""
    server = [option.replace("--netcapture-", "--") for option in project.server.options()]
    command = [*COMMAND, "--mode", "reverse:https://api.example.com/status@0", *server]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            running = Proxy(process)
            told = curl("-w", "%{http_code}", f"{running.urls['http']}/201?x=1", "-d", "some=thing")
            assert told.endswith("201")
            status, said = running.end()
        finally:
            process.kill()
    assert status == 0
    assert "POST https://api.example.com/status/201?x=1 → 201" in said


def test_what_is_blocked_fails_the_client_and_the_run(proxy):
    running = proxy("--block")
    told = curl("-x", running.urls["http"], "http://api.example.com/x")
    assert "netcapture: api.example.com:80: " in told
    curl("-x", running.urls["socks5h"], "http://api.example.com/x", status=97)
    status, said = running.end()
    assert status == 1
    assert "blocked: DNS api.example.com" in said


def test_clients_that_speak_something_else(proxy):
    running = proxy()
    for mode, sent, answer in (
        ("http", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n"),
        ("http", b"CONNECT x HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n"),
        ("http", b"x" * 100_000, b"HTTP/1.1 431 Request Header Fields Too Large\r\n"),
        ("http", b"", b""),
        ("socks5h", b"\x05\x01\x02", b"\x05\xff"),
        ("socks5h", b"\x04\x01\x00\x50", b"\x05\xff"),
        ("socks5h", b"\x05\x01\x00\x05\x03\x00\x01" + bytes(6), b"\x05\x00\x05\x07"),
        ("socks5h", b"\x05\x01\x00\x05\x01\x00\x09" + bytes(6), b"\x05\x00\x05\x08"),
        ("socks5h", b"\x05\x01\x00\x05", b"\x05\x00"),
    ):
        port = int(running.urls[mode].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as conn:
            with contextlib.suppress(ConnectionError):
                conn.sendall(sent)
                conn.shutdown(socket.SHUT_WR)
            got = b""
            with contextlib.suppress(ConnectionError):
                got = b"".join(iter(lambda c=conn: c.recv(65536), b""))
            assert got.startswith(answer), sent[:40]
    assert running.end()[0] == 0


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        ("transparent", "'transparent' is none"),
        ("reverse:api.example.com", "'api.example.com' is no URL"),
        ("regular@x", "'x' is no port"),
        ("socks5@70000", "70000"),
    ],
)
def test_bad_modes(mode, problem):
    done = subprocess.run([*COMMAND, "--mode", mode], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert problem in done.stderr


def test_a_port_that_is_taken(project):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        mode = f"regular@{taken.getsockname()[1]}"
        done = subprocess.run(
            [*COMMAND, "--mode", mode], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 2
    assert str(taken and mode.partition("@")[2]) in done.stderr
