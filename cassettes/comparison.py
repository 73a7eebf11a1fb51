"""Compare two values field by field, as the report of a miss, of a diff and of drift show it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from pytest_netcapture.cassettes.tags import without_tags
from pytest_netcapture.cassettes.volatile import volatile_part
from pytest_netcapture.flows import Difference

ABSENT = "(absent)"
FIELDS = 40
"""So many differences are told of two messages."""
_LONGEST = 200


def compare(found: list[Difference], field: str, recorded: str, actual: str) -> None:
    if without_tags(recorded) == without_tags(actual):
        return
    found.append(
        Difference(field, _short(recorded), _short(actual), volatile_part(recorded, actual))
    )


def compare_pairs(
    found: list[Difference],
    prefix: str,
    recorded: Iterable[tuple[str, str]],
    actual: Iterable[tuple[str, str]],
) -> None:
    left, right = _grouped(recorded), _grouped(actual)
    for name in [*left, *(n for n in right if n not in left)]:
        compare(found, prefix + name, left.get(name, ABSENT), right.get(name, ABSENT))


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name, []).append(value)
    return {name: ", ".join(sorted(values)) for name, values in grouped.items()}


def pairs_of(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True) if query else []


def compare_content(
    found: list[Difference], field: str, recorded: bytes, actual: bytes, media_type: str
) -> None:
    """Add how two contents differ: as JSON if both are, as a form if they are said to be."""
    if recorded == actual:
        return
    left, right = json_of(recorded), json_of(actual)
    if left is not ABSENT and right is not ABSENT:
        compare_values(found, field, left, right)
    elif "urlencoded" in media_type:
        compare_pairs(
            found,
            f"{field}.",
            pairs_of(recorded.decode("latin-1")),
            pairs_of(actual.decode("latin-1")),
        )
    else:
        compare(found, field, readable(recorded), readable(actual))


def compare_values(found: list[Difference], field: str, recorded: Any, actual: Any) -> None:
    if recorded == actual and type(recorded) is type(actual):
        return
    if isinstance(recorded, dict) and isinstance(actual, dict):
        for key in [*recorded, *(k for k in actual if k not in recorded)]:
            compare_values(
                found, f"{field}.{key}", recorded.get(key, ABSENT), actual.get(key, ABSENT)
            )
    elif isinstance(recorded, list) and isinstance(actual, list):
        for index in range(max(len(recorded), len(actual))):
            left = recorded[index] if index < len(recorded) else ABSENT
            right = actual[index] if index < len(actual) else ABSENT
            compare_values(found, f"{field}[{index}]", left, right)
    else:
        compare(found, field, _spelled(recorded), _spelled(actual))


def json_of(data: bytes) -> Any:
    if data[:64].lstrip()[:1] not in (b"{", b"["):
        return ABSENT
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ABSENT


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


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
