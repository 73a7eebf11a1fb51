"""Twenty-nine ways out of a test: none is open when the network is blocked, all are seen when not.

The ways are those of `suite/`, judged at the server (`machine.py`). Nothing else than netcapture stands
in between: without it all of them lead out, which is tested first.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.live
HERE = Path(__file__).parent

OUT = [
    "requests_",
    "urllib_",
    "httpx_sync",
    "httpx_async",
    "aiohttp_",
    "requests_in_thread",
    "raw_tcp_connect",
    "raw_tcp_connect_ex",
    "asyncio_open_connection",
    "uvloop_open_connection",
    "udp_sendto",
    "c_socket_type",
    "ctypes_connect",
    "pycurl_",
    "curl_cffi_",
    "grpcio_sync",
    "grpcio_aio",
    "psycopg_libpq",
    "websockets_sync",
    "websockets_asyncio",
    "getaddrinfo_",
    "subprocess_python",
    "subprocess_curl",
    "subprocess_node",
    "multiprocessing_fork",
    "multiprocessing_spawn",
    "at_import",
    "session_fixture",
    "at_exit",
]
NAMES_ONLY = "getaddrinfo_"
"""Sends no more than a lookup: it is stopped or not, but makes no conversation to be seen."""

OTHERS = {
    "subprocess_python": "python",
    "subprocess_curl": "curl",
    "subprocess_node": "node",
    "multiprocessing_fork": "python",
    "multiprocessing_spawn": "python",
}
"""Probes whose traffic is another process's, and how its name begins."""

NOT_IN_PYTHON = {"uvloop_open_connection", "ctypes_connect", "pycurl_", "curl_cffi_"}
NOT_IN_PYTHON |= {"grpcio_sync", "grpcio_aio", "psycopg_libpq"}
"""Probes of the test process that connect in C: no Python line is known."""

LINES = {"at_import": "urllib_", "session_fixture": "urllib_", "at_exit": "urllib_"} | {
    "requests_in_thread": "requests_",
    "aiohttp_": "ask",
    "websockets_asyncio": "ask",
    "asyncio_open_connection": "_open",
}
"""The function whose line connected, where it is not the probe itself."""


class Run:
    """One run of the suite on a machine of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        for program in ("curl", "node"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed")
        shutil.copytree(HERE / "suite", folder / "suite")
        seen = folder / "seen.json"
        command = [sys.executable, "-m", "pytest", "suite.py", "-p", "no:cacheprovider"]
        command += [
            "-p",
            "no:randomly",
            "-p",
            "no:xdist",
            "--confcutdir=.",
            "--rootdir=.",
            *options,
        ]
        wanted = {
            "probes": OUT,
            "name": "probe.example.com",
            "name_door": NAMES_ONLY,
            "command": command,
            "cwd": str(folder / "suite"),
            "env": {"SEEN": str(seen), "NETCAPTURE_UPSTREAM": "any", "TMPDIR": str(folder)},
        }
        ran = subprocess.run(
            [sys.executable, str(HERE / "machine.py")],
            input=json.dumps(wanted),
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert ran.returncode == 0, ran.stderr
        told = json.loads(ran.stdout)
        self.arrived: list[str] = told["arrived"]
        self.status: int = told["status"]
        self.output: str = told["output"]
        self.ports: dict[str, int] = {name: port for name, (_, port) in told["doors"].items()}
        self.seen: dict[str, list[dict[str, Any]]] = (
            json.loads(seen.read_text()) if seen.exists() else {}
        )

    def at(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        """Return what was seen to go to a probe's door: (test, flow)."""
        port = self.ports[name]
        return [(test, f) for test, flows in self.seen.items() for f in flows if f["port"] == port]


def scope_of(name: str) -> str:
    if name in {"at_import", "at_exit"}:
        return "the session"
    return "test_session_fixture" if name == "session_fixture" else f"test_probe[{name}]"


def test_without_netcapture_all_lead_out(tmp_path: Path) -> None:
    assert len(OUT) == 29
    run = Run(tmp_path)
    assert run.status == 0, run.output
    assert run.arrived == sorted(OUT), run.output


def test_29_of_29_are_stopped(tmp_path: Path) -> None:
    run = Run(tmp_path, "--netcapture", "--netcapture-block")
    assert run.arrived == [], run.output
    assert run.status == 1, run.output
    failed = set(re.findall(r"^(?:FAILED|ERROR) suite.py::(\S+)", run.output, re.MULTILINE))
    assert failed == {scope_of(name) for name in OUT} - {"the session"}, run.output
    told = {name for name in OUT if f"blocked: TCP 203.0.113.10:{run.ports[name]}" in run.output}
    assert told == set(OUT) - {NAMES_ONLY, "udp_sendto"}, run.output


def test_28_of_28_are_seen_in_their_scope(tmp_path: Path) -> None:
    run = Run(tmp_path, "--netcapture")
    assert run.status == 0, run.output
    assert run.arrived == sorted(OUT), run.output
    conversations = [name for name in OUT if name != NAMES_ONLY]
    where = {name: {test for test, _ in run.at(name)} for name in conversations}
    assert where == {name: {scope_of(name)} for name in conversations}
    who = {name: {(f["own"], f["process"]) for _, f in run.at(name)} for name in conversations}
    for name, found in who.items():
        ((own, process),) = found
        assert own == (name not in OTHERS), (name, process)
        assert process.startswith(OTHERS.get(name, "python")), (name, process)
    in_python = [n for n in conversations if n not in NOT_IN_PYTHON and n not in OTHERS]
    lines = {name: {tuple(f["line"]) for _, f in run.at(name)} for name in in_python}
    assert lines == {name: {(LINES.get(name, name),)} for name in in_python}
    (lookup,) = [
        f for f in run.seen["test_probe[getaddrinfo_]"] if f["host"] == "probe.example.com"
    ][:1]
    assert lookup["protocol"] == "dns"
