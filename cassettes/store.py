"""One cassette in use by one test: what it can play, and what it records.

The modes are vcrpy's and pytest-recording's:

| mode | plays | records |
| --- | --- | --- |
| none | what is there | never |
| once | what is there | when there was no file, or the file is of this session |
| new_episodes | what is there | the rest |
| all | never | everything; replaces recordings with the same key |
| rewrite | never | everything; the file starts empty |

1. `record` only remembers; `flush` scrubs and writes to the journal; `save` merges the journal into
   the file. Neither `record` nor `flush` raises: what went wrong is raised by `save`.
2. What was recorded here is not played here: a test sees the network or the file it began with.
3. Every request is scrubbed as recordings were before it is looked up.

Proven by tests/cassettes/test_store.py, test_modes.py and test_sharing.py.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable

from pytest_netcapture.cassettes import session
from pytest_netcapture.cassettes.conversation import Conversation
from pytest_netcapture.cassettes.dialogue import Dialogue
from pytest_netcapture.cassettes.explain import (
    explain_dns,
    explain_http,
    explain_used_up,
    without_looking,
)
from pytest_netcapture.cassettes.journal import Journal
from pytest_netcapture.cassettes.keys import Line, Matcher, Rest
from pytest_netcapture.cassettes.miss import Miss
from pytest_netcapture.cassettes.records import HttpRecord, RawRecord
from pytest_netcapture.cassettes.recovery import count_of, recover_journals
from pytest_netcapture.cassettes.saving import Saved, cannot_write, salt_of, save
from pytest_netcapture.cassettes.script import Script
from pytest_netcapture.cassettes.scrub import WHOLE, Scrubber
from pytest_netcapture.cassettes.secrets import Secrets
from pytest_netcapture.cassettes.shelf import Shelf
from pytest_netcapture.cassettes.source import Recording, Source
from pytest_netcapture.cassettes.tags import without_tags
from pytest_netcapture.cassettes.talks import Talks, Teacher
from pytest_netcapture.errors import CassetteError
from pytest_netcapture.flows import (
    AnyFlow,
    Body,
    DnsFlow,
    FlowError,
    Headers,
    HttpFlow,
    HttpRequest,
    Origin,
    RawFlow,
    ServiceFlow,
    TcpFlow,
    TlsFailure,
    UdpFlow,
    WebSocketFlow,
)
from pytest_netcapture.hook_names import REVIEWS
from pytest_netcapture.settings import CassetteUse, RecordMode, Repeat

_SILENT = (RecordMode.ALL, RecordMode.REWRITE)
_RECOVERING = (RecordMode.NEW_EPISODES, RecordMode.ALL)
_DAY = 86_400

_KEPT, _SMALL = 256, 1 << 16
"""How many exchanges that may be played again are kept decoded, and bytes of the largest."""
_KEPT_KEYS = 4096


class Cassette:
    """Open one with `Cassette.open`; end with `save` or `discard`, then `close`."""

    def __init__(
        self, use: CassetteUse, session_started_ns: int, secrets: Secrets, spool_dir: str
    ) -> None:
        self.use = use
        self.path = os.path.realpath(use.path)
        self.warnings: list[str] = []
        self.played = 0
        self.recorded = 0
        self._session = session_started_ns
        self._matcher = Matcher(use.match_on, f"match_on of {use.path}", use.filters.ignore)
        self._shelf = Shelf(self._matcher)
        self._kept: dict[int, HttpFlow] = {}
        self._keys: dict[tuple[object, ...], tuple[Line, Rest]] = {}
        self._keys_version = -1
        self._pending: list[AnyFlow] = []
        self._waits = not REVIEWS.isdisjoint(use.hooks)
        self.settled = False
        """Whether the project's own code has had its say: what comes later is not recorded."""
        self._failure: OSError | None = None
        self.warnings += recover_journals(self.path, keep=use.mode in _RECOVERING)
        self._source = self._load(spool_dir)
        self.file_exists = self._source is not None or os.path.lexists(self.path)
        self._salt = self._source.header.salt if self._source else salt_of(self.path)
        self._scrubber = Scrubber(secrets, use.filters, self._salt, use.edits)
        self._journal = Journal(self.path, self._salt, self._scrubber)
        self._talks = Talks(use, self._shelf, self._scrubber.same_length)
        self._teacher: Teacher | None = None
        self.can_play = use.mode not in _SILENT and (
            self._source is not None or use.mode is RecordMode.NONE
        )
        self.can_record = self._may_record()
        self._check_age()

    @classmethod
    def open(
        cls, use: CassetteUse, *, session_started_ns: int, secrets: Secrets, spool_dir: str
    ) -> Cassette:
        """Load the file of `use` if there is one. Raises `CassetteError`, `UsageError`."""
        return cls(use, session_started_ns, secrets, spool_dir)

    # Loading

    def _load(self, spool_dir: str) -> Source | None:
        visit = None if self.use.mode in _SILENT else self._shelf.add
        try:
            source = Source(self.path, visit, spool_dir=spool_dir)
        except FileNotFoundError:
            return None
        except CassetteError:
            if self.use.mode is RecordMode.REWRITE:
                return None
            raise
        if self.use.mode is RecordMode.ALL:
            session.remember(source, self._session)
        return source

    def _may_record(self) -> bool:
        if self.use.mode is not RecordMode.ONCE:
            return self.use.mode is not RecordMode.NONE
        return self._source is None or session.is_of_session(self._source, self._session)

    def _check_age(self) -> None:
        limit, source = self.use.max_age, self._source
        if not limit or source is None or not source.header.recorded:
            return
        try:
            today = dt.datetime.fromtimestamp(time.time(), dt.timezone.utc).date()
            age = (today - dt.date.fromisoformat(source.header.recorded)).days
        except ValueError:
            return
        if age * _DAY > limit:
            self.warnings.append(
                f"{self.path}: recorded {age} days ago, max_age is {limit // _DAY} days: "
                "record it again with --netcapture-record-mode=rewrite"
            )

    @property
    def secrets(self) -> Secrets:
        """What is scrubbed wherever it stands; more may be told while recording."""
        return self._scrubber.secrets

    # Playing

    def play_http(self, request: HttpRequest) -> HttpFlow | Miss:
        """Return the recording whose turn it is, or why there is none. Raises `CassetteError`."""
        line, rest = self._key_of(request)
        queue = self._shelf.find(line, rest) if self.can_play else None
        recording = queue.next(self.use.repeat) if queue else None
        if recording is None:
            return explain_http(self, self._scrubber.request(request), queue, line)
        self.played += 1
        return self._exchange(recording)

    def candidates(self, request: HttpRequest) -> list[tuple[Recording, HttpFlow]]:
        """Return the recordings with a request's method and host that were not played."""
        if not self.can_play:
            return []
        host, found = self._known_as(request.host), []
        for recording in self._shelf.exchanges:
            record = recording.record()
            if isinstance(record, HttpRecord) and not recording.played:
                known = without_tags(record.request.host)
                if (record.request.method, known) == (request.method, host):
                    flow = recording.flow()
                    assert isinstance(flow, HttpFlow)
                    found.append((recording, flow))
        return found

    def take(self, recording: Recording) -> None:
        """Note that one of the candidates is played."""
        record = recording.record()
        assert isinstance(record, HttpRecord)
        r = record.request
        self._took(self._matcher.line(r.method, r.scheme, r.host, r.port, r.target), recording)

    def _key_of(self, request: HttpRequest) -> tuple[Line, Rest]:
        """Return a request's key; those of requests without a body are kept."""
        if request.body.size or request.trailers.fields:
            return self._compute_key(request)
        if self._keys_version != self.secrets.version or len(self._keys) >= _KEPT_KEYS:
            self._keys.clear()
            self._keys_version = self.secrets.version
        r = request
        asked = (r.method, r.target, r.host, r.port, r.scheme, *r.headers.fields)
        key = self._keys.get(asked)
        if key is None:
            key = self._keys[asked] = self._compute_key(request)
        return key

    def _compute_key(self, request: HttpRequest) -> tuple[Line, Rest]:
        scrubbed = self._scrubber.request(request)
        return self._line(scrubbed), self._rest(scrubbed)

    def _exchange(self, recording: Recording) -> HttpFlow:
        """Return what was recorded; one that may be played again is kept, if it is small."""
        kept = self._kept.get(id(recording))
        if kept is not None:
            return kept
        flow = recording.flow()
        assert isinstance(flow, HttpFlow)
        if self.use.repeat is not Repeat.ONCE and len(self._kept) < _KEPT and _is_small(flow):
            self._kept[id(recording)] = flow
        return flow

    def begin_http(self, request: HttpRequest) -> Dialogue | Miss | None:
        """Look up a request whose body is still to come, by its line alone.

        A `Dialogue` when the server had not waited for the end of the body; a `Miss` when nothing
        with that line can be played; None when it is the body that decides.
        """
        if not self.can_play:
            return None
        scrubbed = self._scrubber.request(request)
        line = self._line(scrubbed)
        recordings = self._shelf.same_line(line)
        if not recordings:
            return explain_http(self, scrubbed, None, line)
        early = [recording for recording in recordings if recording.early]
        if not early:
            return None
        left = [recording for recording in early if not recording.played]
        if not left and self.use.repeat is not Repeat.ONCE:
            left = early[-1:] if self.use.repeat is Repeat.LAST else early
        if not left:
            return None if len(early) < len(recordings) else explain_used_up(early)
        flows = [recording.flow() for recording in left]
        return Dialogue(
            [flow for flow in flows if isinstance(flow, HttpFlow)],
            lambda index: self._took(line, left[index]),
            lambda data: self._scrubber.content(data, "", []),
        )

    def _took(self, line: Line, recording: Recording) -> None:
        self._shelf.take(line, recording)
        self.played += 1

    def conversation(self, flow: WebSocketFlow) -> Conversation:
        """Return what is to be said, and expected, on a recorded WebSocket."""
        return Conversation(flow, self._scrubber.message)

    def play_service(self, flow: ServiceFlow) -> ServiceFlow | Miss:
        """Return the recording whose turn it is for what a client asks of a database or broker."""
        asked = self._scrubber.service(flow)
        found = self._shelf.services.next(asked, self.use.repeat) if self.can_play else None
        if found is None:
            return without_looking(self) or self._shelf.services.explain(
                asked, records=self.can_record
            )
        self.played += 1
        recorded = found.flow()
        assert isinstance(recorded, ServiceFlow)
        return recorded

    def compare_sent(self, recorded: ServiceFlow, flow: ServiceFlow) -> Miss | None:
        """Return how what a client sent when told to go on differs from what was recorded."""
        return self._shelf.services.compare_sent(recorded, self._scrubber.service(flow))

    def encrypted(self, names: tuple[str, ...], address: str, port: int) -> bool:
        """Tell whether a server that lets clients choose was recorded over TLS."""
        known = {(self._known_as(name), port) for name in (*names, address)}
        return self.can_play and self._shelf.services.encrypted(known)

    def greeting(self, names: tuple[str, ...], address: str, port: int) -> str:
        """Return which protocol was recorded of a server that speaks first; "" for none."""
        known = {(self._known_as(name), port) for name in (*names, address)}
        return self._shelf.services.greeting(known) if self.can_play else ""

    def play_dns(
        self, name: str, rtype: str, server: str = "", transport: str = "udp"
    ) -> DnsFlow | Miss:
        """Return the recorded answer; the last one again when all were given."""
        name = self._known_as(name)
        asked = (name, rtype.upper(), server, transport)
        recording = self._shelf.dns(*asked) if self.can_play else None
        if recording is None:
            return explain_dns(self, name, rtype.upper(), server)
        flow = recording.flow()
        assert isinstance(flow, DnsFlow)
        self.played += 1
        return flow

    def script(
        self,
        kind: str,
        names: Iterable[str],
        port: int,
        began: Callable[[], None],
        *,
        later: bool = False,
    ) -> Script | Miss:
        """Return what a new conversation with a place plays.

        `kind` is tcp, udp, or tls for TCP inside of TLS that is taken off; `later` says that there
        was something else on the connection before. `began` is told when any of it is played.
        """

        def plays() -> None:
            self.played += 1
            began()

        if early := without_looking(self):
            return early
        return self._talks.script(kind, self._known(names), port, plays, later=later)

    def speaks_first(self, kind: str, names: Iterable[str], port: int) -> bool:
        """Tell whether the server of the next connection to a place is to speak first."""
        return self.can_play and self._talks.speaks_first(kind, self._known(names), port)

    def converses(self, kind: str, names: Iterable[str], port: int) -> bool:
        """Tell whether a conversation with a place, as bytes, was recorded."""
        return self.can_play and bool(self._shelf.talks(kind, self._known(names), port))

    def _known(self, names: Iterable[str]) -> list[str]:
        return list(dict.fromkeys(self._known_as(name) for name in names if name))

    def asked_for(self, name: str) -> bool:
        """Tell whether any question for a name was recorded."""
        return self._known_as(name) in self._shelf.dns_types

    def connection_error(
        self, host: str, names: tuple[str, ...], address: str, port: int
    ) -> FlowError | None:
        """Return how the next connection to this place failed when recorded, if it did."""
        if not self.can_play:
            return None
        known = dict.fromkeys([*(self._known_as(n) for n in (host, *names) if n), address])
        error = self._shelf.failure(known, port, self.use.repeat)
        self.played += error is not None
        return error

    def tls_failure(self, names: Iterable[str], port: int) -> TlsFailure | None:
        """Return how the next TLS handshake with a place fails on the server's side, if it does."""
        if not self.can_play:
            return None
        known = self._known(names)
        only = not any((name, port) in self._shelf.http_versions for name in known)
        return self._shelf.tls_failures.next(known, port, only=only)

    def tls_failed(self, names: Iterable[str], port: int) -> bool:
        """Note that a handshake has failed; tell whether that is as recorded."""
        found = self.can_play and self._shelf.tls_failures.take(self._known(names), port)
        self.played += found
        return found

    def knows(self, host_or_address: str, port: int) -> bool:
        """Tell whether anything is recorded for this host, or address of one, and port."""
        return self._shelf.knows(self._known_as(host_or_address), port)

    def http_versions(self, host: str, port: int) -> set[str]:
        """Return the versions of HTTP in which exchanges with this host were recorded."""
        if not self.can_play:
            return set()
        return self._shelf.http_versions.get((self._known_as(host), port), set())

    @property
    def hosts(self) -> set[str]:
        """The names that any recorded flow has."""
        return self._shelf.hosts

    @property
    def unused(self) -> list[AnyFlow]:
        """Recorded exchanges and failures that were not played; none when the mode plays none.

        They are for people to look at: of a body over 1 MiB only the size is there.
        """
        if not self.can_play:
            return []
        shelf, is_played = self._shelf, self._talks.is_played
        candidates = [*shelf.exchanges, *shelf.failures, *shelf.conversations]
        return [recording.outline() for recording in candidates if not is_played(recording)]

    @property
    def shelf(self) -> Shelf:
        return self._shelf

    @property
    def matcher(self) -> Matcher:
        return self._matcher

    def _line(self, request: HttpRequest) -> Line:
        return self._matcher.line(
            request.method, request.scheme, request.host, request.port, request.target
        )

    def _rest(self, request: HttpRequest) -> Rest:
        if not self._matcher.needs_rest:
            return ()
        body = request.body
        if not body.size or not self._matcher.needs_body:
            return self._matcher.rest(request.headers, b"")
        if body.size > WHOLE:
            return self._matcher.rest(request.headers, self._scrubber.stream(body.pieces()))
        return self._matcher.rest(request.headers, body.content)

    def _known_as(self, name: str) -> str:
        return without_tags(self._scrubber.name(name.lower().rstrip("."))) or "."

    # Recording

    def record(self, flow: AnyFlow) -> None:
        """Remember a finished flow. It is not changed, and must not be from now on."""
        wanted = self.can_record and not self.settled
        if wanted and _worth_recording(flow) and not self._is_there(flow):
            self._pending.append(flow)
            self.recorded += 1

    def _is_there(self, flow: AnyFlow) -> bool:
        """Tell whether this exchange of a live session is on the cassette already."""
        if not self.can_play or not isinstance(flow, ServiceFlow):
            return False
        asked = self._scrubber.service(flow)
        return self._shelf.services.next(asked, Repeat.ONCE) is not None

    def pending(self) -> list[AnyFlow]:
        """Return what waits for the project's own code."""
        return self._pending

    def settle(self, flows: list[AnyFlow]) -> int:
        """Record what that code has made of it, and no more; return how many were left out."""
        left_out = len(self._pending) - len(flows)
        self._pending, self._waits, self.settled = flows, False, True
        self.recorded -= left_out
        return left_out

    def flush(self) -> None:
        """Scrub what is pending and append it to the journal."""
        if not self._pending or self._failure or self._waits:
            return
        pending, self._pending = self._pending, []
        readable = [flow for flow in pending if _bodies_exist(flow)]
        if len(readable) < len(pending):
            lost = len(pending) - len(readable)
            self.recorded -= lost
            self.warnings.append(f"{self.path}: {count_of(lost)} lost: a spooled body is gone")
        try:
            self._journal.append(map(self._taught, readable))
        except OSError as error:
            self._failure = error
            self._journal.remove()

    def _taught(self, flow: AnyFlow) -> AnyFlow:
        """Learn from the recording that this one replaces what varies by itself."""
        if self.use.mode is not RecordMode.ALL or self._source is None:
            return flow
        if not isinstance(flow, (TcpFlow, UdpFlow)) or not flow.turns:
            return flow
        if self._teacher is None:
            self._teacher = Teacher(self._source, self._session)
        return self._teacher.taught(flow)

    def save(self) -> Saved:
        """Merge what was recorded into the file. Raises `CassetteError`; the file then stays."""
        self.flush()
        if self._failure:
            failure, self._failure = self._failure, None
            raise cannot_write(self.path, failure)
        if not self._journal.path:
            return Saved(self.path)
        try:
            with contextlib.closing(self._journal.source()) as added:
                added.recordings = _as_begun(added.recordings, self._journal.numbers)
                saved = self._save(added)
        finally:
            self.discard()
        return saved

    def _save(self, added: Source) -> Saved:
        removed: Counter[bytes] = Counter()

        def keep(base: Source) -> list[Recording]:
            if self.use.mode is RecordMode.REWRITE and not session.is_of_session(
                base, self._session
            ):
                return []
            if self.use.mode is RecordMode.ALL:
                return self._not_replaced(base, added, removed)
            return base.recordings

        saved = save(
            self.path, added, keep, self._salt, start_over=self.use.mode is RecordMode.REWRITE
        )
        if self.use.mode is RecordMode.ALL:
            session.saved(self.path, self._session, saved.version, removed)
        return saved

    def _not_replaced(
        self, base: Source, added: Source, removed: Counter[bytes]
    ) -> list[Recording]:
        """Return what stays of `base` in mode all: all but old recordings that have a new one."""
        older = session.older_than_session(base, self._session)
        fresh = {self._key(recording) for recording in added.recordings}
        kept = []
        for recording in base.recordings:
            digest = session.digest(recording) if older else b""
            if older[digest] > 0 and self._key(recording) in fresh:
                older[digest] -= 1
                removed[digest] += 1
            else:
                kept.append(recording)
        return kept

    def _key(self, recording: Recording) -> tuple[object, ...]:
        record = recording.record()
        if isinstance(record, HttpRecord):
            r, source = record.request, recording.source
            line = self._matcher.line(r.method, r.scheme, r.host, r.port, r.target)
            if not self._matcher.needs_rest:
                return line
            pieces = source.content(r.body) if r.body.size <= WHOLE else source.pieces(r.body)
            return (*line, self._matcher.rest(Headers(r.headers), pieces))
        flow = recording.outline()
        if isinstance(flow, ServiceFlow):
            return self._shelf.services.key(flow)
        if isinstance(flow, DnsFlow):
            return flow.host, flow.type, flow.server, flow.transport == "udp"
        return flow.host, flow.port, flow.protocol, flow.address

    def discard(self) -> None:
        """Drop what was recorded and not saved, and its journal."""
        self._pending = []
        self._journal.remove()
        self._journal = Journal(self.path, self._salt, self._scrubber)

    def close(self) -> None:
        """Discard, and close the file. Spool files of played bodies stay in the spool folder."""
        self.discard()
        if self._source:
            self._source.close()


def _is_small(flow: HttpFlow) -> bool:
    return flow.request.body.size + (flow.response.body.size if flow.response else 0) < _SMALL


def _worth_recording(flow: AnyFlow) -> bool:
    """Leave out what did not come from the network, and loopback connections left alone."""
    if flow.origin is not Origin.LIVE:
        return False
    if isinstance(flow, ServiceFlow):
        return "skipped" not in flow.notes
    return not (isinstance(flow, RawFlow) and flow.reason == "loopback" and flow.error is None)


def _bodies_exist(flow: AnyFlow) -> bool:
    bodies: list[Body] = []
    if isinstance(flow, HttpFlow):
        bodies = [flow.request.body, *([flow.response.body] if flow.response else [])]
    elif isinstance(flow, RawFlow):
        bodies = [flow.outgoing, flow.incoming]
    return all(not body.path or os.path.exists(body.path) for body in bodies)


def _as_begun(recordings: list[Recording], numbers: list[int]) -> list[Recording]:
    """Put conversations in the order in which they began: who speaks first is told by it."""
    raw = [isinstance(recording.record(), RawRecord) for recording in recordings]
    pairs = zip(numbers, recordings, raw, strict=False)
    ordered = (each for _, each, is_raw in sorted(pairs, key=lambda pair: pair[0]) if is_raw)
    return [next(ordered) if is_raw else each for each, is_raw in zip(recordings, raw, strict=True)]
