"""Ten cases in which other recorders differ from the network: the same without us, recorded, and played."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from engine_lab import in_sandbox, reset, serving, settings
from web_servers import HOST, free_ports, hypercorn

PROGRAM = Path(__file__).parent / "programs/ten_cases.py"
EVENTS = [repr(b"data: %d\n\n" % number) for number in range(3)]
CASES = {
    "sse, requests.iter_lines": [repr(b"data: %d" % number) for number in range(3)],
    "sse, requests.iter_content": EVENTS,
    "sse, httpx.iter_bytes": EVENTS,
    "sse, httpx.iter_raw": EVENTS,
    "sse, aiohttp.iter_any": EVENTS,
    "redirect with a cookie": ["/final 1 ['a'] a"],
    "binary": ["256000 "],
    "refused": ["ConnectionError ConnectionRefusedError"],
    "reset in the body": ["b'half'", "ChunkedEncodingError ConnectionResetError"],
    "HTTP/2": ["HTTP/2 GET /a 0"],
}
pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with hypercorn(tmp_path_factory.mktemp("hypercorn")) as web:
        yield web


@pytest.fixture(scope="module")
def breaking():
    """Sends half of a body, and resets the connection when that was taken."""

    def handle(conn):
        conn.recv(65536)
        conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        while _unsent(conn):
            pass
        reset(conn)

    with serving(handle) as server:
        yield server


def _unsent(conn):
    """Tell whether bytes are not acknowledged yet: SIOCOUTQ of tcp(7)."""
    import fcntl
    import struct

    return struct.unpack("i", fcntl.ioctl(conn, 0x5411, bytes(4)))[0]


@pytest.mark.shows(
    "HTTP/1.1",
    "recorded",
    "replayed",
    clients=["requests", "httpx", "aiohttp"],
    servers=["hypercorn"],
)
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_same_without_us_recorded_and_played(case, app, breaking, tmp_path):
    scheme = "https" if case in ("HTTP/2", "binary", "redirect with a cookie") else "http"
    port = app.https if scheme == "https" else app.http
    if case == "refused":
        (port,) = free_ports(1)
    elif case == "reset in the body":
        port = breaking.port

    def said(base, environ):
        command = [sys.executable, PROGRAM, case, base]
        done = subprocess.run(command, capture_output=True, timeout=25, text=True, env=environ)
        assert done.returncode == 0, done.stderr[-1500:]
        return done.stdout.splitlines()

    named = dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), app.ca)
    direct = said(f"{scheme}://127.0.0.1:{port}", os.environ | named)
    wanted = CASES[case]
    assert [line[: len(start)] for line, start in zip(direct, wanted, strict=True)] == wanted

    def client(_):
        return said(f"{scheme}://{HOST}", dict(os.environ))

    cassette = tmp_path / "a.cassette"
    number = socket.getservbyname(scheme)
    mapped = [f"{HOST}:{number}=127.0.0.1:{port}"]
    record = settings(mappings=mapped, ca=[app.ca], cassette=cassette)
    assert in_sandbox(client, record) == direct
    assert in_sandbox(client, settings(cassette=cassette, mode="none")) == direct
