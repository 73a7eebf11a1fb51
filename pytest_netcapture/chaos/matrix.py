"""The matrix of a chaos run: gathered from reports, printed, and written as a page.

In a run without workers it is where tests run, else in the controller of pytest-xdist.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from typing import Any

import pytest

from pytest_netcapture.chaos.kinds import KINDS
from pytest_netcapture.chaos.outcomes import BAD, LETTERS, UNTOUCHED, WORDS, Result
from pytest_netcapture.chaos.plugin import CELLS, RESULT

_MOST_TOLD = 20
_clock = time.perf_counter


class Matrix:
    """A plugin of the process that prints."""

    def __init__(self, report: str) -> None:
        self._report = report
        self.results: list[Result] = []
        self.failing: set[str] = set()
        """Tests that fail without faults."""
        self.without: list[str] = []
        """Tests that have no cells."""
        self._began = _clock()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = getattr(report, RESULT, None)
        if told:
            self.results.append(Result(**told))
        elif told is None and report.failed:
            self.failing.add(report.nodeid)
        if getattr(report, CELLS, None) == 0:
            self.without.append(report.nodeid)

    def pytest_report_teststatus(self, report: Any) -> tuple[str, Any, Any] | None:
        told = getattr(report, RESULT, None)
        if told is None:
            return None
        if not told:
            return "", "", ""
        outcome = told["outcome"]
        if outcome in BAD:
            return "failed", LETTERS[outcome], (WORDS[outcome], {"red": True})
        colour = {"yellow": True} if outcome == UNTOUCHED else {"green": True}
        return outcome, LETTERS[outcome], (outcome, colour)

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        write = terminalreporter.write_line
        terminalreporter.section("netcapture chaos", bold=True)
        for line in self._lines():
            write(line)
        if self._report:
            from pytest_netcapture.chaos.page import page

            path = os.path.abspath(self._report)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(page(self))
            write(f"written: {self._report}")

    def rows(self) -> dict[str, dict[tuple[int, str], dict[str, Result]]]:
        """Return results by test, exchange and kind."""
        rows: dict[str, dict[tuple[int, str], dict[str, Result]]] = defaultdict(dict)
        for result in sorted(self.results, key=lambda r: (r.test, r.number)):
            row = rows[result.test].setdefault((result.number, result.exchange), {})
            row[result.kind] = result
        return dict(rows)

    def kinds(self) -> list[str]:
        seen = {result.kind for result in self.results}
        return [kind.name for kind in KINDS if kind.name in seen]

    def totals(self) -> str:
        counts = Counter(result.outcome for result in self.results)
        told = [f"{counts[name]} {name}" for name in LETTERS if counts[name]]
        exchanges = len({(r.test, r.number) for r in self.results})
        cut = sum(r.waited for r in self.results)
        text = f"{len(self.results)} tries of {exchanges} exchanges: {' · '.join(told)}"
        spared = f"; {cut:.0f} s of time-outs cut short" if cut >= 1 else ""
        return f"{text}; {_clock() - self._began:.1f} s{spared}"

    def _lines(self) -> list[str]:
        if not self.results:
            return ["no exchange to strike: record the tests first, without --netcapture-chaos"]
        kinds = self.kinds()
        lines = []
        for test, row in self.rows().items():
            note = "  (fails without faults, too)" if test in self.failing else ""
            lines.append(f"{test}{note}")
            for (number, exchange), cells in row.items():
                letters = " ".join(
                    LETTERS[cells[kind].outcome].center(len(kind))
                    if kind in cells
                    else " " * len(kind)
                    for kind in kinds
                )
                lines.append(f"  {letters}  {number} {exchange}")
        head = f"  {' '.join(kinds)}"
        legend = "  ".join(f"{letter} {name}" for name, letter in LETTERS.items())
        bad = sorted((r for r in self.results if r.is_bad), key=lambda r: r.cell)
        told = [f"{r.cell}: {r.why()}" for r in bad[:_MOST_TOLD]]
        if len(bad) > _MOST_TOLD:
            told.append(f"… {len(bad) - _MOST_TOLD} more")
        without = f"{len(self.without)} tests played no exchange" if self.without else ""
        return [head, *lines, f"  {legend}", *told, *filter(None, [without]), self.totals()]
