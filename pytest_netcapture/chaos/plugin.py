"""The hooks of a chaos run, in the process that runs tests.

1. Cells are made when a module's or a class's tests are collected, so that node ids select them.
2. A cell's reports say that it passed or failed as a cell: a test that fails cleanly under a fault
   has passed. What its test said is kept for cells that are not as expected.
3. Tests that play no recording have no cells; the matrix says how many.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from pytest_netcapture.chaos import recorded
from pytest_netcapture.chaos.cells import CELL, Cell, cell_item, settings_of
from pytest_netcapture.chaos.kinds import BY_NAME, Answer, arm
from pytest_netcapture.chaos.outcomes import Result, judged
from pytest_netcapture.chaos.watch import Hung, Watch, Watcher
from pytest_netcapture.errors import CassetteError, UsageError
from pytest_netcapture.plugin import ACTIVE
from pytest_netcapture.session import Session, TestScope
from pytest_netcapture.settings import Settings
from pytest_netcapture.sources import Sources

RESULT = "netcapture_chaos"
"""The attribute of a cell's last report: `Result` as a dict; of its others, an empty one."""
CELLS = "netcapture_chaos_cells"
"""The attribute of another test's last report: how many cells it has."""
_BUDGET, _SHORT = 60.0, 1.0
_MOST_CHANGES = 100
"""Of flows, for each exchange that was recorded."""
_clock = time.perf_counter


class ChaosRun:
    """Makes cells, arms and judges them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._sources: Sources | None = None
        self._counts: dict[str, int] = {}
        self._frozen = False
        self._watcher: Watcher | None = None
        self._stopped_for = 0.0
        """Seconds spent in cells that were stopped at their limit."""

    # ── collection ───────────────────────────────────────────────────────────────────────────

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, Any]:
        report = yield
        if report.passed and report.result:
            found: list[Any] = []
            for node in report.result:
                found.append(node)
                if isinstance(node, pytest.Function):
                    found += self._cells(node)
            report.result = found
        return report

    def pytest_collection_finish(self) -> None:
        """Begin to watch, as long as no test runs."""
        self._watcher = self._watcher or Watcher()

    def _cells(self, test: pytest.Function) -> list[pytest.Function]:
        if self._sources is None:  # conftests have been read by now
            self._sources = Sources(self._config)
        try:
            plan = self._sources.chaos_for(test)
            use = self._sources.for_item(test).cassette
            exchanges = recorded.exchanges(use.path) if use and plan.kinds else []
        except (UsageError, CassetteError, FileNotFoundError):
            return []  # told when the test itself is checked, or runs
        cells = [
            Cell(
                test,
                exchange,
                kind,
                plan.expectations.get(kind.name, kind.expect),
                limit=plan.limit,
                of=len(exchanges),
            )
            for exchange in exchanges
            for kind in map(BY_NAME.__getitem__, plan.kinds)
            if kind.applies(exchange)
        ]
        self._counts[test.nodeid] = len(cells)
        return [cell_item(test, cell) for cell in cells]

    # ── one cell ─────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def test_of(item: pytest.Item) -> pytest.Item:
        """Return the test of which `item` is a cell, or `item` itself."""
        cell = item.stash.get(CELL, None)
        return item if cell is None else cell.test

    def settings(self, item: pytest.Item, settings: Settings) -> Settings:
        """Return what holds for a test, or a cell, of this run. Raises `UsageError`."""
        return settings_of(item, settings, struck=CELL in item.stash)

    def begin(self, item: pytest.Item, scope: TestScope) -> None:
        """Arm a cell's fault, now that its test has begun."""
        cell = item.stash.get(CELL, None)
        if cell is None:
            return
        use = scope.settings_now.cassette
        answer = Answer(0, (), b"")
        if cell.kind.reads and use is not None:
            answer = recorded.answer(use.path, cell.exchange.number)
        arm(scope, cell.kind, cell.exchange, answer)

    def end(self, item: pytest.Item, scope: TestScope) -> None:
        """Look what was struck, and free what still waits, before the test's books are closed."""
        cell = item.stash.get(CELL, None)
        if cell is not None:
            cell.struck = scope.struck()
            scope.cut()
            self._forget_failure()

    def _forget_failure(self) -> None:
        """Let go of what a failure's traceback holds: sockets, for which a namespace would wait."""
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):
            if hasattr(sys, name):
                delattr(sys, name)
        if not self._frozen:  # what was there before cells is not looked through each time
            self._frozen = True
            gc.collect()
            gc.freeze()
        gc.collect()

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        cell = item.stash.get(CELL, None)
        if cell is None:
            return (yield)
        limit = cell.limit if self._stopped_for < _BUDGET else min(_SHORT, cell.limit)
        active: Any = self._config.pluginmanager.get_plugin(ACTIVE)
        scope = active.session.scope
        watch = Watch(
            limit,
            silent=cell.kind.name == "timeout",
            struck=scope.struck,
            work=_works_too_much(active.session, cell),
        )
        began = _clock()
        assert self._watcher is not None
        try:
            with self._watcher.watching(watch):
                return (yield)
        finally:
            cell.seconds = _clock() - began
            cell.hung, cell.shortened = watch.hung, watch.shortened
            self._stopped_for += cell.seconds if watch.hung else 0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        cell = item.stash.get(CELL, None)
        if cell is None:
            if report.when == "teardown":
                setattr(report, CELLS, self._counts.get(item.nodeid, 0))
            return report
        self._note(cell, report, call)
        report.outcome, report.longrepr = "passed", None
        report.sections = []
        setattr(report, RESULT, {})
        if call.when == "teardown":
            result = judged(item, cell)
            setattr(report, RESULT, result._asdict())
            if result.is_bad:
                report.outcome, report.longrepr = "failed", result.text()
        return report

    def _note(self, cell: Cell, report: pytest.TestReport, call: pytest.CallInfo[None]) -> None:
        if report.skipped:
            cell.skipped = "skipped"
        elif report.failed and not cell.failed:
            error = call.excinfo
            stopped = error is not None and isinstance(error.value, Hung)
            cell.failed = cell.hung if stopped else str(report.longrepr).strip()
            if error is not None:
                cell.where = self._place(error)

    def _place(self, error: pytest.ExceptionInfo[BaseException]) -> str:
        """Return the user's own line in which a test failed or was stopped, the innermost."""
        root = self._config.rootpath
        for entry in reversed(list(error.traceback)):
            with contextlib.suppress(ValueError):
                path = entry.path.relative_to(root) if hasattr(entry.path, "relative_to") else None
                if path is not None and "site-packages" not in path.parts:
                    return f"{path}:{entry.lineno + 1}"
        return ""


def _works_too_much(session: Session, cell: Cell) -> Callable[[], bool]:
    """Return what tells whether a cell's test has made far more exchanges than recorded."""
    page = session.page
    most = page.changes + _MOST_CHANGES * (1 + cell.of)
    return lambda: page.changes > most


__all__ = ["CELLS", "RESULT", "ChaosRun", "Result"]
