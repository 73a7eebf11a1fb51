"""A project whose tests use a database or a broker: recorded, then played with nobody there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from plugin_lab import Project, receipt_of
from real_servers import Running


class Mapped(NamedTuple):
    """Options that make a host lead to a local port; the project takes it for its server."""

    arguments: list[str]

    def options(self) -> list[str]:
        return self.arguments


class Service:
    """A project, and what its tests call the server."""

    def __init__(
        self,
        pytester: pytest.Pytester,
        temp: Path,
        host: str,
        port: int,
        options: Sequence[str] = (),
    ) -> None:
        self._parts = pytester, temp
        self._host = f"{host}:{port}"
        self._options = options
        self.project = self._to(1)

    def _to(self, port: int) -> Project:
        pytester, temp = self._parts
        mapping = f"--netcapture-map-host={self._host}=127.0.0.1:{port}"
        return Project(pytester, Mapped([mapping, *self._options]), temp)  # type: ignore[arg-type]

    def record(self, server: Running, *args: str, use: str = "", passed: int) -> dict[str, int]:
        """Run the tests with the server there, then stop it."""
        result = self._to(server.port).run(*args, use=use)
        result.assert_outcomes(passed=passed)
        server.stop()
        return receipt_of(result)

    def play(
        self, *args: str, passed: int = 0, failed: int = 0, errors: int = 0
    ) -> pytest.RunResult:
        """Run the tests in two processes, with no server."""
        words = ("-n", "2", "--netcapture-record-mode=none", *args)
        result = self._to(1).run(*words, use="xdist")
        result.assert_outcomes(passed=passed, failed=failed, errors=errors)
        if not failed and not errors:
            receipt = receipt_of(result)
            assert (receipt["left"], receipt["unmatched"]) == (0, 0), receipt
        return result

    def text(self) -> str:
        """Return all sidecars."""
        return "\n".join(p.read_text() for p in sorted(self.project.path.rglob("*.cassette.txt")))

    def cassettes(self) -> bytes:
        return b"".join(p.read_bytes() for p in sorted(self.project.path.rglob("*.cassette*")))
