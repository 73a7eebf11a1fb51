"""The exchanges that a cassette holds, as a chaos run needs them."""

from __future__ import annotations

from collections import Counter

from pytest_netcapture.cassettes.records import HttpRecord, WebSocketRecord
from pytest_netcapture.cassettes.source import Source
from pytest_netcapture.chaos.kinds import Answer, Exchange
from pytest_netcapture.flows import HttpFlow


def exchanges(path: str) -> list[Exchange]:
    """Return the HTTP exchanges in their order. Raises `CassetteError`, `FileNotFoundError`."""
    source = Source(path)
    same: Counter[tuple[str, str, int, str]] = Counter()
    before: Counter[tuple[str, int]] = Counter()
    found: list[Exchange] = []
    try:
        for recording in source.recordings:
            record = recording.record()
            if not isinstance(record, HttpRecord) or isinstance(record, WebSocketRecord):
                continue
            request, response = record.request, record.response
            if response is None:
                continue
            address = request.host, request.port
            path_only = request.target.partition("?")[0] or "/"
            key = request.method, *address, path_only
            found.append(
                Exchange(
                    len(found) + 1,
                    request.method,
                    request.scheme,
                    *address,
                    path_only,
                    response.status,
                    response.body.size,
                    same[key],
                    before[address],
                )
            )
            same[key] += 1
            before[address] += 1
    finally:
        source.close()
    return found


def answer(path: str, number: int) -> Answer:
    """Return the answer of exchange `number`. Raises as `exchanges`."""
    source = Source(path)
    try:
        for recording in source.recordings:
            record = recording.record()
            if not isinstance(record, HttpRecord) or isinstance(record, WebSocketRecord):
                continue
            number -= record.response is not None
            if number:
                continue
            flow = recording.outline()
            assert isinstance(flow, HttpFlow)
            assert flow.response is not None
            response = flow.response
            return Answer(response.status, response.headers.fields, response.body.content)
    finally:
        source.close()
    raise AssertionError("an exchange that was there at collection")
