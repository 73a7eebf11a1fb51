"""Fixtures of the plugin's tests: a server and a project; the harness itself is plugin_lab.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for plugin_lab

from plugin_lab import HOST, Project, Server, start_server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the paths of a CA and of a server's certificate chain with its key."""
    import trustme

    folder = tmp_path_factory.mktemp("certificates")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    leaf = ca.issue_cert(HOST, f"*.{HOST}", "other.example.com", "127.0.0.1")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(folder / "leaf.pem"))
    return str(folder / "ca.pem"), str(folder / "leaf.pem")


@pytest.fixture(scope="session")
def server(certificates: tuple[str, str]) -> Iterator[Server]:
    """A server that runs throughout."""
    started = start_server(certificates)
    yield started
    started.stop()


@pytest.fixture
def own_server(certificates: tuple[str, str]) -> Iterator[Server]:
    """A server for one test, which may stop it."""
    started = start_server(certificates)
    yield started
    if started.process.returncode is None:
        started.stop()


@pytest.fixture
def project(
    pytester: pytest.Pytester, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Project:
    """A project whose tests reach `server` as api.example.com."""
    for name in ("CI", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("NETCAPTURE_SESSION_START", raising=False)
    monkeypatch.setenv("NETCAPTURE_UPSTREAM", "loopback")
    temp = tmp_path / "t"
    temp.mkdir()
    monkeypatch.setenv("TMPDIR", str(temp))
    return Project(pytester, server, temp)
