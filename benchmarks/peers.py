"""The same load through mitmproxy (regular proxy), next to direct: for scale, without a bar."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from figures import Row, median_ratio
from https import CLIENTS, build_load, rate
from lab import Lab, Missing
from server import free_port

_KINDS = {"requests/s, kept alive": ("-keep",), "new connections/s": ()}


def measure(lab: Lab) -> Iterator[Row]:
    mitmdump = _install(lab)
    load = build_load(lab)
    path = lab.server.file("small", 1024)
    port = free_port()
    home = lab.path("mitmproxy")
    command = [mitmdump, "-q", "--set", "flow_detail=0", "--set", f"confdir={home}"]
    command += ["--set", f"ssl_verify_upstream_trusted_ca={lab.server.ca}"]
    command += ["--listen-host", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            for what, options in _KINDS.items():
                yield _row(
                    lab,
                    what,
                    [load, "-c", str(CLIENTS), "-d", f"{lab.seconds}s", *options],
                    path,
                    ["-ca", f"{home}/mitmproxy-ca-cert.pem", "-proxy", f"127.0.0.1:{port}"],
                )
        finally:
            process.terminate()


def _row(lab: Lab, what: str, load: list[str], path: str, through: list[str]) -> Row:
    address = f"localhost:{lab.server.https}"
    url = f"https://localhost{path}"
    direct, proxied = [], []
    for _ in range(lab.rounds):
        near = ["-ca", lab.server.ca, "-connect", address, url]
        direct.append(rate(lab.run([*load, *near])))
        proxied.append(rate(lab.run([*load, *through, "-connect", address, url])))
    note = f"{statistics.median(proxied):,.0f}/s"
    return Row(f"{what}: mitmproxy / direct", median_ratio(proxied, direct), note=note)


def _install(lab: Lab) -> str:
    """Return mitmdump of a virtual environment that goes with the folder."""
    venv = lab.path("venv-mitmproxy")
    program = os.path.join(venv, "bin", "mitmdump")
    try:
        lab.run([sys.executable, "-m", "venv", venv])
        lab.run([f"{venv}/bin/pip", "install", "-q", "--retries", "1", "mitmproxy"], timeout=300)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        reason = re.sub(r"\s+", " ", str(error))[-120:]
        raise Missing(f"pip cannot install mitmproxy: {reason}") from None
    return program


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError("mitmdump did not start within 20 s")
