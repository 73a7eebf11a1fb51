"""Fixtures of the tests with real databases and brokers: projects as in tests/plugin."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for real_servers and service_lab
sys.path.insert(0, str(Path(__file__).parent.parent / "plugin"))  # for plugin_lab
sys.path.insert(0, str(Path(__file__).parent.parent / "clients"))  # for building

from building import Builder, shared_directory
from service_lab import Service


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    directory = tmp_path_factory.getbasetemp()
    return Builder(shared_directory(directory, os.environ.get("PYTEST_XDIST_WORKER")))


@pytest.fixture
def service(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Service]:
    """`service(host, port)`: a project whose tests reach that port as a host of that name."""
    for name in ("CI", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("NETCAPTURE_SESSION_START", raising=False)
    temp = tmp_path / "t"
    temp.mkdir()
    monkeypatch.setenv("TMPDIR", str(temp))
    return lambda host, port, *options: Service(pytester, temp, host, port, options)
