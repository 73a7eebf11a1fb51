"""Is a cassette what it should be: whole, as its text says, and without secrets.

A secret is what a recording would scrub: fields named like one, values of the environment, shapes
of tokens. What is found is told by its place; its value is not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

from pytest_netcapture.cassettes.journal import body_id
from pytest_netcapture.cassettes.records import bodies_of
from pytest_netcapture.cassettes.scrub import WHOLE, Scrubber
from pytest_netcapture.cassettes.sidecar import describe, heading, sidecar_path, title
from pytest_netcapture.cassettes.source import Source
from pytest_netcapture.errors import CassetteError
from pytest_netcapture.flows import AnyFlow, Headers, HttpFlow, HttpRequest, HttpResponse


def damage(source: Source) -> Iterator[str]:
    """Yield what is wrong with records and bodies; opening has checked the file's frame."""
    known: set[str] = set()
    for number, recording in enumerate(source.recordings, 1):
        try:
            for ref in bodies_of(recording.record()):
                if ref.id and ref.id not in known:
                    known.add(ref.id)
                    if _digest(source.pieces(ref)) != ref.id:
                        yield f"flow {number}: a body is not what its digest says"
        except CassetteError as error:
            yield f"flow {number}: {error.message}"


def _digest(pieces: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return body_id(digest)


def text_of(source: Source) -> str:
    """Return what stands beside a cassette."""
    parts = [heading(os.path.basename(source.path), len(source.recordings))]
    for number, recording in enumerate(source.recordings, 1):
        parts.append(describe(number, recording.record(), source))
    return "".join(parts)


def text_differs(source: Source) -> str:
    """Return how the text beside a cassette is wrong, "" if it is right."""
    try:
        with open(sidecar_path(source.path), "rb") as file:
            found = file.read().replace(b"\r\n", b"\n")
    except OSError as error:
        return f"the text beside it cannot be read: {error.strerror}"
    right = text_of(source).encode("utf-8", "replace")
    return "" if found == right else "the text beside it says something else"


def leaks(source: Source, scrubber: Scrubber) -> Iterator[str]:
    """Yield where secrets are."""
    searched: dict[str, bool] = {}
    for number, recording in enumerate(source.recordings, 1):
        record = recording.record()
        places = list(_changed(recording.outline(), scrubber))
        for side, ref in zip(("request", "response"), bodies_of(record), strict=True):
            if ref.size > WHOLE:
                if ref.id not in searched:
                    before = scrubber.streamed
                    for _ in scrubber.stream(source.pieces(ref)):
                        pass
                    searched[ref.id] = scrubber.streamed != before
                places += [f"{side} body"] * searched[ref.id]
        if places:
            yield f"flow {number}, {title(record)}: {', '.join(places)}"


def _changed(flow: AnyFlow, scrubber: Scrubber) -> Iterator[str]:
    """Yield the parts of a flow that scrubbing changes."""
    clean = scrubber.flow(flow)
    if not isinstance(flow, HttpFlow) or not isinstance(clean, HttpFlow):
        yield from _changed_fields(flow, clean)
        return
    yield from _changed_in(flow.request, clean.request, "request")
    if flow.response and clean.response:
        yield from _changed_in(flow.response, clean.response, "response")
    yield from (
        name for name in _changed_fields(flow, clean) if name not in ("request", "response", "host")
    )


def _changed_in(
    before: HttpRequest | HttpResponse, after: HttpRequest | HttpResponse, side: str
) -> Iterator[str]:
    for name in _changed_fields(before, after):
        fields = getattr(before, name)
        if isinstance(fields, Headers):
            pairs = zip(fields, getattr(after, name), strict=True)
            for field, clean in pairs:
                if field != clean and field[0].lower() != "content-length":
                    yield f"{side} header {field[0]}"
        else:
            yield f"{side} {name}"


def _changed_fields(before: Any, after: Any) -> list[str]:
    names = before.__struct_fields__
    return [name for name in names if getattr(before, name) != getattr(after, name)]
