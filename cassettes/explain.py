"""Turn the lack of a recording into a `Miss`: which one, how near the nearest is, what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_netcapture.cassettes.ignoring import parse
from pytest_netcapture.cassettes.keys import Line
from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.cassettes.nearest import matcher_of, nearest
from pytest_netcapture.cassettes.queue import Queue
from pytest_netcapture.cassettes.shelf import Shelf
from pytest_netcapture.cassettes.source import Recording
from pytest_netcapture.flows import AnyFlow, Difference, HttpRequest
from pytest_netcapture.settings import RecordMode

if TYPE_CHECKING:
    from pytest_netcapture.cassettes.store import Cassette

_RECORD = "record it with --netcapture-record-mode=new_episodes"


def explain_http(cassette: Cassette, request: HttpRequest, queue: Queue | None, line: Line) -> Miss:
    """Say why no recording answers the scrubbed `request`; `line` is of its key."""
    if early := without_looking(cassette):
        return early
    if queue:
        return explain_used_up(queue.recordings)
    if cassette.can_record:
        return Miss(MissKind.NEVER, "never recorded")
    candidates = cassette.shelf.same_line(line) or cassette.shelf.exchanges
    found = nearest(request, candidates, cassette.matcher.names, cassette.matcher.ignored.covers)
    if found is None:
        return Miss(
            MissKind.NEVER, "never recorded: the cassette holds no exchange", advice=_RECORD
        )
    flow, differing = found
    return _unlike(flow, differing)


def explain_dns(cassette: Cassette, name: str, rtype: str, server: str) -> Miss:
    if early := without_looking(cassette):
        return early
    types = cassette.shelf.dns_types.get(name)
    if not types:
        return Miss(MissKind.NEVER, f"never recorded: {name} was not asked for", advice=_RECORD)
    known = ", ".join(sorted(types))
    if rtype in types:
        whom = server or "a server of resolv.conf"
        reason = f"never recorded: {whom} was not asked for {name} {rtype}, but another was"
        return Miss(MissKind.NEVER, reason, advice=_RECORD)
    return Miss(
        MissKind.NEVER, f"never recorded: {name} was asked for {known}, not {rtype}", advice=_RECORD
    )


def explain_raw(shelf: Shelf, kind: str, names: list[str], port: int) -> Miss:
    """Say that no conversation with a place that a client has one with can be played."""
    for name in names:
        if why := shelf.opaque.get((kind.replace("tls", "tcp"), name, port)):
            reason = f"what was said was not recorded: {why}"
            return Miss(MissKind.NEVER, reason, advice="let the test reach its server")
    inside = {"tls": "conversation inside TLS"}.get(kind, f"{kind.upper()} conversation")
    reason = f"never recorded: no {inside} with {names[0]}:{port}"
    return Miss(MissKind.NEVER, reason, advice=_RECORD)


def without_looking(cassette: Cassette) -> Miss | None:
    """Return why nothing can be played, whatever it is, if that is so."""
    if not cassette.file_exists:
        if cassette.can_record:
            return Miss(MissKind.NO_FILE, "no cassette file yet")
        reason = f"no cassette file: {cassette.path} does not exist"
        return Miss(MissKind.NO_FILE, reason, advice="record it with --netcapture-record-mode=once")
    if cassette.use.mode in (RecordMode.ALL, RecordMode.REWRITE):
        return Miss(MissKind.NEVER, f"record mode {cassette.use.mode.value} plays nothing")
    return None


def explain_used_up(recordings: list[Recording]) -> Miss:
    count = len(recordings)
    return Miss(
        MissKind.USED_UP,
        f"used up: {count} of {count} recordings were played",
        nearest=recordings[-1].outline(),
        advice=f'allow repeats with repeat="any" (or "last", "cycle"), or {_RECORD}',
    )


def _ignoring(differing: list[Difference]) -> str:
    """Return how to leave out of the comparison just what differs, "" when it cannot be."""
    fields = list(dict.fromkeys(re.sub(r"\[\d+\]", "[*]", d.field) for d in differing))
    try:
        places = [parse(field) for field in fields]
    except ValueError:
        return ""
    listed = ", ".join(f'"{field}"' for field in fields)
    return f', and so does filters={{"ignore": [{listed}]}}' if places else ""


def _unlike(flow: AnyFlow, differing: list[Difference]) -> Miss:
    matchers = list(dict.fromkeys(matcher_of(d) for d in differing))
    volatile = {d.volatile for d in differing}
    without = "match_on without " + " and ".join(f'"{name}"' for name in matchers)
    if differing and "" not in volatile:
        names = ", ".join(d.field for d in differing)
        kind = MissKind.SCRUBBED if volatile == {"scrubbed"} else MissKind.VOLATILE
        what = "scrubbed" if kind is MissKind.SCRUBBED else "volatile"
        reason = f"only a {what} field differs: {names} ({', '.join(sorted(volatile))})"
        return Miss(kind, reason, flow, differing, f"{without} accepts it{_ignoring(differing)}")
    advice = _RECORD
    if differing and set(matchers) <= {"query", "body", "headers"}:
        advice = f"{without} would accept the nearest, or {_RECORD}"
    return Miss(MissKind.NEVER, "never recorded", flow, differing, advice)
