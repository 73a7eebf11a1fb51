"""Every client, unchanged, reaches an HTTPS server through the sandbox, decrypted and attributed.

What cannot be made to trust us is relayed on its retry, and named.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from typing import NamedTuple

import engine_lab
import pytest
from building import Builder, shared_directory
from clients import CLIENTS, COMPILED_IN, OWN_ROOTS, Client
from engine_lab import Authority, in_sandbox, serving, settings

pytestmark = pytest.mark.live

HOST = "api.example.com"
PATIENCE = 90
"""Seconds that a client may take: a cold Java, npm or Chromium on a busy machine."""

PAGES = {
    "/hello": ("text/html", b"hello"),
    "/simple/hello/": ("text/html", b"<!DOCTYPE html><html><body>none yet</body></html>"),
    "/npm/-/ping": ("application/json", b"{}"),
    "/index/config.json": ("application/json", b'{"dl": "https://%s/dl"}' % HOST.encode()),
    "/repository.git/info/refs": (
        "application/x-git-upload-pack-advertisement",
        b"001e# service=git-upload-pack\n00000049%s refs/heads/hello\0agent=none\n0000"
        % (b"1" * 40),
    ),
}


def serve(conn) -> None:
    """Answer each request by its path; HTTP/1.1 connections are kept."""
    stream = conn.makefile("rb")
    while line := stream.readline():
        target = line.split()[1].decode().partition("?")[0]
        close = b"HTTP/1.0" in line
        while field := stream.readline().strip().lower():
            close = close or field == b"connection: close"
        kind, body = PAGES.get(target, ("text/plain", b""))
        status = b"200 OK" if target in PAGES else b"404 Not Found"
        head = b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n"
        conn.sendall(head % (status, kind.encode(), len(body)) + b"\r\n" + body)
        if close:
            conn.unwrap()
            return


class Seen(NamedTuple):
    protocol: str
    text: str
    process: str
    reason: str


def is_unused(flow) -> bool:
    """Tell whether it is a connection that nothing was sent on: browsers make some in advance."""
    return flow.protocol == "tcp" and not flow.sent


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(engine_lab, "TIMEOUT", PATIENCE + 10)


@pytest.fixture(scope="session")
def builder(tmp_path_factory):
    directory = tmp_path_factory.getbasetemp()
    return Builder(shared_directory(directory, os.environ.get("PYTEST_XDIST_WORKER")))


@pytest.fixture
def home():
    path = tempfile.mkdtemp(prefix="client-home-")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def run(tmp_path, home):
    """`run(client, command)`: its exit status, output and errors, and the flows as text."""

    def run(client: Client, command: list[str], *, times: int = 1):
        ca = Authority(tmp_path)
        words = {"url": f"https://{HOST}{client.path}", "host": HOST, "path": client.path}
        words["ca"] = ca.file
        command = [word.format(**words) for word in command]

        def inside(sandbox):
            environ = {"PATH": os.environ["PATH"]} | ({"HOME": home} if client.home else {})
            environ |= {k: os.environ[k] for k in client.variables if k in os.environ}
            for _ in range(times):
                done = subprocess.run(
                    command,
                    env=environ,
                    input=client.stdin.format(**words).encode(),
                    capture_output=True,
                    timeout=PATIENCE,
                    cwd=home,
                )
            seen = [
                Seen(f.protocol, str(f), f.process.name, getattr(f, "reason", ""))
                for f in sandbox.flows()
                if HOST in str(f) and f.protocol != "dns" and not is_unused(f)
            ]
            return done.returncode, done.stdout.decode(), done.stderr.decode()[-1500:], seen

        with serving(serve, ca.context(HOST)) as server:
            return in_sandbox(inside, settings(mappings=[f"{HOST}={server.at}"], ca=[ca.file]))

    return run


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_client_is_decrypted_and_attributed(client, builder, run):
    command = client.command(builder)
    status, output, errors, seen = run(client, command)
    assert [flow.protocol for flow in seen if flow.protocol != "http"] == [], (seen, errors)
    assert seen, (status, output, errors)
    assert {flow.process for flow in seen} == {client.process or os.path.basename(command[0])}
    assert any(f" https://{HOST}{client.path}" in flow.text for flow in seen), seen
    assert client.says in output, (status, output, errors)


@pytest.mark.parametrize("client", OWN_ROOTS, ids=lambda client: client.name)
def test_a_client_with_roots_of_its_own_works_on_its_retry_and_is_named(client, builder, run):
    status, output, errors, seen = run(client, client.command(builder), times=2)
    assert [flow.protocol for flow in seen] == ["tls", "tcp"], (seen, errors)
    assert "refused our certificate" in seen[1].reason
    assert (status, output.strip()) == (0, client.says)


@pytest.mark.parametrize("client", COMPILED_IN, ids=lambda client: client.name)
def test_a_client_with_compiled_in_roots_is_named(client, builder, run):
    # It does not get through: its roots do not have this server's CA, but those of public servers.
    _, _, errors, seen = run(client, client.command(builder), times=2)
    assert [flow.protocol for flow in seen[:2]] == ["tls", "tcp"], (seen, errors)
    assert "refused our certificate" in seen[1].reason
