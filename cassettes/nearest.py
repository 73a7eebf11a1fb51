"""Which recording comes closest to a request that none answers, and in what they differ.

Two steps, so that a miss in a large cassette stays cheap: all candidates are ranked by their
request line alone, and only the best few are read and compared field by field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pytest_netcapture.cassettes.comparison import (
    ABSENT,
    FIELDS,
    compare,
    compare_content,
    compare_pairs,
    compare_values,
    json_of,
    pairs_of,
    readable,
)
from pytest_netcapture.cassettes.format import SEGMENT
from pytest_netcapture.cassettes.keys import canonical_headers
from pytest_netcapture.cassettes.records import HttpRecord
from pytest_netcapture.cassettes.source import Recording
from pytest_netcapture.flows import Difference, HttpFlow, HttpRequest, WebSocketMessage
from pytest_netcapture.grpc_messages import fields_of

_WEIGHTS = {"host": 30.0, "path": 25.0, "method": 12.0, "body": 12.0, "port": 8.0, "query": 8.0}
_OTHER_WEIGHT = 4.0
_VOLATILE_SHARE = 0.3
_CANDIDATES = 2000
_CLOSE = 8


def nearest(
    request: HttpRequest,
    recordings: Iterable[Recording],
    names: tuple[str, ...],
    ignored: Callable[[str], bool] = lambda _: False,
) -> tuple[HttpFlow, list[Difference]] | None:
    """Return the recording nearest to a scrubbed `request`, and the differences in `names`."""
    ranked = sorted(_ranked(request, recordings), key=lambda pair: -pair[0])
    best: tuple[float, HttpFlow, list[Difference]] | None = None
    for _, recording in ranked[:_CLOSE]:
        flow = recording.outline()
        if not isinstance(flow, HttpFlow):
            continue
        every = differences(flow.request, request, names)
        found = [difference for difference in every if not ignored(difference.field)]
        score = _distance(found)
        if best is None or score < best[0]:
            best = score, flow, found
    return best[1:] if best else None


def differences(
    recorded: HttpRequest, actual: HttpRequest, names: tuple[str, ...]
) -> list[Difference]:
    """Compare two scrubbed requests in the parts that `names` (of match_on) compare."""
    found: list[Difference] = []
    for name in ("method", "scheme", "host", "port", "path"):
        if name in names:
            compare(found, name, str(getattr(recorded, name)), str(getattr(actual, name)))
    if "uri" in names and not {"host", "path", "query"} & set(names):
        compare(found, "uri", recorded.url, actual.url)
    if "query" in names:
        compare_pairs(found, "query.", pairs_of(recorded.query), pairs_of(actual.query))
    if "headers" in names:
        left, right = canonical_headers(recorded.headers), canonical_headers(actual.headers)
        compare_pairs(found, "headers.", left, right)
    if {"body", "json", "form"}.intersection(names):
        _compare_bodies(found, recorded, actual)
    elif "raw_body" in names:
        compare(found, "raw_body", readable(recorded.body.content), readable(actual.body.content))
    return found[:FIELDS]


def matcher_of(difference: Difference) -> str:
    """Return the name in match_on that makes `difference` count."""
    return difference.field.partition(".")[0].partition("[")[0]


def message_differences(recorded: WebSocketMessage, actual: WebSocketMessage) -> list[Difference]:
    """Return how two messages of a WebSocket differ, field by field when both are JSON."""
    found: list[Difference] = []
    compare(found, "kind", recorded.kind, actual.kind)
    left, right = json_of(recorded.data), json_of(actual.data)
    if left is not ABSENT and right is not ABSENT:
        compare_values(found, "message", left, right)
    else:
        compare(found, "message", readable(recorded.data), readable(actual.data))
    return found[:FIELDS]


def protobuf_differences(recorded: bytes, actual: bytes) -> list[Difference]:
    """Return how two messages of a gRPC call differ, by field number."""
    found: list[Difference] = []
    try:
        compare_values(found, "message", _by_name(fields_of(recorded)), _by_name(fields_of(actual)))
    except ValueError:
        compare(found, "message", readable(recorded), readable(actual))
    return found[:FIELDS]


def _by_name(value: Any) -> Any:
    """Return field numbers as text, and bytes as hex, to be compared as JSON is."""
    if isinstance(value, dict):
        return {str(number): _by_name(item) for number, item in value.items()}
    if isinstance(value, list):
        return [_by_name(item) for item in value]
    return value.hex(" ") if isinstance(value, bytes) else value


def _ranked(
    request: HttpRequest, recordings: Iterable[Recording]
) -> Iterator[tuple[float, Recording]]:
    for count, recording in enumerate(recordings):
        if count >= _CANDIDATES:
            return
        record = recording.record()
        if isinstance(record, HttpRecord):
            yield _likeness(request, record), recording


def _likeness(request: HttpRequest, record: HttpRecord) -> float:
    other = record.request
    path, _, query = other.target.partition("?")
    score = _WEIGHTS["host"] * (other.host == request.host)
    score += _WEIGHTS["method"] * (other.method == request.method)
    score += _WEIGHTS["port"] * (other.port == request.port)
    score += _WEIGHTS["path"] * _shared(path.split("/"), request.path.split("/"))
    score += _WEIGHTS["query"] * _shared(query.split("&"), request.query.split("&"))
    largest = max(other.body.size, request.body.size, 1)
    return score + _WEIGHTS["body"] * min(other.body.size, request.body.size) / largest


def _shared(left: list[str], right: list[str]) -> float:
    same = sum(a == b for a, b in zip(left, right, strict=False))
    return same / max(len(left), len(right))


def _distance(found: list[Difference]) -> float:
    return sum(
        _WEIGHTS.get(d.field, _OTHER_WEIGHT) * (_VOLATILE_SHARE if d.volatile else 1) for d in found
    )


def _compare_bodies(found: list[Difference], recorded: HttpRequest, actual: HttpRequest) -> None:
    if max(recorded.body.size, actual.body.size) > SEGMENT:
        found.append(Difference("body", _size(recorded), f"{_size(actual)}, perhaps other ones"))
        return
    media_type = actual.headers.get("content-type") or ""
    compare_content(found, "body", recorded.body.content, actual.body.content, media_type)


def _size(request: HttpRequest) -> str:
    return f"{request.body.size} bytes"
