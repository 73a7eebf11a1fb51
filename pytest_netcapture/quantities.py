"""Times and rates as people write them: "200ms", 0.2, "64kB/s".

Proved by tests/test_quantities.py.
"""

from __future__ import annotations

import math
import re
from operator import methodcaller
from typing import Any

from pytest_netcapture.errors import NetcaptureError, UsageError

__tracebackhide__ = methodcaller("errisinstance", NetcaptureError)

_TIMES = {"us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "min": 60 * 10**9}
_SIZES = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|µs|ms|s|min|m)\s*")
_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ki|mi|gi|k|m|g|)(b|bit)\s*(?:/\s*|p)s\s*", re.IGNORECASE)


def duration(value: Any, place: str) -> int:
    """Return nanoseconds: of "200ms", "1.5s" or "2min", or of a number of seconds."""
    if isinstance(value, str) and (found := _TIME.fullmatch(value)):
        return round(float(found[1]) * _TIMES[found[2]])
    if _is_number(value) and value >= 0:
        return round(float(value) * 10**9)
    raise UsageError(f"{place}: {value!r} is not a time", cure='write "200ms", "1.5s" or 1.5')


def rate(value: Any, place: str) -> int:
    """Return bytes a second: of "64kB/s", "1MiB/s" or "8kbit/s", or of a number of bytes."""
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found:
        many = float(found[1]) * _SIZES[found[2].lower()]
        many = many / 8 if found[3].lower() == "bit" or found[3] == "b" else many
    elif _is_number(value):
        many = value
    else:
        many = 0
    if many < 1:
        raise UsageError(f"{place}: {value!r} is not a rate", cure='write "64kB/s" or 65536')
    return round(many)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
