"""Measure msgpack values without decoding them (the msgpack specification, "Formats").

msgspec decodes one value that fills its input; a cassette is a stream, so the reader must know
where its first value, the header, ends.
"""

from __future__ import annotations

_FIXED = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9}
_FIXED |= {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
_FIXED |= {0xD4 + power: 2 + (1 << power) for power in range(5)}
_COUNTED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENDED = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_NESTED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def measure(data: bytes) -> int:
    """Return the length of the first value of `data`, or -1 when it is cut or not msgpack."""
    position, wanted = 0, 1
    while wanted:
        if position >= len(data):
            return -1
        size, children = _step(data, position)
        if not size:
            return -1
        position += size
        wanted += children - 1
    return position if position <= len(data) else -1


def _step(data: bytes, at: int) -> tuple[int, int]:
    """Return the size of one value without its children, and how many those are; 0 if invalid."""
    first = data[at]
    if first <= 0x7F or first >= 0xE0:
        return 1, 0
    if first <= 0x8F:
        return 1, 2 * (first & 0x0F)
    if first <= 0x9F:
        return 1, first & 0x0F
    if first <= 0xBF:
        return 1 + (first & 0x1F), 0
    if first in _FIXED:
        return _FIXED[first], 0
    if first in _NESTED:
        width, each = _NESTED[first]
        return 1 + width, each * _number(data, at, width)
    if first in _COUNTED:
        width = _COUNTED[first]
        return 1 + width + _number(data, at, width), 0
    if first in _EXTENDED:
        width = _EXTENDED[first]
        return 2 + width + _number(data, at, width), 0
    return 0, 0


def _number(data: bytes, at: int, width: int) -> int:
    return int.from_bytes(data[at + 1 : at + 1 + width], "big")
