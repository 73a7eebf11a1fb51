"""What MySQL or MariaDB answered, as Python's values; the bytes are kept as they came."""

from __future__ import annotations

from typing import Any

from pytest_netcapture.flows import SqlFlow
from pytest_netcapture.mysql_messages import Reader, Result, packets, results, row, shown_value
from pytest_netcapture.unreadable import Unreadable

_TEXTS = 253


def parameters(flow: SqlFlow) -> list[Any]:
    types = flow.notes.get("types", b"")
    kinds = [types[index] if index < len(types) else _TEXTS for index in range(len(flow.values))]
    return [shown_value(value, kind) for value, kind in zip(flow.values, kinds, strict=True)]


def columns(flow: SqlFlow) -> list[str]:
    return [column.name for result in _results(flow)[0] for column in result.columns]


def rows(flow: SqlFlow) -> list[list[Any]]:
    found = []
    for result in _results(flow)[0]:
        for content in result.rows:
            try:
                found.append(row(content, result.columns, prepared=flow.step == "execute"))
            except Unreadable:
                break
    return found


def command(flow: SqlFlow) -> str:
    """Return how many rows were found or changed: the protocol has no word for it."""
    found, last = _results(flow)
    if flow.step not in ("query", "execute") or last[:1] == b"\xff" or not last:
        return ""
    if found:
        return f"{sum(len(result.rows) for result in found)} rows"
    try:
        return f"{Reader(last, 1).length()} affected"
    except Unreadable:
        return ""


def failure(flow: SqlFlow) -> tuple[str, str]:
    for content in packets(flow.answer):
        if content[:1] == b"\xff":
            text = content[3:]
            state, text = (text[1:6], text[6:]) if text[:1] == b"#" else (b"HY000", text)
            return state.decode("latin-1"), text.decode("utf-8", "replace")
    return "", ""


def _results(flow: SqlFlow) -> tuple[list[Result], bytes]:
    try:
        return results(flow.answer, plain_end="plain" in flow.notes)
    except Unreadable:
        return [], b""
