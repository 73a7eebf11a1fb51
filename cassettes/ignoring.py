"""What is not compared: fields named as the report of a miss names them.

`query.nonce`, `headers.x-date`, `body.user.id`, `body.items[*].id`, `body.*.created`; a name ends
at a dot or bracket, and `*` stands for any name or index, or is a part of one.

Proven by tests/cassettes/test_ignoring.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

PLACES = ("query", "headers", "body")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\*)\]")
Path = tuple[str, ...]


class Ignored:
    """What one cassette does not compare."""

    def __init__(self, names: Iterable[str]) -> None:
        paths = [parse(name) for name in names]
        self.query = tuple(path[1] for path in paths if path[0] == "query")
        self.headers = tuple(path[1].lower() for path in paths if path[0] == "headers")
        self.body = tuple(path[1:] for path in paths if path[0] == "body")

    def pairs(self, pairs: Iterable[tuple[str, str]], names: Path) -> list[tuple[str, str]]:
        """Return the pairs whose names none of `names` means."""
        return [pair for pair in pairs if not any(fnmatchcase(pair[0], one) for one in names)]

    def form(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        return self.pairs(pairs, tuple(path[0] for path in self.body if len(path) == 1))

    def covers(self, field: str) -> bool:
        """Tell whether a difference in `field` does not count."""
        try:
            place, *steps = parse(field)
        except ValueError:
            return False
        if place != "body":
            return any(fnmatchcase(steps[0].lower(), one.lower()) for one in getattr(self, place))
        return any(
            len(path) <= len(steps)
            and all(fnmatchcase(a, b) for a, b in zip(steps, path, strict=False))
            for path in self.body
        )

    def json(self, value: Any) -> Any:
        """Return a decoded document without what is ignored."""
        for path in self.body:
            value = _without(value, path)
        return value


def parse(name: str) -> Path:
    """Return place and steps of `body.items[*].id`. Raises `ValueError` in words."""
    place = re.split(r"[.\[]", name, maxsplit=1)[0]
    if place not in PLACES:
        raise ValueError(f"it begins with none of {', '.join(PLACES)}")
    rest, steps, end = name[len(place) :], [], 0
    if place != "body":
        if len(rest) < 2 or rest[0] != ".":
            raise ValueError(f"it names no field: write {place}.name")
        return place, rest[1:]
    for match in _STEP.finditer(rest):
        if match.start() != end:
            break
        steps.append(match[1] or match[2])
        end = match.end()
    if end != len(rest) or not steps:
        raise ValueError("it is no path: write body.items[*].id")
    return place, *steps


def _without(value: Any, path: Path) -> Any:
    first, rest = path[0], path[1:]
    if isinstance(value, dict):
        return {
            key: _without(one, rest) if rest and fnmatchcase(key, first) else one
            for key, one in value.items()
            if rest or not fnmatchcase(key, first)
        }
    if isinstance(value, list) and (first == "*" or first.isdigit()):
        return [
            _without(one, rest) if rest and first in ("*", str(index)) else one
            for index, one in enumerate(value)
            if rest or first not in ("*", str(index))
        ]
    return value
