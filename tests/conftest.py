"""What holds for every test here: no dialling but loopback, and in CI no test that silently did not run.

`NETCAPTURE_REQUIRE=all` turns a skip into a failure, since a skip says that this machine lacks
something, and CI's must not. Allowed are reasons that begin with "not in CI:", and "needs real root"
where the tests run as somebody else: CI runs them as root too.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest

pytest_plugins = ["pytester"]

os.environ["NETCAPTURE_UPSTREAM"] = "loopback"
# A shell ignores Ctrl-C for what it runs in the background, and programs inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_NOBODY_MAY_SKIP = os.environ.get("NETCAPTURE_REQUIRE") == "all"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _require(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        _require(report)
    return report


def _require(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if _NOBODY_MAY_SKIP and not _is_allowed(reason):
        report.outcome = "failed"
        report.longrepr = f"skipped, which NETCAPTURE_REQUIRE=all forbids: {reason}"


def _is_allowed(reason: str) -> bool:
    other = "needs an ordinary user" if os.geteuid() == 0 else "needs real root"
    return reason.startswith(("not in CI:", other))
