"""A project in a temporary folder, its own pytest in a process of its own, and real servers for it.

A sandbox is entered by a fresh process with one thread, so every scenario runs in a subprocess
(`pytester.runpytest_subprocess`), and one such run costs half a second: scenarios are grouped.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

HOST = "api.example.com"
URL = f"https://{HOST}"
_ASKED = os.environ.get("NETCAPTURE_TEST_REDIRECTOR")
REDIRECTOR = [f"--netcapture-redirector={_ASKED}"] if _ASKED else []
HERE = Path(__file__).parent
TIMEOUT = 60
QUIET = (
    "hypothesispytest",
    "randomly",
    "cov",
    "anyio",
    "asyncio",
    "timeout",
    "cacheprovider",
    "xdist",
    "pytest_forked",
    "rerunfailures",
)
"""Plugins that a scenario does without unless it asks: they double the time of a run."""


class Server(NamedTuple):
    """A running https_server.py."""

    process: subprocess.Popen[str]
    https: int
    http: int
    ca: str

    def stop(self) -> None:
        """End it and wait until it has: its ports are closed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(TIMEOUT)
        self.process.stdout.close()

    def options(self) -> list[str]:
        """Return what makes api.example.com lead here, the certificate trusted."""
        return [
            f"--netcapture-map-host={HOST}:443=127.0.0.1:{self.https}",
            f"--netcapture-map-host={HOST}:80=127.0.0.1:{self.http}",
            f"--netcapture-upstream-ca={self.ca}",
        ]


def start_server(certificates: tuple[str, str]) -> Server:
    ca, leaf = certificates
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(HERE / "https_server.py"), leaf],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    return Server(process, told["https"], told["http"], ca)


class Project:
    """A folder with tests, and pytest to run them."""

    def __init__(self, pytester: pytest.Pytester, server: Server, temp: Path) -> None:
        self.pytester = pytester
        self.server = server
        self.path = pytester.path
        self.temp = temp

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_dedented(text))
        return path

    def test(self, text: str, name: str = "test_it.py") -> Path:
        """Write a test module that knows `URL`, and has the usual imports."""
        return self.write(name, _PRELUDE + _dedented(text))

    def arguments(self, *args: str, netcapture: bool = True, use: str = "") -> list[str]:
        quiet = [part for name in QUIET if name not in use.split() for part in ("-p", f"no:{name}")]
        on = ["--netcapture", *REDIRECTOR, *self.server.options()] if netcapture else []
        return [*quiet, *on, *args]

    def run(self, *args: str, netcapture: bool = True, use: str = "") -> pytest.RunResult:
        """Run pytest. `use`: the plugins, of those that are off by default, that take part."""
        given = self.arguments(*args, netcapture=netcapture, use=use)
        return self.pytester.runpytest_subprocess(*given, timeout=TIMEOUT)

    def popen(self, *args: str, **kwargs: Any) -> subprocess.Popen[bytes]:
        """Start pytest and do not wait for it."""
        command = [sys.executable, "-m", "pytest", *self.arguments(*args)]
        return subprocess.Popen(command, cwd=self.path, **kwargs)

    def cassettes(self) -> list[str]:
        """Return the cassettes in the folder, relative to it."""
        found = self.path.rglob("*.cassette")
        return sorted(str(path.relative_to(self.path)) for path in found)

    def left_behind(self) -> list[str]:
        """Return what a session has left: in the temporary folder, and journals beside cassettes.

        The engine, no child of ours, cleans up when it sees that the session's process has ended.
        """
        deadline = time.monotonic() + TIMEOUT
        while (left := self._left()) and time.monotonic() < deadline:
            select.select([], [], [], 0.01)
        return left

    def _left(self) -> list[str]:
        left = [str(p) for p in self.temp.iterdir() if p.name.startswith("netcapture")]
        return left + [str(p) for p in self.path.rglob("*.journal")]


_PRELUDE = f"""\
import json, os, socket, subprocess, sys, threading, time, urllib.request
import pytest
URL = {URL!r}
def get(path, method="GET", data=None, headers={{}}):
    request = urllib.request.Request(URL + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode()
def swallow(path, **kwargs):
    try:
        get(path, **kwargs)
    except Exception:
        pass
"""
PRELUDE_LINES = _PRELUDE.count("\n")


def _dedented(text: str) -> str:
    return textwrap.dedent(text)


RECEIPT = re.compile(
    r"netcapture: (?P<flows>\d+) flows? · (?P<played>\d+) played · (?P<recorded>\d+) recorded"
    r" · (?P<unmatched>\d+) unmatched · (?P<unused>\d+) unused · (?P<blocked>\d+) blocked"
    r" · (?P<left>\d+) packets? left this machine"
)


def receipt_of(result: pytest.RunResult) -> dict[str, int]:
    """Return the numbers of the run's receipt, which is one line."""
    found = [match for line in result.outlines if (match := RECEIPT.fullmatch(line.strip()))]
    assert len(found) == 1, result.stdout.str()
    return {name: int(value) for name, value in found[0].groupdict().items()}
