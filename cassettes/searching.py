"""Find a pattern in what a cassette holds, body by body in pieces, so that size does not matter.

A body that several flows share is searched once; what is found in it counts for each of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pytest_netcapture.cassettes.records import (
    AnyRecord,
    BodyRef,
    Fields,
    HttpRecord,
    ServiceRecord,
    WebSocketRecord,
    bodies_of,
)
from pytest_netcapture.cassettes.service_lines import EVERY, service_lines
from pytest_netcapture.cassettes.sidecar import title
from pytest_netcapture.cassettes.source import Source

_AROUND = 100
"""Bytes shown before and after what was found in a long line."""
_REACH = 4096
"""What is found across the border of two pieces may be this long."""


class Hit(NamedTuple):
    """Where something was found: the flow's number and title, the part of it, and the line."""

    number: int
    title: str
    part: str
    line: bytes


def search(source: Source, pattern: re.Pattern[bytes]) -> Iterator[Hit]:
    """Yield the lines in which `pattern` stands, in order of the flows."""
    known: dict[str, list[bytes]] = {}
    for number, recording in enumerate(source.recordings, 1):
        record = recording.record()
        name = title(record)
        for part, text in _heads(record, name):
            yield from (Hit(number, name, part, line) for line in _lines([text], pattern))
        for part, ref in zip(("request body", "response body"), bodies_of(record), strict=True):
            for line in _in_body(source, ref, pattern, known):
                yield Hit(number, name, part, line)


def _heads(record: AnyRecord, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield the parts that are no bodies."""
    yield "flow", name.encode("utf-8", "replace")
    if isinstance(record, HttpRecord):
        yield "request", _text(record.request.headers + record.request.trailers)
        if record.response:
            yield "response", _text(record.response.headers + record.response.trailers)
    if isinstance(record, WebSocketRecord):
        for message in record.messages:
            yield ("message sent" if message.sent else "message received"), message.data
    if isinstance(record, ServiceRecord):
        yield "exchange", "\n".join(service_lines(record, EVERY)).encode("utf-8", "replace")


def _text(fields: Fields) -> bytes:
    return b"\n".join(f"{name}: {value}".encode("utf-8", "replace") for name, value in fields)


def _in_body(
    source: Source, ref: BodyRef, pattern: re.Pattern[bytes], known: dict[str, list[bytes]]
) -> list[bytes]:
    if not ref.size:
        return []
    if ref.id not in known:
        known[ref.id] = list(_lines(source.pieces(ref), pattern))
    return known[ref.id]


def _lines(pieces: Iterable[bytes], pattern: re.Pattern[bytes]) -> Iterator[bytes]:
    """Yield each line that `pattern` is in, once, long ones cut around it."""
    rest, told = b"", 0
    for piece in pieces:
        window = rest + piece
        end_of_last = told
        for match in pattern.finditer(window, told):
            if match.start() < end_of_last:
                continue
            start = max(window.rfind(b"\n", 0, match.start()) + 1, match.start() - _AROUND)
            end = window.find(b"\n", match.end())
            end = min(len(window) if end < 0 else end, match.end() + _AROUND)
            end_of_last = max(end, match.end() + 1)
            yield window[start:end].rstrip(b"\r")
        keep = max(0, len(window) - _REACH)
        told = max(0, end_of_last - keep)
        rest = window[keep:]
