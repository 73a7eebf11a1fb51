"""One cell of the matrix: a test, one of its recorded exchanges, one kind of fault.

1. A cell is an item like the test's, with a name of its own, `test_pay[chaos-2-refused]`, so it is
   selected, run again and handed to an xdist worker as any test is.
2. It plays the cassette of its test, any number of times, and records nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from _pytest.unittest import TestCaseFunction

from pytest_netcapture.chaos.kinds import Exchange, Kind
from pytest_netcapture.errors import UsageError
from pytest_netcapture.settings import RecordMode, Repeat, Settings

CELL = pytest.StashKey["Cell"]()


class Cell:
    """What is tried, and what has come of it so far."""

    def __init__(
        self,
        test: pytest.Item,
        exchange: Exchange,
        kind: Kind,
        expected: str,
        *,
        limit: float,
        of: int,
    ) -> None:
        """`of`: how many exchanges the test has; `limit` in seconds."""
        self.test = test
        self.exchange = exchange
        self.kind = kind
        self.expected = expected
        self.limit = limit
        self.of = of
        self.struck = 0
        self.failed = ""
        self.skipped = ""
        self.hung = ""
        self.where = ""
        self.shortened: list[float] = []
        self.seconds = 0.0


def cell_item(test: pytest.Function, cell: Cell) -> pytest.Function:
    """Return an item like a test's that runs as `cell`."""
    label = f"chaos-{cell.exchange.number}-{cell.kind.name}"
    twin: pytest.Function = type(test).from_parent(
        test.parent,
        name=test.name,  # methods of unittest's classes are found by it
        callspec=getattr(test, "callspec", None),
        fixtureinfo=test._fixtureinfo,
        originalname=test.originalname,
    )
    _rename(
        twin, f"{test.name[:-1]}-{label}]" if test.name.endswith("]") else f"{test.name}[{label}]"
    )
    twin.own_markers = list(test.own_markers)
    if isinstance(test, TestCaseFunction):
        testcase: Any = test.parent
        vars(twin)["_getinstance"] = lambda: testcase.obj(test.name)
    # Tracebacks, with their source lines, would take most of a chaos run's time.
    vars(twin)["repr_failure"] = lambda error, *_, **__: error.exconly()
    twin.stash[CELL] = cell
    return twin


def _rename(item: Any, name: str) -> None:
    """Give an item a name, and the node id that goes with it."""
    nodeid = item.nodeid.removesuffix(item.name) + name
    item.name = name
    if hasattr(item, "_id"):  # pytest 9.2
        item._id = type(item._id).parse(nodeid)
    else:
        item._nodeid = nodeid


def settings_of(test: pytest.Item, settings: Settings, *, struck: bool) -> Settings:
    """Return the settings under which a test runs in a chaos run. Raises `UsageError`."""
    use = settings.cassette
    if use is None:
        return settings
    if use.mode in (RecordMode.ALL, RecordMode.REWRITE):
        raise UsageError(
            f"{test.nodeid}: record mode {use.mode.value} plays nothing that chaos could strike",
            cure="leave the record mode out",
        )
    use = msgspec.structs.replace(use, mode=RecordMode.NONE)
    if struck:
        use = msgspec.structs.replace(use, repeat=Repeat.ANY)
    return msgspec.structs.replace(settings, cassette=use, strict=settings.strict and not struck)
