"""The rooms of docs/architecture.md stay apart: who imports whom, and what is public."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_netcapture

ROOT = Path(pytest_netcapture.__file__).parent
ROOMS = ("sandbox", "redirect", "cassettes")
HEAVY = ("asyncio", "cryptography", "dns", "httptools", "pyroute2", "rich", "uvloop")

PUBLIC = {
    "CassetteError",
    "EngineGone",
    "EnvironmentProblem",
    "Mismatch",
    "NetcaptureError",
    "Response",
    "UsageError",
}
FIXTURE = {
    "allow",
    "assert_all_mocks_used",
    "assert_concurrency",
    "assert_connected",
    "assert_encrypted",
    "assert_no_traffic",
    "assert_not_requested",
    "assert_order",
    "assert_requested",
    "assert_resolved",
    "assert_retried",
    "block",
    "blocked",
    "cassette",
    "dns",
    "fault",
    "flows",
    "grpc",
    "http",
    "map_host",
    "mock",
    "mock_dns",
    "mock_openapi",
    "mongo",
    "passthrough",
    "popen",
    "publish",
    "redis",
    "run",
    "save",
    "smtp",
    "snapshot",
    "sql",
    "tcp",
    "tls_failures",
    "udp",
    "wait_for",
    "websockets",
}
OPTIONS = {
    "allow",
    "auto-cassette",
    "block",
    "cassette-dir",
    "chaos",
    "chaos-expect",
    "chaos-report",
    "chaos-wait",
    "http3",
    "keep",
    "keep-dir",
    "loopback",
    "map-host",
    "packets",
    "passthrough",
    "record-mode",
    "redirector",
    "replay-speed",
    "report",
    "strict",
    "upstream-ca",
}


def modules(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Every module named in an import statement of `path`, wherever it stands, type hints included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def offenders(path: Path, *forbidden: str) -> list[str]:
    return [
        name
        for name in sorted(imported(path))
        if any(name == one or name.startswith(f"{one}.") for one in forbidden)
    ]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def loaded_after(*names: str) -> set[str]:
    """The modules that a fresh interpreter has after importing `names`."""
    code = f"import json, sys, {', '.join(names)}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("path", modules(*ROOMS), ids=name_of)
def test_rooms_know_neither_pytest_nor_each_other(path):
    room = name_of(path).partition("/")[0]
    others = [f"pytest_netcapture.{other}" for other in ROOMS if other != room]
    outer = [
        f"pytest_netcapture.{name}" for name in ("engine", "session", "plugin", "active", "cli")
    ]
    assert offenders(path, "pytest", "_pytest", *others, *outer) == []


@pytest.mark.parametrize("path", modules("engine/layers"), ids=name_of)
def test_layers_do_no_io(path):
    """But they may turn addresses into text and back, which lives in `socket`."""
    io = ("asyncio", "select", "ssl", "threading", "uvloop", "pytest_netcapture.redirect")
    assert offenders(path, *io) == []
    assert "socket.socket" not in path.read_text()


@pytest.mark.parametrize("path", modules("engine"), ids=name_of)
def test_the_engine_knows_no_pytest(path):
    names = ("plugin", "active", "session", "capture", "report", "cli")
    assert offenders(path, "pytest", "_pytest", *(f"pytest_netcapture.{n}" for n in names)) == []


def test_the_test_process_imports_nothing_heavy():
    ours = loaded_after("pytest_netcapture.session", "pytest_netcapture.active")
    plain = loaded_after("pytest")
    engine = {m for m in ours if m.startswith("pytest_netcapture.engine")}
    heavy = {m for m in ours - plain if m.partition(".")[0] in HEAVY}
    assert engine | heavy == set()


def test_switched_off_the_plugin_imports_little():
    added = loaded_after("pytest", "pytest_netcapture.plugin") - loaded_after("pytest", "msgspec")
    ours = {m for m in added if m.startswith("pytest_netcapture")}
    assert ours <= {
        "pytest_netcapture",
        "pytest_netcapture.errors",
        "pytest_netcapture.hooks",
        "pytest_netcapture.options",
        "pytest_netcapture.plugin",
        "pytest_netcapture.settings",
    }


def test_public_names():
    assert set(pytest_netcapture.__all__) == PUBLIC
    assert all(hasattr(pytest_netcapture, name) for name in PUBLIC)


def test_names_of_the_fixture():
    from pytest_netcapture.capture import Netcapture

    assert {name for name in dir(Netcapture) if not name.startswith("_")} == FIXTURE


def test_names_of_the_options():
    from pytest_netcapture import options

    assert {option.name for option in options.OPTIONS} == OPTIONS
