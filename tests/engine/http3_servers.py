"""Real HTTP/3 servers on loopback: quic-go's, and aioquic's as hypercorn has it (web_servers.py)."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from web_servers import HOST, certificates

PROGRAMS = Path(__file__).parent / "programs"


class Quic(NamedTuple):
    """A running server that speaks QUIC only."""

    port: int
    ca: str

    @property
    def mappings(self) -> list[str]:
        return [f"{HOST}:443=127.0.0.1:{self.port}"]


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def quic_server(folder: Path, *command: object) -> Iterator[Quic]:
    """Run `command` with an address, a chain and a key; it says a line when it listens."""
    ca, chain, key = certificates(folder)
    port = free_udp_port()
    line = [*map(str, command), f"127.0.0.1:{port}", chain, key]
    with subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield Quic(port, ca)
        finally:
            process.kill()
