"""Real HTTP/2 servers on loopback: nginx for files, hypercorn for what streams (web_app.py)."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

HOST = "api.example.com"
HERE = Path(__file__).parent
TIMEOUT = 20
BIG = os.urandom(1 << 16) * 48


class Web(NamedTuple):
    """A running server: its ports, and how it is found. HTTP/3 is at the UDP port of HTTPS."""

    https: int
    http: int
    ca: str

    @property
    def mappings(self) -> list[str]:
        return [f"{HOST}:443=127.0.0.1:{self.https}", f"{HOST}:80=127.0.0.1:{self.http}"]


def certificates(folder: Path) -> tuple[str, str, str]:
    """Return the paths of a CA, a certificate chain and its key."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    leaf = ca.issue_cert(HOST, "127.0.0.1")
    leaf.private_key_pem.write_to_path(str(folder / "key.pem"))
    for pem in leaf.cert_chain_pems:
        pem.write_to_path(str(folder / "chain.pem"), append=True)
    return str(folder / "ca.pem"), str(folder / "chain.pem"), str(folder / "key.pem")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


@contextlib.contextmanager
def running(command: list[str], ports: list[int], **options) -> Iterator[None]:
    """Run a server until the end; it is there when its ports answer."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, **options) as process:
        try:
            for port in ports:
                _wait_for(process, port)
            yield
        finally:
            process.kill()


def _wait_for(process: subprocess.Popen, port: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server has ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        select.select([], [], [], 0.02)
    raise AssertionError(f"nobody listens on port {port}")


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[Web]:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    ca, chain, key = certificates(folder)
    https, http = free_ports(2)
    (folder / "a").write_bytes(b"hello from nginx")
    (folder / "big").write_bytes(BIG)
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{name}_temp_path {folder}/{name};" for name in paths)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/log;"
        f"events {{}} http {{ access_log off; {temporary} client_max_body_size 1g; server {{"
        f" listen 127.0.0.1:{https} ssl http2; listen 127.0.0.1:{http} http2;"
        f" ssl_certificate {chain}; ssl_certificate_key {key}; root {folder};"
        f" location /close {{ keepalive_requests 1; alias {folder}/a; }} }} }}"
    )
    command = [program, "-e", f"{folder}/log", "-c", str(folder / "nginx.conf")]
    with running(command, [https, http]):
        yield Web(https, http, ca)


@contextlib.contextmanager
def hypercorn(folder: Path, *, http3: bool = False) -> Iterator[Web]:
    ca, chain, key = certificates(folder)
    https, http = free_ports(2)
    command = [
        *(sys.executable, "-m", "hypercorn", "web_app:app", "--workers", "0"),
        *("--bind", f"127.0.0.1:{https}", "--insecure-bind", f"127.0.0.1:{http}"),
        *(("--quic-bind", f"127.0.0.1:{https}") if http3 else ()),
        *("--certfile", chain, "--keyfile", key, "--log-level", "CRITICAL"),
    ]
    with running(command, [https, http], cwd=HERE):
        if http3:
            _wait_for_http3(https, ca)
        yield Web(https, http, ca)


def _wait_for_http3(port: int, ca: str) -> None:
    """Wait until it answers: its socket is there long before its worker reads from it."""
    command = [sys.executable, HERE / "programs/get3.py", "--quick", "--ca", ca]
    deadline = time.monotonic() + 3 * TIMEOUT
    while time.monotonic() < deadline:
        asked = [*command, "127.0.0.1", str(port), "GET:/ready"]
        done = subprocess.run(asked, capture_output=True, text=True)
        if done.stdout.startswith("GET /ready 200"):
            return
    raise AssertionError(f"no HTTP/3 at port {port}: {done.stdout}{done.stderr}")
