"""What the options of a chaos run may say; every value is checked here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pytest_netcapture.errors import UsageError
from pytest_netcapture.quantities import duration
from pytest_netcapture.settings import check_choice

NAMES = (
    "refused",
    "unreachable",
    "timeout",
    "reset",
    "reset-body",
    "500",
    "429",
    "truncated",
    "truncated-json",
    "empty",
    "slow",
    "expired",
    "nxdomain",
)
WAIT = 10.0
"""Seconds that a test may take under a fault, unless an option says otherwise."""
EXPECTATIONS = ("fail", "survive", "any")


class Plan(msgspec.Struct, frozen=True):
    """What a chaos run does to one test. `limit`: seconds that it may take under a fault."""

    kinds: tuple[str, ...] = ()
    expectations: Mapping[str, str] = {}
    limit: float = WAIT


def parse_kinds(value: Any, where: str) -> tuple[str, ...]:
    """Return the kinds that a comma-separated text or a list names. Raises `UsageError`."""
    if value is True or value == "all":
        return NAMES
    if value is False:
        return ()
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple, set, frozenset)) or not names:
        raise UsageError(
            f"{where} must name kinds of faults, given: {value!r}",
            cure=f"known: {', '.join(NAMES)}",
        )
    given = [check_choice(str(name).strip(), NAMES, where) for name in names]
    return tuple(name for name in NAMES if name in given)


def parse_expectation(text: str, where: str) -> tuple[str, str]:
    """Return the kind and what is expected of `KIND=fail|survive|any`. Raises `UsageError`."""
    name, equals, expected = text.partition("=")
    if not equals:
        raise UsageError(f"{where}: {text!r} is not KIND=EXPECTED", cure="write empty=survive")
    kind = check_choice(name.strip(), NAMES, where)
    return kind, check_choice(expected.strip(), EXPECTATIONS, where)


def parse_wait(value: Any, where: str) -> float:
    """Return seconds. Raises `UsageError`."""
    text = str(value)
    return duration(float(text) if text.replace(".", "", 1).isdigit() else text, where) / 1e9
