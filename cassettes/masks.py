"""What of a client's bytes may vary: given, secret, or learned from two recordings.

1. A mask is a span of the client's stream. Any bytes of that length match it.
2. Two recordings of one conversation (same turns, of the same sizes) teach masks: what differs,
   widened to the value that it is a part of: a run of letters and digits in text, else whole words
   of four bytes counted from the beginning of the turn.
3. A masked value that the server said again at the same place in both is an echo: on replay the
   server says what the client said now. Values under two bytes are no echo.
4. Two that differ in more than half of the client's bytes are not recordings of one conversation.

Proven by tests/cassettes/test_masks.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pytest_netcapture.flows import AnyRaw, Turn

Span = tuple[int, int]
Echo = tuple[int, int, int]

_WORD = 4
_SHORTEST_ECHO, _LONGEST_ECHO = 2, 64
_ECHOES = 64


def joined(spans: Iterable[Span]) -> list[Span]:
    """Return spans in order, those that touch as one."""
    out: list[Span] = []
    for start, end in sorted((int(start), int(end)) for start, end in spans):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], end)
        else:
            out.append((start, end))
    return out


def found_by(patterns: Iterable[str], data: bytes) -> list[Span]:
    """Return the spans that regular expressions find; those of their groups if they have any."""
    spans: list[Span] = []
    for pattern in patterns:
        for match in re.finditer(pattern.encode("latin-1", "replace"), data, re.DOTALL):
            groups = [match.span(index) for index in range(1, len(match.groups()) + 1)]
            spans += [span for span in groups or [match.span()] if span[1] > span[0]]
    return spans


def blanked(data: bytes, start: int, masks: Iterable[Span]) -> bytes:
    """Return `data`, which stands at `start` of its stream, with what is masked as zeros."""
    out = bytearray(data)
    for first, last in masks:
        left, right = max(first - start, 0), min(last - start, len(data))
        if left < right:
            out[left:right] = bytes(right - left)
    return bytes(out)


def first_difference(recorded: bytes, actual: bytes) -> int:
    """Return the first offset at which two differ, the shorter length when one begins the other."""
    shared = min(len(recorded), len(actual))
    if recorded[:shared] == actual[:shared]:
        return shared
    return next(index for index in range(shared) if recorded[index] != actual[index])


def shape(turns: Iterable[Turn]) -> list[tuple[bool, int, str]]:
    """Return what two recordings of one conversation share: who said how much, and how it ended."""
    out: list[tuple[bool, int, str]] = []
    for turn in turns:
        if out and out[-1][0] is turn.sent and not (turn.end or out[-1][2]):
            out[-1] = turn.sent, out[-1][1] + turn.size, ""
        else:
            out.append((turn.sent, turn.size, turn.end))
    return out


def distance(old: AnyRaw, new: AnyRaw) -> int:
    """Return in how many of the client's bytes two conversations differ; -1: they are two."""
    if [size for sent, size, _ in shape(old.turns) if sent] != [
        size for sent, size, _ in shape(new.turns) if sent
    ]:
        return -1
    left, right = (blanked(flow.sent_bytes, 0, old.masks) for flow in (old, new))
    differing = sum(a != b for a, b in zip(left, right, strict=True))
    return differing if 2 * differing <= len(left) else -1


def learn(old: AnyRaw, new: AnyRaw) -> tuple[list[Span], list[Echo]]:
    """Return the masks and echoes of a conversation of which `new` is another recording."""
    left, right = old.sent_bytes, new.sent_bytes
    spans = list(old.masks)
    for start, end in _turns(new.turns):
        for one, other in _differing(left, right, start, end, old.masks):
            spans.append(_widened(left, right, (one, other), (start, end)))
    masks = joined(spans)
    return masks, _echoes(old, new, masks)


def _turns(turns: Iterable[Turn]) -> list[Span]:
    """Return where each turn of the client's lies in its stream."""
    out, position = [], 0
    for sent, size, _ in shape(turns):
        if sent and size:
            out.append((position, position + size))
            position += size
    return out


def _differing(left: bytes, right: bytes, start: int, end: int, masks: list[Span]) -> list[Span]:
    one, other = (blanked(data[start:end], start, masks) for data in (left, right))
    return joined(
        (start + index, start + index + 1)
        for index, (a, b) in enumerate(zip(one, other, strict=True))
        if a != b
    )


def _widened(left: bytes, right: bytes, span: Span, turn: Span) -> Span:
    """Return the value of which `span` is a part: more of it may differ another time."""
    start, end = span
    both = left[start:end] + right[start:end]
    if _is_word(both):
        while start > turn[0] and _is_word(left[start - 1 : start]):
            start -= 1
        while end < turn[1] and _is_word(left[end : end + 1]):
            end += 1
        if all(0x20 <= byte < 0x7F for byte in left[max(turn[0], start - 4) : end + 4].strip()):
            return start, end
        start, end = span
    first = turn[0] + (start - turn[0]) // _WORD * _WORD
    last = turn[0] - (turn[0] - end) // _WORD * _WORD
    return first, min(last, turn[1])


def _is_word(data: bytes) -> bool:
    return data.isascii() and data.isalnum()


def _echoes(old: AnyRaw, new: AnyRaw, masks: list[Span]) -> list[Echo]:
    """Find masked values, or how they end, at one place in both of the server's streams."""
    before, now = old.received_bytes, new.received_bytes
    out: list[Echo] = list(old.echoes)
    for start, end in masks:
        for first in range(max(start, end - _LONGEST_ECHO), end - _SHORTEST_ECHO + 1):
            value, other = new.sent_bytes[first:end], old.sent_bytes[first:end]
            if value == other:
                break
            places = [at for at in _all(now, value) if before[at : at + len(value)] == other]
            if places:
                out += [(at, first, len(value)) for at in places]
                break
    return list(dict.fromkeys(out))[:_ECHOES]


def _all(data: bytes, value: bytes) -> list[int]:
    places, at = [], data.find(value)
    while at >= 0:
        places.append(at)
        at = data.find(value, at + 1)
    return places
