"""Recorded exchanges with databases and brokers: found again by who asks what, in recorded order.

1. A key is the protocol, the server, the session (user and database), the step, the question, its
   values, and the form of the answer. Not the connection: pools hand out others each time.
2. Of equal keys the recordings are played in their order, each once (or as `repeat` says). How
   often a client connects and prepares depends on pools and caches: the last is played again.
3. Without "host", "port" or "body" in match_on, the server's name or port, or the values and what
   was sent, do not count.

Proven by tests/cassettes/test_services.py.
"""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from pytest_netcapture.cassettes.comparison import readable
from pytest_netcapture.cassettes.keys import Matcher
from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.cassettes.queue import Queue
from pytest_netcapture.cassettes.tags import bytes_without_tags, without_tags
from pytest_netcapture.cassettes.volatile import volatile_kind
from pytest_netcapture.flows import Difference, ServiceFlow, SqlFlow
from pytest_netcapture.settings import Repeat

if TYPE_CHECKING:
    from pytest_netcapture.cassettes.source import PeekService, Recording

Key: TypeAlias = tuple[object, ...]

_MADE = re.compile(rb"(?im)^(?:date|message-id):.*\n(?:[ \t].*\n)*")
_BOUNDARY = re.compile(rb'(?i)boundary="?([^"\s;]{6,70})')
_STATES = frozenset(("greeting", "connect", "prepare"))
_CANDIDATES, _CLOSE, _LOOKED_AT = 2000, 8, 400
_AGAIN = "record it again with --netcapture-record-mode=rewrite: a session is played as a whole"
_SHARED = (
    "was it recorded by another test, that used a wider fixture first? Give tests that share it "
    'one cassette: @pytest.mark.cassette("name"). Else record it again with '
    "--netcapture-record-mode=rewrite"
)
_TEXT = 200


class ServiceShelf:
    """What a cassette holds of them."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._queues: dict[Key, Queue] = {}
        self._peeks: list[tuple[PeekService, Recording]] = []

    def add(self, peek: PeekService, recording: Recording) -> bool:
        """Put one in its place; tell whether it should be played."""
        self._queues.setdefault(self.key(peek), Queue()).recordings.append(recording)
        self._peeks.append((peek, recording))
        return peek.step not in _STATES

    def next(self, flow: ServiceFlow, repeat: Repeat) -> Recording | None:
        """Return the recording whose turn it is for a scrubbed flow."""
        queue = self._queues.get(self.key(flow))
        if queue is None:
            return None
        return queue.next(Repeat.LAST if flow.step in _STATES else repeat)

    def greeting(self, place: set[tuple[str, int]]) -> str:
        """Return which protocol was recorded at a place where the server speaks first."""
        for peek, _ in self._peeks:
            if peek.notes.get("speaks") and (peek.host, peek.port) in place:
                return peek.service
        return ""

    def encrypted(self, place: set[tuple[str, int]]) -> bool:
        """Tell whether sessions with the server at a place were begun over TLS."""
        return any(
            peek.notes.get("tls") and (peek.host, peek.port) in place for peek, _ in self._peeks
        )

    def explain(self, flow: ServiceFlow, *, records: bool) -> Miss:
        """Say why nothing answers a scrubbed flow."""
        queue = self._queues.get(self.key(flow))
        if queue is not None:
            count = len(queue.recordings)
            reason = f"used up: {count} of {count} recordings were played"
            last = queue.recordings[-1].outline()
            return Miss(MissKind.USED_UP, reason, last, advice=_AGAIN)
        if records:
            return Miss(MissKind.NEVER, "never recorded")
        nearest = self._nearest(flow)
        if nearest is None:
            reason = f"never recorded: the cassette holds nothing of {flow.service}"
            return Miss(MissKind.NEVER, reason, advice=_AGAIN)
        found = differences(nearest, flow)
        volatile = {one.volatile for one in found}
        if found and "" not in volatile:
            names = ", ".join(one.field for one in found)
            reason = f"only a volatile value differs: {names} ({', '.join(sorted(volatile))})"
            advice = 'match_on without "body" leaves the values out of the comparison'
            return Miss(MissKind.VOLATILE, reason, nearest, found, advice)
        advice = _SHARED if flow.step in _STATES else _AGAIN
        return Miss(MissKind.NEVER, "never recorded", nearest, found, advice)

    def compare_sent(self, recorded: ServiceFlow, flow: ServiceFlow) -> Miss | None:
        """Compare what was sent when told to go on, of a recording that was found before."""
        same = canonical_sent(recorded) == canonical_sent(flow)
        if same or not self._matcher.needs_body:
            return None
        found = [Difference("sent", readable(recorded.sent), readable(flow.sent))]
        return Miss(
            MissKind.NEVER, "what was sent is not what was recorded", recorded, found, _AGAIN
        )

    def key(self, one: PeekService | ServiceFlow) -> Key:
        """Return what two exchanges must share for one to answer for the other."""
        host, port = self._matcher.place(one.host, one.port)
        asked = (one.service, host, port, without_tags(one.session), one.step, one.form)
        question = without_tags(one.question)
        if not self._matcher.needs_body:
            return (*asked, question)
        values = [None if v is None else bytes_without_tags(v) for v in one.values]
        return (*asked, question, *values)

    def _nearest(self, flow: ServiceFlow) -> ServiceFlow | None:
        same = [pair for pair in self._peeks if pair[0].service == flow.service]
        near = heapq.nlargest(_CLOSE, same[:_CANDIDATES], key=lambda pair: _likeness(pair[0], flow))
        flows = [
            one for _, recording in near if isinstance(one := recording.outline(), ServiceFlow)
        ]
        return min(flows, key=lambda one: _distance(one, flow), default=None)


def canonical_sent(flow: ServiceFlow) -> bytes:
    """Return bytes that are equal for what means the same: a mail without what its making gives."""
    sent = bytes_without_tags(flow.sent)
    if flow.service != "smtp":
        return sent
    boundary = _BOUNDARY.search(sent)
    if boundary is not None:
        sent = sent.replace(boundary.group(1), b"boundary")
    head, gap, body = sent.partition(b"\n\n")
    return _MADE.sub(b"", head + b"\n") + gap + body


def differences(recorded: ServiceFlow, actual: ServiceFlow) -> list[Difference]:
    """Compare two scrubbed exchanges by what the client said."""
    found = []
    left, right = dict(_parts(recorded)), dict(_parts(actual))
    for name in dict.fromkeys((*left, *right)):
        one, other = left.get(name, "(absent)"), right.get(name, "(absent)")
        if without_tags(one) != without_tags(other):
            found.append(Difference(name, one, other, volatile_kind(one, other)))
    return found


def _parts(flow: ServiceFlow) -> Iterable[tuple[str, str]]:
    is_sql = isinstance(flow, SqlFlow)
    yield "host", flow.host
    yield "port", str(flow.port)
    yield "session", flow.session
    yield "step", flow.step
    yield ("statement" if is_sql else "question"), flow.question
    values = flow.parameters if isinstance(flow, SqlFlow) else flow.values
    for number, value in enumerate(values, 1):
        text = readable(value)[:_TEXT] if isinstance(value, bytes) else repr(value)
        yield f"{'parameter' if is_sql else 'value'} {number}", text
    if flow.form:
        yield "form", flow.form


def _likeness(peek: PeekService, flow: ServiceFlow) -> float:
    score = 2.0 * (peek.session == flow.session) + 2.0 * (peek.step == flow.step)
    score += 10.0 * (peek.question == flow.question)
    score += sum(one == other for one, other in zip(peek.values, flow.values, strict=False))
    if peek.question == flow.question:
        return score + 10.0
    matcher = difflib.SequenceMatcher(
        None, peek.question[:_LOOKED_AT], flow.question[:_LOOKED_AT], autojunk=False
    )
    return score + 10.0 * matcher.quick_ratio()


def _distance(one: ServiceFlow, flow: ServiceFlow) -> tuple[int, float]:
    matcher = difflib.SequenceMatcher(
        None, one.question[:_LOOKED_AT], flow.question[:_LOOKED_AT], autojunk=False
    )
    return len(differences(one, flow)), -matcher.ratio()
