"""What changed between two cassettes: flows that came and went, and those that differ.

1. Flows are paired by what identifies them (for an exchange: method, URL, then body), in order.
   Scrub tags count as equal, so two recordings of one thing differ only in what was said.
2. Exchanges are compared field by field; other flows as the text that people read.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import unified_diff
from typing import NamedTuple

from pytest_netcapture.cassettes.comparison import FIELDS, compare, compare_content, compare_pairs
from pytest_netcapture.cassettes.format import SEGMENT
from pytest_netcapture.cassettes.keys import Matcher, canonical_headers
from pytest_netcapture.cassettes.nearest import differences
from pytest_netcapture.cassettes.saving import order_key
from pytest_netcapture.cassettes.sidecar import WHOLE, describe, title
from pytest_netcapture.cassettes.source import Recording, Source
from pytest_netcapture.cassettes.tags import without_tags
from pytest_netcapture.flows import Difference, HttpFlow, HttpResponse
from pytest_netcapture.settings import MATCHERS

_EVERY_PART = tuple(name for name in MATCHERS if name not in ("url", "uri", "raw_body"))


class Change(NamedTuple):
    """A flow that is in one file only, or in both and different. Numbers count from 1; 0: absent.

    `lines` are how the texts differ where fields are not known.
    """

    title: str
    old: int
    new: int
    differences: list[Difference]
    lines: list[str]


def diff(old: Source, new: Source) -> Iterator[Change]:
    """Yield the changes, in the order of the new file, what is gone first."""
    before, after = _grouped(old), _grouped(new)
    for key in [*before, *(key for key in after if key not in before)]:
        pairs, gone, come = _paired(before.get(key, []), after.get(key, []))
        for number, recording in gone:
            yield Change(title(recording.record()), number, 0, [], [])
        for number, recording in come:
            yield Change(title(recording.record()), 0, number, [], [])
        for (number, one), (place, other) in pairs:
            change = _compared(number, one, place, other)
            if change.differences or change.lines:
                yield change


_Numbered = tuple[int, Recording]


def _grouped(source: Source) -> dict[tuple[str, ...], list[_Numbered]]:
    """Return the flows by what identifies them but for a body."""
    groups: dict[tuple[str, ...], list[_Numbered]] = {}
    for number, recording in enumerate(source.recordings, 1):
        identity = order_key(recording.record())[:-1]
        key = tuple(without_tags(str(part)) for part in identity)
        groups.setdefault(key, []).append((number, recording))
    return groups


def _paired(
    old: list[_Numbered], new: list[_Numbered]
) -> tuple[list[tuple[_Numbered, _Numbered]], list[_Numbered], list[_Numbered]]:
    """Pair flows with equal requests, then the rest as they come; return what has no partner."""
    if len(old) == len(new) == 1:
        return [(old[0], new[0])], [], []
    waiting: dict[object, list[_Numbered]] = {}
    for one in new:
        waiting.setdefault(_asked(one[1]), []).append(one)
    pairs, alone = [], []
    for one in old:
        partners = waiting.get(_asked(one[1]))
        if partners:
            pairs.append((one, partners.pop(0)))
        else:
            alone.append(one)
    left = sorted((n for group in waiting.values() for n in group), key=lambda one: one[0])
    together = min(len(alone), len(left))
    pairs += zip(alone, left, strict=False)
    return pairs, alone[together:], left[together:]


_by_body = Matcher(("body",))


def _asked(recording: Recording) -> object:
    flow = recording.outline()
    if not isinstance(flow, HttpFlow):
        return None
    request = flow.request
    large = request.body.size and not request.body.data
    return request.body.size if large else _by_body.rest(request.headers, request.body.data)


def _compared(number: int, one: Recording, place: int, other: Recording) -> Change:
    name = title(one.record())
    if one.payload() == other.payload():
        return Change(name, number, place, [], [])
    left, right = one.outline(), other.outline()
    if type(left) is HttpFlow and type(right) is HttpFlow:
        found = differences(left.request, right.request, _EVERY_PART)
        found += response_differences(left, right)
        return Change(name, number, place, found[:FIELDS], [])
    return Change(name, number, place, [], _text_differences(one, other))


def response_differences(recorded: HttpFlow, actual: HttpFlow) -> list[Difference]:
    """Return how two answers differ, or failures, field by field."""
    found: list[Difference] = []
    left, right = recorded.response, actual.response
    compare(found, "error", _failure(recorded), _failure(actual))
    if left is None or right is None:
        compare(
            found, "response", "none" if left is None else "one", "none" if right is None else "one"
        )
        return found
    compare(found, "status", str(left.status), str(right.status))
    compare(found, "http_version", left.http_version, right.http_version)
    for name in ("headers", "trailers"):
        fields = (canonical_headers(getattr(one, name)) for one in (left, right))
        compare_pairs(found, f"response.{name}.", *fields)
    _compare_bodies(found, left, right)
    return found


def _compare_bodies(found: list[Difference], left: HttpResponse, right: HttpResponse) -> None:
    if max(left.body.size, right.body.size) > SEGMENT:
        compare(found, "response.body", f"{left.body.size} bytes", f"{right.body.size} bytes")
        return
    media_type = right.headers.get("content-type") or ""
    compare_content(found, "response.body", left.content, right.content, media_type)


def _failure(flow: HttpFlow) -> str:
    return flow.error.kind if flow.error else "none"


def _text_differences(one: Recording, other: Recording) -> list[str]:
    return list(unified_diff(_text(one), _text(other), lineterm="", n=1))[2:]


def _text(recording: Recording) -> list[str]:
    record = recording.record()
    record.process = ""
    return without_tags(describe(0, record, recording.source, WHOLE)).splitlines()[1:]
