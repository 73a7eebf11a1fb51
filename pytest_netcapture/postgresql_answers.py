"""What PostgreSQL answered, as Python's values; the bytes are kept as they came."""

from __future__ import annotations

import struct
from typing import Any

from pytest_netcapture.flows import SqlFlow
from pytest_netcapture.postgresql_messages import (
    TEXT,
    Column,
    Content,
    error_fields,
    shown_value,
    split,
)
from pytest_netcapture.postgresql_messages import (
    columns as columns_of,
)
from pytest_netcapture.unreadable import Unreadable


def parameters(flow: SqlFlow) -> list[Any]:
    types, formats = numbers(flow.notes.get("types", b"")), numbers(flow.notes.get("formats", b""))
    shown = []
    for index, value in enumerate(flow.values):
        kind = types[index] if index < len(types) else 0
        form = formats[index] if index < len(formats) else TEXT
        shown.append(shown_value(value, kind, form))
    return shown


def columns(flow: SqlFlow) -> list[str]:
    names = []
    for kind, content in split(flow.answer):
        if kind == b"T":
            names += [column.name for column in _columns(content)]
    return names or [column.name for column in _columns(flow.notes.get("columns", b""))]


def rows(flow: SqlFlow) -> list[list[Any]]:
    described = _columns(flow.notes.get("columns", b""))
    found: list[list[Any]] = []
    for kind, content in split(flow.answer):
        if kind == b"T":
            described = _columns(content)
        elif kind == b"D":
            found.append(_row(content, described))
    return found


def command(flow: SqlFlow) -> str:
    tags = [content for kind, content in split(flow.answer) if kind == b"C"]
    return "; ".join(tag.rstrip(b"\0").decode("utf-8", "replace") for tag in tags)


def failure(flow: SqlFlow) -> tuple[str, str]:
    for kind, content in split(flow.answer):
        if kind == b"E":
            fields = error_fields(content)
            return fields.get("C", ""), fields.get("M", "")
    return "", ""


def packed(numbers: list[int]) -> bytes:
    """Return numbers as `numbers` reads them."""
    return struct.pack(f">{len(numbers)}i", *numbers)


def numbers(data: bytes) -> list[int]:
    return list(struct.unpack(f">{len(data) // 4}i", data[: len(data) // 4 * 4]))


def _columns(content: bytes) -> list[Column]:
    try:
        return columns_of(content) if content else []
    except Unreadable:
        return []


def _row(content: bytes, described: list[Column]) -> list[Any]:
    try:
        values = Content(content).values()
    except Unreadable:
        return []
    row = []
    for index, value in enumerate(values):
        column = described[index] if index < len(described) else None
        row.append(shown_value(value, column.type, column.format) if column else value)
    return row
