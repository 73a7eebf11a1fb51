"""Programs that make their calls by themselves: a static Go one, Java, Node.js."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import subprocess
from pathlib import Path

import pytest
from ebpf_lab import OUTSIDE, OUTSIDE_V6, Lab, needs_ebpf

pytestmark = pytest.mark.live
PROGRAMS = Path(__file__).parent.parent / "clients" / "programs"
V4, V6 = f"http://{OUTSIDE[0]}:{OUTSIDE[1]}/", f"http://[{OUTSIDE_V6[0]}]:{OUTSIDE_V6[1]}/"


@pytest.fixture(scope="module", autouse=True)
def _needs_ebpf():
    needs_ebpf()


def go(tmp_path):
    environ = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOPROXY": "off"}
    target = str(tmp_path / "get")
    command = ["go", "build", "-o", target, str(PROGRAMS / "get.go")]
    subprocess.run(command, check=True, env=environ, capture_output=True)
    return [target]


def java(tmp_path):
    command = ["javac", "-d", str(tmp_path), str(PROGRAMS / "Client.java")]
    subprocess.run(command, check=True, capture_output=True)
    return ["java", "-cp", str(tmp_path), "Client"]


def node(tmp_path):
    return ["node", str(PROGRAMS / "fetch.js")]


def _patiently(lab):
    """Return the connection; a JVM takes seconds to start on a busy machine."""
    for _ in range(5):
        with contextlib.suppress(queue.Empty):
            return lab.stream()
    return lab.stream()


@pytest.mark.parametrize("url", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("client", [go, java, node])
def test_it_is_captured(client, url, tmp_path):
    if shutil.which(client.__name__) is None:
        pytest.skip(f"needs {client.__name__}")
    command = [*client(tmp_path), url]
    lab = Lab(client.__name__ if client is not go else "get")
    try:
        program = lab.start(lambda: subprocess.run(command, capture_output=True, text=True))
        stream = _patiently(lab)
        assert b"GET / HTTP/1.1" in stream.socket.recv(4096)
        stream.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        done = program.result()
        assert "hello" in done.stdout, done
    finally:
        lab.close()
