"""Where things are measured: one folder, one server, programs run directly or in a sandbox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from server import NAME, Server

HERE = os.path.dirname(os.path.abspath(__file__))


class Missing(Exception):
    """This machine lacks what a measurement needs."""


@dataclass(frozen=True)
class Ran:
    """What became of one program: its output, and what the engine spent if there was one."""

    stdout: str
    seconds: int
    cpu: float = 0.0
    peak: int = 0
    save: float = 0.0


@dataclass
class Lab:
    """One run of the benchmarks. `rounds` is how often each variant is measured.

    With `peers` others' programs are measured as well.
    """

    folder: str
    start_server: Callable[[], Server]
    rounds: int
    seconds: int
    say: Callable[[str], None]
    peers: bool = False

    @cached_property
    def server(self) -> Server:
        return self.start_server()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "NETCAPTURE_UPSTREAM": "loopback"}

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def run(self, program: Sequence[str], **more: Any) -> str:
        """Run a program as it is; return what it printed."""
        options: dict[str, Any] = {"env": self.environment, **more}
        done = subprocess.run(program, capture_output=True, text=True, check=False, **options)
        if done.returncode:
            raise RuntimeError(f"{program[0]} failed: {(done.stdout + done.stderr)[-800:]}")
        return done.stdout

    def sandboxed(self, program: Sequence[str], *options: str) -> Ran:
        """Run a program whose traffic to `NAME` reaches the server through an engine."""
        mapped = f"{NAME}=127.0.0.1:{self.server.https}"
        command = [sys.executable, os.path.join(HERE, "sandboxed.py"), "--map-host", mapped]
        command += ["--upstream-ca", self.server.ca, *options, "--", *program]
        told = json.loads(self.run(command).splitlines()[-1])
        fields = ("stdout", "seconds", "cpu", "peak", "save")
        return Ran(**{field: told[field] for field in fields})

    def recording_of(self, path: str) -> str:
        """Return a cassette that holds one GET of `path`."""
        cassette = self.path(f"{path.strip('/')}.cassette")
        if not os.path.exists(cassette):
            url = f"https://{NAME}{path}"
            self.sandboxed([program("curl"), "-sSf", "-o", "/dev/null", url], "--record", cassette)
        return cassette


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/go/bin")
    if found is None:
        raise Missing(f"{name} is not installed")
    return found
