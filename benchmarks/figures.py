"""What a measurement comes to: rows of a table, each next to its bar."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Bar = tuple[Literal["at least", "at most"], float]


@dataclass(frozen=True)
class Row:
    """One figure. `value` is None when it could not be measured; `note` then says why."""

    what: str
    value: float | None
    unit: str = ""
    bar: Bar | None = None
    note: str = ""

    @property
    def passed(self) -> bool | None:
        if self.value is None or self.bar is None:
            return None
        kind, limit = self.bar
        return self.value >= limit if kind == "at least" else self.value <= limit

    def __str__(self) -> str:
        verdict = {True: "ok", False: "MISSED", None: ""}[self.passed]
        line = f"{self.what:<46} {self._value():>12}  {self._bar():<18} {verdict:<7} {self.note}"
        return line.rstrip()

    def _value(self) -> str:
        return "-" if self.value is None else f"{_short(self.value)}{self._unit}"

    def _bar(self) -> str:
        return f"{self.bar[0]} {_short(self.bar[1])}{self._unit}" if self.bar else ""

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def median_ratio(values: Sequence[float], bases: Sequence[float]) -> float:
    """Return the median of the ratios of pairs that were measured next to each other."""
    return statistics.median(v / b for v, b in zip(values, bases, strict=True))


def median_difference(values: Sequence[float], bases: Sequence[float]) -> float:
    return statistics.median(v - b for v, b in zip(values, bases, strict=True))


def spread(values: Sequence[float]) -> str:
    return f"{_short(min(values))}..{_short(max(values))}"
