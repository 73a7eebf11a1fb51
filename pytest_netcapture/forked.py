"""pytest-forked: tests that run in a forked child, one at a time, while this process waits.

1. Before the fork the next test's lease is collected, so that both sides have it; the child takes
   over the channel, this process asks nothing until the child has ended.
2. The child begins and ends the test; its reports carry the counts as always. One that crashes ends
   nothing: this process has the engine close what is open then.

Proved by tests/plugin/test_forks.py.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_netcapture.session import Session

PLUGIN = "pytest_forked"


class Forked:
    """Wraps each test that pytest-forked runs."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        if not (item.config.getoption("forked") or item.get_closest_marker("forked")):
            return (yield)
        self._session.lend()
        try:
            return (yield)
        finally:
            self._session.take_back()
