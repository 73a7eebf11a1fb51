"""Which recording comes closest to a request that none answers, and in what they differ.

Two steps, so that a miss in a large cassette stays cheap: all candidates are ranked by their
request line alone, and only the best few are read and compared field by field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from pytest_netcapture.cassettes.format import SEGMENT
from pytest_netcapture.cassettes.keys import canonical_headers
from pytest_netcapture.cassettes.records import HttpRecord
from pytest_netcapture.cassettes.source import Recording
from pytest_netcapture.cassettes.tags import without_tags
from pytest_netcapture.cassettes.volatile import volatile_part
from pytest_netcapture.flows import Difference, HttpFlow, HttpRequest, WebSocketMessage
from pytest_netcapture.grpc_messages import fields_of

_WEIGHTS = {"host": 30.0, "path": 25.0, "method": 12.0, "body": 12.0, "port": 8.0, "query": 8.0}
_OTHER_WEIGHT = 4.0
_VOLATILE_SHARE = 0.3
_CANDIDATES = 2000
_CLOSE = 8
_LONGEST = 200
_FIELDS = 40
_ABSENT = "(absent)"


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
            _compare(found, name, str(getattr(recorded, name)), str(getattr(actual, name)))
    if "uri" in names and not {"host", "path", "query"} & set(names):
        _compare(found, "uri", recorded.url, actual.url)
    if "query" in names:
        _compare_pairs(found, "query.", _pairs(recorded.query), _pairs(actual.query))
    if "headers" in names:
        left, right = canonical_headers(recorded.headers), canonical_headers(actual.headers)
        _compare_pairs(found, "headers.", left, right)
    if {"body", "json", "form"}.intersection(names):
        _compare_bodies(found, recorded, actual)
    elif "raw_body" in names:
        _compare(found, "raw_body", readable(recorded.body.content), readable(actual.body.content))
    return found[:_FIELDS]


def matcher_of(difference: Difference) -> str:
    """Return the name in match_on that makes `difference` count."""
    return difference.field.partition(".")[0].partition("[")[0]


def message_differences(recorded: WebSocketMessage, actual: WebSocketMessage) -> list[Difference]:
    """Return how two messages of a WebSocket differ, field by field when both are JSON."""
    found: list[Difference] = []
    _compare(found, "kind", recorded.kind, actual.kind)
    left, right = _json(recorded.data), _json(actual.data)
    if left is not _ABSENT and right is not _ABSENT:
        _compare_values(found, "message", left, right)
    else:
        _compare(found, "message", readable(recorded.data), readable(actual.data))
    return found[:_FIELDS]


def protobuf_differences(recorded: bytes, actual: bytes) -> list[Difference]:
    """Return how two messages of a gRPC call differ, by field number."""
    found: list[Difference] = []
    try:
        _compare_values(
            found, "message", _by_name(fields_of(recorded)), _by_name(fields_of(actual))
        )
    except ValueError:
        _compare(found, "message", readable(recorded), readable(actual))
    return found[:_FIELDS]


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


def _compare(found: list[Difference], field: str, recorded: str, actual: str) -> None:
    if without_tags(recorded) == without_tags(actual):
        return
    found.append(
        Difference(field, _short(recorded), _short(actual), volatile_part(recorded, actual))
    )


def _compare_pairs(
    found: list[Difference],
    prefix: str,
    recorded: Iterable[tuple[str, str]],
    actual: Iterable[tuple[str, str]],
) -> None:
    left, right = _grouped(recorded), _grouped(actual)
    for name in [*left, *(n for n in right if n not in left)]:
        _compare(found, prefix + name, left.get(name, _ABSENT), right.get(name, _ABSENT))


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name, []).append(value)
    return {name: ", ".join(sorted(values)) for name, values in grouped.items()}


def _pairs(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True) if query else []


def _compare_bodies(found: list[Difference], recorded: HttpRequest, actual: HttpRequest) -> None:
    if max(recorded.body.size, actual.body.size) > SEGMENT:
        found.append(Difference("body", _size(recorded), f"{_size(actual)}, perhaps other ones"))
        return
    left, right = recorded.body.content, actual.body.content
    if left == right:
        return
    left_json, right_json = _json(left), _json(right)
    if left_json is not _ABSENT and right_json is not _ABSENT:
        _compare_values(found, "body", left_json, right_json)
    elif "urlencoded" in (actual.headers.get("content-type") or ""):
        _compare_pairs(
            found, "body.", _pairs(left.decode("latin-1")), _pairs(right.decode("latin-1"))
        )
    else:
        _compare(found, "body", readable(left), readable(right))


def _compare_values(found: list[Difference], field: str, recorded: Any, actual: Any) -> None:
    if recorded == actual and type(recorded) is type(actual):
        return
    if isinstance(recorded, dict) and isinstance(actual, dict):
        for key in [*recorded, *(k for k in actual if k not in recorded)]:
            _compare_values(
                found, f"{field}.{key}", recorded.get(key, _ABSENT), actual.get(key, _ABSENT)
            )
    elif isinstance(recorded, list) and isinstance(actual, list):
        for index in range(max(len(recorded), len(actual))):
            left = recorded[index] if index < len(recorded) else _ABSENT
            right = actual[index] if index < len(actual) else _ABSENT
            _compare_values(found, f"{field}[{index}]", left, right)
    else:
        _compare(found, field, _spelled(recorded), _spelled(actual))


def _json(data: bytes) -> Any:
    if data[:64].lstrip()[:1] not in (b"{", b"["):
        return _ABSENT
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _ABSENT


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _size(request: HttpRequest) -> str:
    return f"{request.body.size} bytes"


def readable(data: bytes) -> str:
    """Return how bytes begin: as text if they are, else in hex."""
    if not data:
        return "(empty)"
    try:
        return data[: 4 * _LONGEST].decode()
    except UnicodeDecodeError:
        return f"{len(data)} bytes: {data[:32].hex(' ')}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
