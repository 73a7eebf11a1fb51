"""What became of a test under a fault, and whether that was expected."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from pytest_netcapture.chaos.cells import Cell

SURVIVED = "survived"
FAILED = "failed cleanly"
HUNG = "hung"
WRONG = "passed, though it should not have"
BROKE = "failed, though it should have survived"
UNTOUCHED = "not reached"

WORDS = {HUNG: "HUNG", WRONG: "PASSED WRONGLY", BROKE: "BROKE"}
LETTERS = {SURVIVED: ".", FAILED: "f", HUNG: "H", WRONG: "P", BROKE: "B", UNTOUCHED: "-"}
BAD = (HUNG, WRONG, BROKE)
_RETRIES = 10


class Result(NamedTuple):
    """One cell, as it travels on a report."""

    test: str
    cell: str
    number: int
    exchange: str
    kind: str
    kind_text: str
    outcome: str
    expected: str
    said: str
    """What the test said when it failed."""
    where: str
    struck: int
    waited: float
    """Seconds of time-outs that were cut short."""
    seconds: float

    @property
    def is_bad(self) -> bool:
        return self.outcome in BAD

    def why(self) -> str:
        """Say in a line what is wrong."""
        if self.outcome == HUNG:
            asked = f"; it was asked {self.struck} times" if self.struck > _RETRIES else ""
            return f"hung: {self.said}{asked}"
        if self.outcome == WRONG:
            return f"passed, though it should not have: {self.kind_text}"
        if self.outcome == BROKE:
            return f"failed, though it should have survived: {self._first()}"
        return self._first()

    def _first(self) -> str:
        return self.said.splitlines()[0] if self.said else ""

    def text(self) -> str:
        lines = [
            self.why(),
            f"  fault    {self.kind}: {self.kind_text}, from exchange {self.number} on",
            f"  exchange {self.exchange}",
        ]
        if self.where:
            lines.append(f"  at       {self.where}")
        lines.append(f"  again    pytest --netcapture --netcapture-chaos={self.kind} '{self.cell}'")
        if self.outcome == WRONG:
            lines += [
                "  do       let no error be swallowed, and assert what was answered;",
                f"           or expect it: @pytest.mark.netcapture(chaos_expect='{self.kind}=any')",
            ]
        return "\n".join(lines)


def judged(item: pytest.Item, cell: Cell) -> Result:
    """Return what became of a cell whose test is over."""
    return Result(
        test=cell.test.nodeid,
        cell=item.nodeid,
        number=cell.exchange.number,
        exchange=str(cell.exchange),
        kind=cell.kind.name,
        kind_text=cell.kind.text,
        outcome=_outcome(cell),
        expected=cell.expected,
        said=cell.hung or cell.failed or cell.skipped,
        where=cell.where,
        struck=cell.struck,
        waited=sum(cell.shortened),
        seconds=cell.seconds,
    )


def _outcome(cell: Cell) -> str:
    if cell.hung:
        return HUNG
    if cell.skipped or not cell.struck:
        return UNTOUCHED
    if cell.failed:
        return BROKE if cell.expected == "survive" else FAILED
    return WRONG if cell.expected == "fail" else SURVIVED
