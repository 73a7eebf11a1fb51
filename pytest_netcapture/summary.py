"""What a run's traffic came to: the receipt, and what went wrong outside of any test.

1. A test's counts travel on its teardown report, so that those of a worker that crashes later
   count too; what happened outside of tests comes when the process that ran them says goodbye.
2. It is where pytest reports: in a run without workers, or in the controller of one with them.
3. The receipt is the last thing of the terminal summary; before it is each host whose TLS was not
   decrypted, unless the user had asked for that.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import pytest

from pytest_netcapture.report.receipt import Receipt

NAME = "netcapture-summary"
_COUNTS = "netcapture_counts"
_MOST_UNDECRYPTED = 10


def attach(report: pytest.TestReport, counts: Mapping[str, int]) -> None:
    """Have `report` carry a test's counts, across processes too."""
    setattr(report, _COUNTS, dict(counts))


class Summary:
    """A plugin of the process that prints."""

    def __init__(self) -> None:
        self.receipt = Receipt()
        self.messages: list[str] = []
        self.undecrypted: dict[str, str] = {}
        self.notes: dict[str, None] = {}
        """What workers say that is different, once each."""

    def add(
        self, counts: Mapping[str, int], messages: Sequence[str], undecrypted: Mapping[str, str]
    ) -> None:
        self.receipt += Receipt.from_dict(counts)
        self.messages += messages
        self.undecrypted.update(undecrypted)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        counts = getattr(report, _COUNTS, None)
        if counts:
            self.receipt += Receipt.from_dict(counts)

    def decide(self, session: pytest.Session) -> None:
        """Have the run fail for what no test can fail for."""
        passed = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if self.messages and session.exitstatus in passed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> Generator[None, None, None]:
        if self.messages:
            terminalreporter.section("netcapture: outside of any test", red=True)
            for message in self.messages:
                terminalreporter.write_line(message)
        yield
        for note in self.notes:
            terminalreporter.write_line(note)
        for place, reason in sorted(self.undecrypted.items())[:_MOST_UNDECRYPTED]:
            terminalreporter.write_line(f"netcapture: not decrypted: {place}: {reason}")
        more = len(self.undecrypted) - _MOST_UNDECRYPTED
        if more > 0:
            terminalreporter.write_line(f"netcapture: not decrypted: {more} more")
        terminalreporter.write_line(str(self.receipt))
