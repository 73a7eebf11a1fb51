"""The hooks of a pytest-xdist controller: it captures nothing itself.

1. A worker has threads before plugins are loaded, so it cannot enter a user namespace: the
   controller does, and lends the workers what an engine needs, only while it starts them.
2. What ends a worker that cannot capture ends the run: xdist would start others to fail alike.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_netcapture import grounds

if TYPE_CHECKING:
    from pytest_netcapture.summary import Summary

OUTPUT = "netcapture"
"""The key of `workeroutput`: {"counts": {...}, "messages": [...], "fatal": "", "status": 3}."""

_ERRORS = "pytest_netcapture.errors."
_USAGE = "UsageError: netcapture: "


def is_controller(config: pytest.Config) -> bool:
    """Tell whether this process will only hand out tests (pytest-xdist's -n or --tx)."""
    known = config.known_args_namespace
    if not config.pluginmanager.hasplugin("xdist") or is_worker():
        return False
    return bool(getattr(known, "numprocesses", None) or getattr(known, "tx", None))


def is_worker() -> bool:
    """Tell whether xdist runs us: its worker's code is executed in a module of that name.

    Its environment variables say nothing: a pytest that a worker's test starts has them too.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__") == "__channelexec__":
            return True
    return False


def register(config: pytest.Config, redirector: str) -> None:
    """Register the hooks. Raises `EnvironmentProblem`."""
    from pytest_netcapture import summary

    printed = summary.Summary()
    config.pluginmanager.register(Controller(printed, redirector), "netcapture-controller")
    config.pluginmanager.register(printed, summary.NAME)


class Controller:
    """Starts workers, adds up what they tell."""

    def __init__(self, summary: Summary, redirector: str) -> None:
        self._summary = summary
        self._replacing = False
        self._note = grounds.prepare_workers(redirector)

    def pytest_report_header(self) -> list[str]:
        return [self._note] if self._note else []

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self) -> None:
        self._lend(True)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionstart(self) -> Generator[None, None, None]:
        try:
            yield
        finally:
            self._lend(False)

    @pytest.hookimpl(optionalhook=True, wrapper=True, tryfirst=True)
    def pytest_testnodedown(self, node: Any, error: object) -> Generator[None, Any, Any]:
        told = getattr(node, "workeroutput", {}).get(OUTPUT)
        if told:
            self._summary.add(told["counts"], told["messages"], told["undecrypted"])
            said = grounds.NOTICE if self._note else "\n"
            notes = [note for note in told["notes"] if not note.startswith(said)]
            self._summary.notes.update(dict.fromkeys(notes))
            if told["fatal"]:
                _end(told["fatal"], told["status"])
        elif error:
            _explain(str(error))
            self._replacing = True
            self._lend(True)
        return (yield)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_newgateway(self) -> None:
        if self._replacing:
            self._replacing = False
            self._lend(False)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._summary.decide(session)

    def _lend(self, lend: bool) -> None:
        if not self._note:
            grounds.lend_capabilities(lend)


def _explain(error: str) -> None:
    """End the run if a worker's last words are an error that every worker would have."""
    _, usage, text = error.rpartition(_USAGE)
    if usage:
        _end(text.strip(), pytest.ExitCode.USAGE_ERROR)
    _, ours, text = error.rpartition(_ERRORS)
    if ours:
        _end(f"netcapture cannot start: {text.partition(': ')[2].strip()}", 3)


def _end(reason: str, status: int) -> NoReturn:
    if status == pytest.ExitCode.USAGE_ERROR:
        raise pytest.UsageError(f"netcapture: {reason}")
    pytest.exit(reason, returncode=status)
