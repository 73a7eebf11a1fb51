"""What the test process asks of the engine, one method a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from pytest_netcapture.cassettes.secrets import Secrets
from pytest_netcapture.cassettes.store import Cassette
from pytest_netcapture.engine.connection import Connection
from pytest_netcapture.engine.control import Answer
from pytest_netcapture.engine.namespaces import EngineNamespace
from pytest_netcapture.engine.scopes import Scope
from pytest_netcapture.errors import CassetteError, NetcaptureError
from pytest_netcapture.fault_messages import CutAll, GetSchedule, Schedule, SetFault
from pytest_netcapture.flows import AnyFlow, HttpFlow, Origin, Problem, RawFlow, WebSocketFlow
from pytest_netcapture.messages import (
    Abandon,
    Begin,
    Begun,
    CassetteState,
    Close,
    Closed,
    Counts,
    Done,
    End,
    Ended,
    FlowList,
    GetCassette,
    GetFlows,
    GetProblems,
    GetRecordings,
    Lease,
    Moved,
    ProblemList,
    Publish,
    Published,
    Request,
    SavePackets,
    SetRecordings,
    SetVariable,
    Update,
    WaitChange,
)
from pytest_netcapture.mock_messages import (
    GetCalls,
    GetUnused,
    OpenQuestions,
    Questions,
    SetMock,
    SetName,
    Unused,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pytest_netcapture.engine.main import Engine

_FLUSH_DELAY = 0.05
"""Seconds until recorded flows go to the journal: batches, off the data path."""


class Requests:
    """Handles the control channel's requests."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._secrets = Secrets.from_environ(engine.options.secrets)
        self._leases: dict[int, EngineNamespace] = {}
        self._lingering: list[Scope] = []
        self._looking = self._look_again = False
        self._flushing: set[int] = set()
        self._handlers: dict[type, Callable[..., Answer | Awaitable[Answer] | None]] = {
            Lease: self._lease,
            Begin: self._begin,
            SetVariable: self._set_variable,
            Update: self._update,
            GetFlows: self._flows,
            GetProblems: self._problems,
            GetCassette: self._cassette,
            WaitChange: self._wait_change,
            GetRecordings: self._recordings,
            SetRecordings: self._set_recordings,
            Publish: self._publish,
            SetMock: self._set_mock,
            SetFault: self._set_fault,
            SetName: self._set_name,
            CutAll: self._cut_all,
            GetSchedule: self._schedule,
            GetCalls: self._calls,
            GetUnused: self._unused,
            OpenQuestions: self._open_questions,
            Abandon: self._abandon,
            Moved: self._moved,
            SavePackets: self._save_packets,
            End: self._end,
            Close: self._close,
        }

    def handle(self, request: Request) -> Answer | Awaitable[Answer] | None:
        return self._handlers[type(request)](request)

    @property
    def lingering(self) -> list[Scope]:
        """Return what has ended while something was left in its namespace."""
        return self._lingering

    def flush_soon(self, scope: Scope, flow: AnyFlow) -> None:
        """Put what is recorded on disk soon; a large body takes long and waits for the end."""
        scope.heavy = scope.heavy or _is_spooled(flow)
        if not scope.heavy and scope.id not in self._flushing:
            self._flushing.add(scope.id)
            self._engine.loop.call_later(_FLUSH_DELAY, self._flush, scope)

    def abandon(self) -> None:
        """Drop the recordings of tests that the session's end cut off; old cassettes stay."""
        for scope in [self._engine.scopes.running, self._engine.scopes.session]:
            if scope is not None and scope.cassette is not None:
                scope.cassette.discard()

    # ── tests ────────────────────────────────────────────────────────────────────────────────

    def _lease(self, request: Lease) -> Answer | Awaitable[Answer]:
        namespace = self._engine.pool.take()
        return self._leased(request, namespace) if namespace else self._lease_later(request)

    async def _lease_later(self, request: Lease) -> Answer:
        return self._leased(request, await self._engine.pool.wait())

    def _leased(self, request: Lease, namespace: EngineNamespace) -> Answer:
        identity = self._engine.scopes.reserve()
        self._leases[identity] = namespace
        return _begun(identity, namespace, request.known)

    def _begin(self, request: Begin) -> Answer | Awaitable[Answer] | None:
        namespace = self._leases.pop(request.scope)
        scopes = self._engine.scopes
        if request.parent >= 0:
            parent = scopes.get(request.parent)
            scope = scopes.begin_child(parent, request.scope, request.nodeid, namespace)
            answer = _begun(scope.id, namespace, request.known)
        else:
            answer = self._test(request, namespace)
        if request.settings.packets:
            return self._keep_packets(scopes.get(request.scope), answer)
        return answer if request.reply else None

    async def _keep_packets(self, scope: Scope, answer: Answer) -> Answer:
        """Answer when they are kept: nothing may be sent before."""
        problem = await self._engine.packets.begin(scope)
        begun, fds = answer
        assert isinstance(begun, Begun)
        warnings = (*begun.warnings, problem) if problem else begun.warnings
        return msgspec.structs.replace(begun, warnings=warnings), fds

    def _save_packets(self, request: SavePackets) -> Answer:
        scope = self._engine.scopes.get(request.scope)
        self._engine.drain(scope)
        self._engine.packets.save(scope, request.path)
        return Done(), ()

    def _test(self, request: Begin, namespace: EngineNamespace) -> Answer:
        scopes = self._engine.scopes
        scope = scopes.begin(request.scope, request.nodeid, request.settings, namespace)
        try:
            scope.cassette = self._open(scope)
        except NetcaptureError:
            scopes.forget(scope)
            self._engine.pool.give_back(namespace)
            raise
        scopes.running = scope
        warnings = tuple(scope.cassette.warnings) if scope.cassette else ()
        return _begun(scope.id, namespace, request.known, warnings)

    def _open(self, scope: Scope) -> Cassette | None:
        use = scope.settings.cassette
        if use is None:
            return None
        options = self._engine.options
        return Cassette.open(
            use,
            session_started_ns=options.started_ns,
            secrets=self._secrets,
            spool_dir=self._engine.scopes.spool(scope),
        )

    def _set_variable(self, request: SetVariable) -> Answer:
        variable = {request.name: request.value}
        self._secrets.take(variable)
        running = self._engine.scopes.running
        if running is not None and running.cassette is not None:
            running.cassette.secrets.take(variable)
        return Done(), ()

    def _update(self, request: Update) -> Answer:
        scope = self._engine.scopes.get(request.scope)
        self._engine.drain(scope)
        before, scope.settings = scope.settings, request.settings
        warnings: tuple[str, ...] = ()
        if request.settings.cassette != before.cassette:
            scope.cassette = self._open(scope)
            warnings = tuple(scope.cassette.warnings) if scope.cassette else ()
        for child in scope.children:
            child.settings, child.cassette = scope.settings, scope.cassette
        return Done(warnings), ()

    def _end(self, request: End) -> Answer | Awaitable[Answer] | None:
        engine = self._engine
        scope = engine.scopes.get(request.scope)
        if request.quiet:
            # After the packets that have arrived with this message: a datagram needs no answer.
            engine.loop.call_soon(self._end_quietly, request, scope)
            return None
        engine.drain(scope)
        self._end_with_programs(scope)
        if scope.heavy:
            return self._end_later(request, scope)
        return self._ended(request, scope, self._save(scope))

    def _publish(self, request: Publish) -> Answer:
        scope = self._engine.scopes.get(request.scope)
        port = self._engine.publisher.open(scope, request.port, request.host_port)
        return Published(port), ()

    def _set_mock(self, request: SetMock) -> Answer:
        self._engine.scopes.get(request.scope).mocks.set(request)
        return Done(), ()

    def _set_fault(self, request: SetFault) -> Answer:
        self._engine.scopes.get(request.scope).faults.add(request)
        return Done(), ()

    def _set_name(self, request: SetName) -> Answer:
        self._engine.scopes.get(request.scope).names.add(request)
        return Done(), ()

    def _cut_all(self, request: CutAll) -> Answer:
        for connection in list(self._engine.connections):
            if isinstance(connection, Connection) and connection.scope.id == request.scope:
                connection.cut("reset")
        return Done(), ()

    def _schedule(self, request: GetSchedule) -> Answer:
        faults = self._engine.scopes.get(request.scope).faults
        return Schedule([fault.schedule() for fault in faults]), ()

    def _open_questions(self, request: OpenQuestions) -> Answer:
        scope = self._engine.scopes.get(request.scope)
        return Questions(), [self._engine.mocking.open(scope)]

    def _calls(self, request: GetCalls) -> Answer:
        scope = self._engine.scopes.get(request.scope)
        return FlowList(scope.mocks.get(request.number).calls), ()

    def _unused(self, request: GetUnused) -> Answer:
        mocks = self._engine.scopes.get(request.scope).mocks
        return Unused([f"{m.text}: {left}" for m in mocks if (left := m.left())]), ()

    def _abandon(self, request: Abandon) -> Answer:
        namespace = self._leases.pop(request.scope, None)
        scope = self._engine.scopes.find(request.scope)
        if namespace is not None:
            self._engine.pool.give_back(namespace)
        elif scope is not None and scope.active:
            self._engine.drain(scope)
            if scope.cassette is not None:
                scope.cassette.discard()
            self._end_quietly(End(scope.id, clean=False), scope)
        return Done(), ()

    def _end_quietly(self, request: End, scope: Scope) -> None:
        session = self._engine.scopes.session
        self._end_with_programs(scope)
        _add_up(session.counts, scope.counts)
        session.problems += scope.problems[request.problems_seen :]
        self._recycle(scope, clean=request.clean)

    def _end_with_programs(self, scope: Scope) -> None:
        self._engine.scopes.end(scope)
        self._engine.publisher.close(scope)
        self._engine.mocking.close(scope)
        for child in scope.children:
            self._engine.scopes.end(child)
            _add_up(scope.counts, child.counts)
            self._recycle(child, clean=False)

    async def _end_later(self, request: End, scope: Scope) -> Answer:
        """Save in a thread, so that what other tests' children still do is served meanwhile."""
        warnings = await self._engine.loop.run_in_executor(None, self._save, scope)
        return self._ended(request, scope, warnings)

    def _ended(self, request: End, scope: Scope, warnings: tuple[str, ...]) -> Answer:
        cassette = scope.cassette
        unused = list(cassette.unused) if cassette and cassette.can_play else []
        scope.counts.unused += len(unused)
        if cassette is not None:
            cassette.close()
        reply = Ended(scope.counts, scope.problems[request.problems_seen :], unused, warnings)
        self._recycle(scope, clean=request.clean)
        return reply, ()

    def _save(self, scope: Scope) -> tuple[str, ...]:
        """Save the scope's cassette; what goes wrong is the test's problem, not the session's."""
        cassette = scope.cassette
        if cassette is None or not cassette.can_record:
            return ()
        known = len(cassette.warnings)
        if not cassette.settled:
            _record_open(scope)
        try:
            cassette.flush()
            cassette.save()
        except CassetteError as error:
            scope.counts.recorded = 0
            scope.problems.append(Problem(kind="cassette", reason=error.message, advice=error.cure))
        return tuple(cassette.warnings[known:])

    def _recycle(self, scope: Scope, *, clean: bool) -> None:
        """Give the namespace back if nothing of the test is left in it; else look again later."""
        self._engine.packets.end(scope)
        self._lingering.append(scope)
        if clean:
            self._engine.loop.call_soon(self._sweep, scope)
        else:
            self._look_again = True
            self._look()

    def _sweep(self, scope: Scope) -> None:
        namespace = scope.namespace
        if namespace is None or scope not in self._lingering:
            return
        if self._engine.attribution.sockets_left(namespace.id) == 0:
            self._lingering.remove(scope)
            self._engine.scopes.forget(scope)
            self._engine.redirector.renew(namespace)
            self._engine.pool.give_back(namespace)

    def _look(self) -> None:
        """Look around in a thread; one look at a time, since each is at all processes."""
        if self._look_again and not self._looking:
            self._looking, self._look_again = True, False
            self._engine.loop.run_in_executor(None, self._look_around)

    def _looked(self) -> None:
        self._looking = False
        self._look()

    def _look_around(self) -> None:
        """Sweep the namespaces that hold no process any more. Runs in a thread."""
        left = [(scope, scope.namespace) for scope in list(self._lingering)]
        held = [(scope, namespace) for scope, namespace in left if namespace is not None]
        pool, loop = self._engine.pool, self._engine.loop
        try:
            every = pool.are_empty([namespace for _, namespace in held])
            for scope, namespace in held:
                if every or pool.is_empty(namespace):
                    loop.call_soon_threadsafe(self._sweep, scope)
        finally:
            loop.call_soon_threadsafe(self._looked)

    def _flush(self, scope: Scope) -> None:
        self._flushing.discard(scope.id)
        if scope.active and not scope.heavy and scope.cassette is not None:
            try:
                scope.cassette.flush()
            except CassetteError as error:
                self._engine.scopes.problem(
                    scope, Problem(kind="cassette", reason=error.message, advice=error.cure)
                )
                scope.cassette.discard()
                scope.cassette = None

    def _moved(self, request: Moved) -> None:
        self._engine.pool.moved(request.tick, request.last_number, request.namespace)

    # ── looking ──────────────────────────────────────────────────────────────────────────────

    def _flows(self, request: GetFlows) -> Answer:
        scope = self._engine.scopes.get(request.scope)
        self._engine.drain(scope)
        return FlowList(scope.flows), ()

    def _problems(self, request: GetProblems) -> Answer:
        scope = self._engine.scopes.get(request.scope)
        self._engine.drain(scope)
        return ProblemList(scope.problems[request.since :]), ()

    def _cassette(self, request: GetCassette) -> Answer:
        scope = self._engine.scopes.get(request.scope)
        cassette, use = scope.cassette, scope.settings.cassette
        if cassette is None or use is None:
            return CassetteState(), ()
        unused = list(cassette.unused) if cassette.can_play else []
        return CassetteState(
            use.path, use.mode.value, cassette.played, cassette.recorded, unused
        ), ()

    def _recordings(self, request: GetRecordings) -> Answer:
        scope = self._engine.scopes.get(request.scope)
        self._engine.drain(scope)
        if scope.cassette is None or not scope.cassette.can_record:
            return FlowList([]), ()
        _record_open(scope)
        return FlowList(scope.cassette.pending()), ()

    def _set_recordings(self, request: SetRecordings) -> Answer:
        scope = self._engine.scopes.get(request.scope)
        if scope.cassette is not None:
            scope.counts.recorded -= scope.cassette.settle(request.flows)
        return Done(), ()

    async def _wait_change(self, request: WaitChange) -> Answer:
        scopes = self._engine.scopes
        if scopes.changes == request.seen:
            event = asyncio.Event()
            watcher = lambda _changes: event.set()
            scopes.watchers.append(watcher)
            try:
                await asyncio.wait_for(event.wait(), request.timeout)
            except asyncio.TimeoutError:
                pass
            finally:
                scopes.watchers.remove(watcher)
        return Done(), ()

    def _close(self, _request: Close) -> Answer:
        # The engine stays until the process has ended: atexit handlers have traffic too.
        session = self._engine.scopes.session
        for connection in self._engine.connections:
            connection.count_left()
        self._engine.pool.remember()
        undecrypted = self._engine.opener.undecrypted
        return Closed(session.counts, session.problems, undecrypted=undecrypted), ()


def _begun(
    scope: int, namespace: EngineNamespace, known: list[int], warnings: tuple[str, ...] = ()
) -> Answer:
    fds = [] if namespace.id in known or namespace.fd < 0 else [namespace.fd]
    return Begun(scope, namespace.id, fds=len(fds), warnings=warnings), fds


def _record_open(scope: Scope) -> None:
    """Record of conversations that go on what was said so far."""
    assert scope.cassette is not None
    for flow in [flow for one in (scope, *scope.children) for flow in one.flows]:
        if _is_open(flow):
            scope.cassette.record(flow)
            scope.counts.recorded += 1


def _is_open(flow: AnyFlow) -> bool:
    """Tell whether a conversation goes on: it was not recorded yet."""
    if flow.ended or flow.origin is not Origin.LIVE:
        return False
    if isinstance(flow, WebSocketFlow):
        return flow.opened
    return isinstance(flow, RawFlow) and flow.reason != "loopback" and _has_passed(flow)


def _has_passed(flow: RawFlow) -> bool:
    return bool(flow.turns or flow.sent or flow.received)


def _is_spooled(flow: AnyFlow) -> bool:
    if isinstance(flow, RawFlow):
        return bool(flow.outgoing.path or flow.incoming.path)
    if not isinstance(flow, HttpFlow):
        return False
    return bool(flow.request.body.path or (flow.response and flow.response.body.path))


def _add_up(total: Counts, more: Counts) -> None:
    for name in total.__struct_fields__:
        setattr(total, name, getattr(total, name) + getattr(more, name))
