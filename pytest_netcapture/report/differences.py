"""Differences, field by field: `- recorded` over `+ actual`, aligned.

1. Both values of a pair are cut to the same window, which holds the place where they first differ.
2. A volatile difference (a date, a uuid) says what it is, since a matcher can accept it.
3. At most `limit` fields are written; the last line says how many were left out.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytest_netcapture.flows import Difference
from pytest_netcapture.report.text import count, printable

_WIDEST_FIELD = 32


def difference_lines(
    differences: Iterable[Difference], *, indent: str = "  ", width: int = 100, limit: int = 8
) -> list[str]:
    """Return two lines for each difference, none longer than about `width`."""
    every = list(differences)
    names = [printable(one.field) for one in every[:limit]]
    widest = min(max(map(len, names), default=0), _WIDEST_FIELD)
    room = max(24, width - len(indent) - widest - 4)
    lines = []
    for name, one in zip(names, every, strict=False):
        recorded, actual = window(printable(one.recorded), printable(one.actual), room)
        note = f"  ({one.volatile}: only a volatile value differs)" if one.volatile else ""
        if len(name) > widest:
            lines.append(f"{indent}{name}")
        label = name if len(name) <= widest else ""
        lines.append(f"{indent}{label:<{widest}}  - {recorded}")
        lines.append(f"{indent}{'':<{widest}}  + {actual}{note}")
    if len(every) > limit:
        lines.append(f"{indent}… {count(len(every) - limit, 'more difference')}")
    return lines


def window(one: str, other: str, room: int) -> tuple[str, str]:
    """Cut two texts to `room` characters each, around the first place where they differ."""
    longest = max(len(one), len(other))
    if longest <= room:
        return one, other
    same = min(len(one), len(other))
    at = next((i for i in range(same) if one[i] != other[i]), same)
    start = min(max(0, at - room // 3), longest - room + 2)
    if start <= 2:
        start = 0
    return _windowed(one, start, room), _windowed(other, start, room)


def _windowed(text: str, start: int, room: int) -> str:
    head = "…" if start else ""
    piece = text[start:]
    if len(piece) + len(head) > room:
        piece = piece[: room - len(head) - 1] + "…"
    return head + piece
