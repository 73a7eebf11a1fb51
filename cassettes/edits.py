"""Replacements in bytes, with the places of chunk borders moved along.

Scrubbing finds spans; a body also has borders (the chunks in which it arrived) that must keep
pointing between the same characters when a span's replacement has another length.
"""

from __future__ import annotations

from typing import NamedTuple


class Edit(NamedTuple):
    """Replace `start`:`end` by `new`."""

    start: int
    end: int
    new: bytes


def apply(data: bytes, edits: list[Edit], borders: list[int]) -> bytes:
    """Return `data` with `edits` made; `borders`, ascending offsets, are moved in place.

    An edit that overlaps one before it is dropped. A border inside an edit moves to its end.
    """
    if not edits:
        return data
    edits.sort()
    parts: list[bytes] = []
    done = shift = index = 0
    for start, end, new in edits:
        if start < done:
            continue
        parts += (data[done:start], new)
        while index < len(borders) and borders[index] <= start:
            borders[index] += shift
            index += 1
        shift += len(new) - (end - start)
        while index < len(borders) and borders[index] < end:
            borders[index] = end + shift
            index += 1
        done = end
    for position in range(index, len(borders)):
        borders[position] += shift
    parts.append(data[done:])
    return b"".join(parts)


def to_borders(chunks: list[int]) -> list[int]:
    """Turn sizes of chunks into the offsets where they end."""
    borders, at = [], 0
    for size in chunks:
        at += size
        borders.append(at)
    return borders


def to_chunks(borders: list[int]) -> list[int]:
    return [end - start for start, end in zip([0, *borders], borders, strict=False)]
