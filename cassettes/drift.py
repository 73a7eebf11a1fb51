"""How a live answer differs from a recorded one: in shape, or only in values.

1. Shape is what code relies on: that there is an answer, its status, media type, the names of
   header fields, and of JSON which keys there are and of what types. Elements of a list count
   together; one that is empty on either side says nothing about its elements.
2. All else is values, but for the HTTP version, which is up to who asks. What was scrubbed counts
   as equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from pytest_netcapture.cassettes.comparison import ABSENT, compare, json_of
from pytest_netcapture.cassettes.diffing import response_differences
from pytest_netcapture.cassettes.format import SEGMENT
from pytest_netcapture.cassettes.keys import canonical_headers
from pytest_netcapture.flows import Difference, DnsFlow, HttpFlow, HttpResponse, Message

_NAMES = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
_NUMBER = "number"

Shape = dict[str, set[str]]


class Drift(NamedTuple):
    """What differs. `shape` is what breaks code, `values` what may be other every day."""

    shape: list[Difference]
    values: list[Difference]


def drift_of(
    recorded: HttpFlow, actual: HttpFlow, ignored: Callable[[str], bool] = lambda _: False
) -> Drift:
    """Compare two answers to one request."""
    shape: list[Difference] = []
    left, right = recorded.response, actual.response
    if left is None or right is None:
        compare(shape, "response", _how(recorded), _how(actual))
        return Drift([one for one in shape if not ignored(one.field)], [])
    compare(shape, "response.status", str(left.status), str(right.status))
    compare(shape, "response.media_type", _media_type(left), _media_type(right))
    _compare_names(shape, left, right)
    _compare_bodies(shape, left, right)
    told = {one.field for one in shape}
    values = [
        one
        for one in response_differences(recorded, actual)
        if one.field not in ("status", "http_version") and _general(one.field) not in told
    ]
    return Drift(*([one for one in found if not ignored(one.field)] for found in (shape, values)))


def _general(field: str) -> str:
    """Return what a place of a value is called in a shape."""
    return re.sub(r"\[\d+\]", "[*]", field)


def dns_drift_of(
    recorded: DnsFlow, actual: DnsFlow, ignored: Callable[[str], bool] = lambda _: False
) -> Drift:
    """Compare two answers of DNS: code and types of records are shape, data is a value."""
    shape: list[Difference] = []
    values: list[Difference] = []
    compare(shape, "dns.rcode", recorded.rcode or "none", actual.rcode or "none")
    types, data = [], []
    for flow in (recorded, actual):
        types.append(", ".join(sorted({answer.type for answer in flow.answers})) or "none")
        data.append(", ".join(sorted(answer.data for answer in flow.answers)) or "none")
    compare(shape, "dns.types", *types)
    compare(values, "dns.answers", *data)
    return Drift(*([one for one in found if not ignored(one.field)] for found in (shape, values)))


def _how(flow: HttpFlow) -> str:
    if flow.response:
        return str(flow.response.status)
    return flow.error.kind if flow.error else "none"


def _media_type(message: Message) -> str:
    return (message.headers.get("content-type") or "none").partition(";")[0].strip().lower()


def _compare_names(found: list[Difference], left: HttpResponse, right: HttpResponse) -> None:
    before, after = ({name for name, _ in canonical_headers(one.headers)} for one in (left, right))
    for name in sorted(before ^ after):
        sides = ("there" if name in side else ABSENT for side in (before, after))
        compare(found, f"response.headers.{name}", *sides)


def _compare_bodies(found: list[Difference], left: HttpResponse, right: HttpResponse) -> None:
    if max(left.body.size, right.body.size) > SEGMENT:
        return
    values = [json_of(one.content) for one in (left, right)]
    if any(value is ABSENT for value in values):
        kinds = ("something else" if value is ABSENT else "JSON" for value in values)
        compare(found, "response.body", *kinds)
        return
    before, after = map(_shape, values)
    unknown = [place for side in (before, after) for place, types in side.items() if not types]
    for place in [*before, *(place for place in after if place not in before)]:
        if any(place.startswith(empty) for empty in unknown):
            continue
        sides = before.get(place, set()), after.get(place, set())
        if not sides[1] or not sides[1] <= sides[0]:
            spelled = (" or ".join(sorted(types)) or ABSENT for types in sides)
            compare(found, f"response.body{place}", *spelled)


def _shape(value: Any) -> Shape:
    """Return the types at each place of a JSON value; none at the elements of an empty list."""
    shape: Shape = {}
    _add(shape, "", value)
    return shape


def _add(shape: Shape, place: str, value: Any) -> None:
    shape.setdefault(place, set()).add(_NAMES.get(type(value), _NUMBER))
    if isinstance(value, dict):
        for key, one in value.items():
            _add(shape, f"{place}.{key}", one)
    elif isinstance(value, list):
        if not value:
            shape.setdefault(f"{place}[*]", set())
        for one in value:
            _add(shape, f"{place}[*]", one)
