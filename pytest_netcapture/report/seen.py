"""What the run's report needs of one test, put aside in a file of this process until the end.

A line of JSON for each test; `<report>.<pid>.part` lies beside the report that is to be.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_netcapture.flows import Flow, HttpFlow

if TYPE_CHECKING:
    from pytest_netcapture.session import TestScope

PART = ".part"
_LARGEST = 1 << 16
"""Bytes of a body that a report shows."""


class Seen:
    """One test. `look` before its books are closed, `settle` after."""

    def __init__(self, item: pytest.Item, report: str) -> None:
        self._item = item
        self._path = f"{report}.{os.getpid()}{PART}"
        self._test: dict[str, Any] = {"test": item.nodeid}

    def look(self, scope: TestScope, *, failed: bool) -> None:
        from pytest_netcapture.interchange.plain import plain
        from pytest_netcapture.interchange.saving import clean

        flows = clean(self._test["test"], scope.flows(), scope.settings_now)
        self._test["failed"] = failed
        self._test["flows"] = [plain(flow, _LARGEST) | _more(flow) for flow in flows]

    def settle(self, problems: Sequence[str], *, failed: bool) -> None:
        from pytest_netcapture.interchange.plain import encoded

        self._test |= {"failed": failed, "problems": problems}
        if not self._test.get("flows") and not failed:
            return
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(encoded(self._test) + "\n")
        except OSError as error:
            told = f"netcapture: not in the report: {self._path}: {error.strerror}"
            self._item.warn(pytest.PytestWarning(told))


def _more(flow: Flow) -> dict[str, Any]:
    """Return what only a live flow has: when, whose, whence."""
    out: dict[str, Any] = {
        "origin": flow.origin.value,
        "started": flow.started / 1e6,
        "ended": flow.ended / 1e6,
        "pid": flow.process.pid,
        "command": " ".join(flow.process.command),
    }
    if flow.fault:
        out["fault"] = flow.fault
    if flow.tls_version:
        out["tls"] = flow.tls_version
    if flow.address:
        out["address"] = flow.address[0]
    if isinstance(flow, HttpFlow) and flow.response:
        out["status"] = flow.response.status
    return out
