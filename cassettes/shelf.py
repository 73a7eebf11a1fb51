"""Recordings by key: found in constant time, given out in recorded order.

1. Recordings are sorted by the line of their key when a cassette is loaded. Only when a request
   with that line comes are headers and bodies of those recordings read, once.
2. Each key has a queue. Order holds within a key, never between keys, so concurrent requests
   cannot get each other's answers.
3. DNS answers are a state rather than a conversation: how often a name is asked depends on caches.
   A used-up name keeps its last answer. So do failures of a place of which nothing else is known.

Proven by tests/cassettes/test_store.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytest_netcapture.cassettes.format import SEGMENT
from pytest_netcapture.cassettes.keys import Line, Matcher, Rest
from pytest_netcapture.cassettes.queue import Queue
from pytest_netcapture.cassettes.records import HttpRecord, TcpRecord
from pytest_netcapture.cassettes.services import ServiceShelf
from pytest_netcapture.cassettes.source import (
    Peek,
    PeekDns,
    PeekHttp,
    PeekService,
    PeekTcp,
    PeekTls,
    PeekUdp,
    Recording,
)
from pytest_netcapture.cassettes.tags import without_tags
from pytest_netcapture.cassettes.tls_failures import TlsFailures
from pytest_netcapture.flows import FlowError, Headers, Turn
from pytest_netcapture.settings import Repeat

_NO_HEADERS = Headers([])


class Shelf:
    """Everything that a loaded cassette can play."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._lines: dict[Line, list[Recording]] = {}
        self._groups: dict[Line, dict[Rest, Queue]] = {}
        self._dns: dict[tuple[str, str, str, bool], Queue] = {}
        self._failures: dict[tuple[str, int], Queue] = {}
        self._names_of: dict[str, set[str]] = {}
        self._conversations: dict[tuple[str, str, int], list[Recording]] = {}
        self.conversations: list[Recording] = []
        self.opaque: dict[tuple[str, str, int], str] = {}
        """Why what was said with a place was not kept."""
        self.exchanges: list[Recording] = []
        self.failures: list[Recording] = []
        self.dns_types: dict[str, set[str]] = {}
        self.places: set[tuple[str, int]] = set()
        self.http_versions: dict[tuple[str, int], set[str]] = {}
        self.hosts: set[str] = set()
        self.services = ServiceShelf(matcher)
        self.tls_failures = TlsFailures()

    def add(self, peek: Peek, recording: Recording) -> None:
        """Put one recording in its place."""
        if isinstance(peek, PeekHttp):
            request = peek.request
            host = without_tags(request.host)
            line = self._matcher.line(
                request.method, request.scheme, request.host, request.port, request.target
            )
            self._lines.setdefault(line, []).append(recording)
            recording.bare = request.body is None or not request.body.size
            recording.early = peek.response is not None and bool(peek.response.after)
            self.exchanges.append(recording)
            place = (host, request.port)
            self.places.add(place)
            self.http_versions.setdefault(place, set()).add(request.version)
            self.hosts.add(host)
        elif isinstance(peek, PeekDns):
            name = without_tags(peek.name)
            key = (name, peek.type, peek.server, peek.transport == "udp")
            self._dns.setdefault(key, Queue()).recordings.append(recording)
            self.dns_types.setdefault(name, set()).add(peek.type)
            self.hosts.add(name)
            for answer in peek.answers:
                self._names_of.setdefault(answer.data, set()).add(name)
        else:
            self._add_connection(peek, recording)

    def _add_connection(self, peek: Peek, recording: Recording) -> None:
        if isinstance(peek, (PeekHttp, PeekDns)):
            return
        if isinstance(peek, PeekService) and self.services.add(peek, recording):
            self.exchanges.append(recording)
        sni = peek.sni if isinstance(peek, (PeekTcp, PeekTls)) else ""
        names = {without_tags(name) for name in (peek.host, sni) if name}
        self.hosts |= names
        names |= {peek.address} if peek.address else set()
        if isinstance(peek, PeekTls):
            self.tls_failures.add(peek, names, recording)
            if recording.early:
                self.failures.append(recording)
        if isinstance(peek, (PeekTcp, PeekUdp)):
            self._add_conversation(peek, recording, names)
        if isinstance(peek, PeekTcp) and _is_refusal(peek):
            self.failures.append(recording)
            for name in names:
                self._failures.setdefault((name, peek.port), Queue()).recordings.append(recording)
        else:
            self.places |= {(name, peek.port) for name in names}

    def _add_conversation(
        self, peek: PeekTcp | PeekUdp, recording: Recording, names: set[str]
    ) -> None:
        kind = ("tls" if peek.tls else "tcp") if isinstance(peek, PeekTcp) else "udp"
        if _is_playable(peek.turns):
            recording.early = not peek.turns[0].sent
            recording.later = isinstance(peek, PeekTcp) and peek.later
            self.conversations.append(recording)
            for name in names:
                self._conversations.setdefault((kind, name, peek.port), []).append(recording)
        elif peek.reason and not peek.turns:
            self.opaque |= {(kind, name, peek.port): peek.reason for name in names}

    def find(self, line: Line, rest: Rest) -> Queue | None:
        """Return the queue of a key."""
        group = self._groups.get(line)
        if group is None:
            recordings = self._lines.get(line)
            if recordings is None:
                return None
            group = self._groups[line] = self._sorted_out(recordings)
        return group.get(rest)

    def same_line(self, line: Line) -> list[Recording]:
        return self._lines.get(line, [])

    def take(self, line: Line, recording: Recording) -> None:
        """Note that a recording was played out of its queue."""
        recording.played += 1
        queue = self.find(line, self._rest(recording))
        if queue and recording in queue.recordings[queue.position : queue.position + 1]:
            queue.position += 1

    def dns(
        self, name: str, rtype: str, server: str = "", transport: str = "udp"
    ) -> Recording | None:
        """Return the next answer; of the other transport if there is none of this one.

        Who asks again over TCP does so since the answer was large: it is the same one.
        """
        udp = transport == "udp"
        queue = self._dns.get((name, rtype, server, udp))
        if queue is not None:
            return queue.next(Repeat.LAST)
        other = self._dns.get((name, rtype, server, not udp))
        if other is None:
            return None
        return other.again() if other.position and not udp else other.next(Repeat.LAST)

    def failure(self, names: Iterable[str], port: int, repeat: Repeat) -> FlowError | None:
        """Return how the next connection to a place known by any of `names` fails."""
        for name in names:
            queue = self._failures.get((name, port))
            if queue is None:
                continue
            for recording in queue.recordings[queue.position :]:
                queue.position += 1
                if not recording.played:  # it also stands in the queue of another name
                    return _error_of(recording)
            if not self.knows(name, port, failures=False) or repeat is not Repeat.ONCE:
                return _error_of(queue.recordings[-1])
        return None

    def talks(self, kind: str, names: Iterable[str], port: int) -> list[Recording]:
        """Return the conversations (tcp, tls, udp) with a place known by any of `names`."""
        found = [self._conversations.get((kind, name, port), []) for name in names]
        every = {recording.offset: recording for each in found for recording in each}
        return [every[offset] for offset in sorted(every)]

    def knows(self, name: str, port: int, *, failures: bool = True) -> bool:
        for known in (name, *self._names_of.get(name, ())):
            if (known, port) in self.places or (failures and (known, port) in self._failures):
                return True
        return False

    def _sorted_out(self, recordings: list[Recording]) -> dict[Rest, Queue]:
        group: dict[Rest, Queue] = {}
        for recording in recordings:
            rest = self._rest(recording)
            group.setdefault(rest, Queue()).recordings.append(recording)
        return group

    def _rest(self, recording: Recording) -> Rest:
        if recording.bare and not self._matcher.needs_headers:
            return self._matcher.rest(_NO_HEADERS, b"")
        record = recording.record()
        assert isinstance(record, HttpRecord)
        body, source = record.request.body, recording.source
        headers = Headers(record.request.headers)
        if not body.size or not self._matcher.needs_body:
            return self._matcher.rest(headers, b"")
        content = source.content(body) if body.size <= SEGMENT else source.pieces(body)
        return self._matcher.rest(headers, content)


def _is_refusal(peek: PeekTcp) -> bool:
    """Tell whether it never was a connection; what is opaque (`reason`) may end with a reset."""
    if peek.error is None or peek.turns:
        return False
    return not (peek.reason and peek.error.kind == "reset")


def _is_playable(turns: list[Turn]) -> bool:
    """Tell whether anything was said, or the server ended it at once."""
    return bool(turns) and (not turns[0].sent or any(not turn.end for turn in turns))


def _error_of(recording: Recording) -> FlowError | None:
    recording.played += 1
    record = recording.record()
    assert isinstance(record, TcpRecord)
    return record.error
