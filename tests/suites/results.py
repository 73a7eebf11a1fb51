"""What became of each test of a run, and in what two kinds of runs differ.

1. A test has one outcome: the worst of its phases, where an error of setup or teardown is `error`.
   A test that a run does not mention is `missing`.
2. A test differs when it came out with capture in a way that it never did without.
3. A test is flaky when runs without capture disagree; it is named, and its difference is one only
   if capture brings an outcome that none of them had.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MISSING = "missing"
_WORST_FIRST = ("error", "failed", "xpassed", "xfailed", "passed", "skipped", "rerun")


@dataclass(frozen=True)
class Result:
    """How a test came out, and what it said if it did not pass."""

    outcome: str
    message: str = ""


Results = Mapping[str, Result]


@dataclass(frozen=True)
class Comparison:
    """Names of tests, with what became of them: (without capture, with capture)."""

    differences: dict[str, tuple[list[Result], list[Result]]]
    flaky: dict[str, list[str]]
    counts: Counter[str]


def read(path: Path) -> dict[str, Result]:
    """Read what pytest-reportlog wrote; a run that was ended early leaves a torn last line."""
    results: dict[str, Result] = {}
    if not path.exists():
        return results
    for entry in _entries(path):
        if entry.get("$report_type") in ("TestReport", "CollectReport", "SubtestReport"):
            _take(entry, results)
    return results


def compare(plain: Sequence[Results], captured: Sequence[Results]) -> Comparison:
    """Compare runs without capture and runs with it."""
    differences, flaky = {}, {}
    for name in sorted(set().union(*plain, *captured)):
        without, with_capture = _of(name, plain), _of(name, captured)
        known = {result.outcome for result in without}
        if len(known) > 1:
            flaky[name] = sorted(known)
        if not {result.outcome for result in with_capture} <= known:
            differences[name] = (without, with_capture)
    return Comparison(differences, flaky, count(plain[0].values()))


def count(results: Iterable[Result]) -> Counter[str]:
    return Counter(result.outcome for result in results)


def _of(name: str, runs: Sequence[Results]) -> list[Result]:
    return [run.get(name, Result(MISSING)) for run in runs]


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                return


def _take(entry: dict[str, Any], results: dict[str, Result]) -> None:
    outcome = _outcome(entry)
    if outcome is None:
        return
    name = entry["nodeid"]
    known = results.get(name)
    if known is None or _WORST_FIRST.index(outcome) < _WORST_FIRST.index(known.outcome):
        results[name] = Result(outcome, _message(entry))


def _outcome(entry: dict[str, Any]) -> str | None:
    """Return the outcome of one phase; nothing for one that says nothing."""
    outcome = entry["outcome"]
    if entry["$report_type"] == "CollectReport":
        return {"failed": "error", "skipped": "skipped"}.get(outcome)
    if "wasxfail" in entry:
        return "xfailed" if outcome == "skipped" else "xpassed"
    if entry["when"] == "call":
        return str(outcome)
    return {"failed": "error", "skipped": "skipped", "rerun": "rerun"}.get(outcome)


def _message(entry: dict[str, Any]) -> str:
    """Return the line that says most of why a phase did not pass."""
    text = entry.get("longrepr")
    if isinstance(text, dict):
        text = (text.get("reprcrash") or {}).get("message", "")
    elif isinstance(text, list):
        text = text[-1]
    lines = str(text or "").strip().splitlines()
    return lines[0][:300] if lines else ""
