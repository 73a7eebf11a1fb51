"""The engine process: wires redirector, connections, cassettes and the control channel together.

1. It is started between user and network namespace, so it stays in the host's network.
2. It lives as long as its test process: a closed control channel or the end of that process
   (pidfd_open(2)) ends it, and it takes with it what the sandbox left behind.
3. All state is the loop thread's; other threads only hop namespaces and look up owners.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec
import uvloop

from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.cassettes.script import Script
from pytest_netcapture.engine import grounds, pipeline
from pytest_netcapture.engine.attribution import TCP
from pytest_netcapture.engine.authority import Authority
from pytest_netcapture.engine.connection import Connection, Pending, Plan, reset_socket
from pytest_netcapture.engine.control import Control
from pytest_netcapture.engine.dialer import (
    VERDICTS,
    Candidate,
    Dialer,
    error_of,
    is_loopback,
    resolve_now,
)
from pytest_netcapture.engine.faulting import Faulting
from pytest_netcapture.engine.hooked import Hooked
from pytest_netcapture.engine.layers.layer import Decision, Later, Play
from pytest_netcapture.engine.mocking import Mocking
from pytest_netcapture.engine.mocks import Reach
from pytest_netcapture.engine.names import Names
from pytest_netcapture.engine.namespaces import EngineNamespace, Hopper
from pytest_netcapture.engine.opener import Opener
from pytest_netcapture.engine.packets import Packets
from pytest_netcapture.engine.publisher import Publisher
from pytest_netcapture.engine.relay import Relay
from pytest_netcapture.engine.requests import Requests
from pytest_netcapture.engine.scopes import Scope, Scopes
from pytest_netcapture.engine.upstream_tls import UpstreamTls
from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.flows import (
    AnyFlow,
    FlowError,
    HttpFlow,
    Origin,
    Problem,
    RawFlow,
    ServiceFlow,
    TcpFlow,
    UdpFlow,
)
from pytest_netcapture.messages import EngineOptions, Page, Ready
from pytest_netcapture.redirect.base import Connecting, DatagramFlow, StreamOpened, Verdict
from pytest_netcapture.redirect.kernel import OWN_V4, OWN_V6
from pytest_netcapture.redirect.poller import Poller
from pytest_netcapture.redirect.processes import describe
from pytest_netcapture.settings import Settings

_UNREADABLE = (
    "the program cannot be looked into, so it is not known where to: it runs as another user, has "
    "made itself undumpable, or Yama forbids it"
)
_TPROXY = "run where namespaces may be made: see netcapture doctor"
_OPAQUE = (
    "what is not decrypted cannot be replayed: let the test reach its server, or see "
    "docs/limits.md on what has it decrypted"
)
OWN = (OWN_V4, OWN_V6)


class Engine:
    """Everything one test process's traffic passes through."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: EngineOptions) -> None:
        from pytest_netcapture.redirect.addresses import own_addresses

        self.loop: Any = loop
        self.poller = Poller(loop)
        self.options = options
        page = Page(options.page_fd)
        self.scopes = Scopes(options.settings, page, options.runtime_dir)
        self.names = Names()
        self.authority = Authority(options.ebpf.authority if options.ebpf else b"")
        self.upstream_tls = UpstreamTls(loop, options.roots)
        self.addresses = own_addresses()
        self.hopper = Hopper()
        self._stand_on(grounds.make(self, self.hopper, self.addresses))
        self.opener = Opener(self)
        self.packets = Packets(self)
        self.mocking = Mocking(self)
        self._hooked = Hooked(self)
        self.faulting = Faulting(self)
        self.requests = Requests(self)
        self.publisher = Publisher(self)
        channel = socket.socket(fileno=options.control_fd)
        self.control = Control(channel, page, self.requests.handle, self._parent_gone)
        self.session_namespace: EngineNamespace | None = None
        self._pending: dict[tuple[int, tuple[str, int]], Pending] = {}
        self.connections: set[Connection | Relay] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopped = asyncio.Event()

    # ── life ─────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        self._watch_parent()
        namespace = self.session_namespace = await self._first_namespace()
        self.control.start(self.loop)
        self.control.send(
            Ready(
                self.authority.ca_pem,
                self.authority.subject_hash,
                self.redirector.name,
                self.redirector.gates,
                namespace.id,
                os.getpid(),
                makes_sockets=self.ground.makes_sockets,
                fds=int(self.redirector.isolates),
                note=self.ground.note,
            ),
            [namespace.fd] if self.redirector.isolates else [],
        )
        self._load_what_tests_need()
        self.pool.fill()
        if self.redirector.isolates:
            self.dialer.stash(namespace)
        await self._stopped.wait()
        await self._shut_down()

    def _stand_on(self, ground: grounds.Ground) -> None:
        self.ground = ground
        self.redirector, self.pool, self.attribution = ground[:3]
        self.dialer = Dialer(
            self.loop, self.hopper, self.attribution.listens, self.options.upstream
        )
        self.redirector.start(self.loop, self, self.poller)

    async def _first_namespace(self) -> EngineNamespace:
        try:
            return await self.pool.make()
        except EnvironmentProblem as refused:
            other = grounds.instead(self, self.hopper, self.addresses, refused)
            self.attribution.close()
            self._stand_on(other)
            try:
                return await self.pool.make()
            except EnvironmentProblem as also:
                raise grounds.combined(refused, also) from also

    def stop(self) -> None:
        self._stopped.set()

    def now(self) -> int:
        return time.monotonic_ns()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _load_what_tests_need(self) -> None:
        """Import what start-up did not need: dnspython."""
        from pytest_netcapture.engine.datagrams import Datagrams
        from pytest_netcapture.engine.dns_server import DnsServer

        self.dns = DnsServer(self, list(self.options.nameservers), self.ground.own)
        self.datagrams = Datagrams(self)

    def _watch_parent(self) -> None:
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(self.options.parent_pid)
            self.loop.add_reader(pidfd, self._parent_gone)

    def _parent_gone(self) -> None:
        self.stop()

    async def _shut_down(self) -> None:
        self.requests.abandon()
        self.publisher.close_all()
        for connection in list(self.connections):
            connection.reset()
        self.pool.end_processes((os.getpid(), self.options.parent_pid))
        self.dialer.close()
        self.attribution.close()
        self.pool.close()
        self.redirector.stop()
        self.poller.close()
        self.control.close()
        self._remove_runtime_dir()

    def _remove_runtime_dir(self) -> None:
        import shutil

        shutil.rmtree(self.options.runtime_dir, ignore_errors=True)

    # ── Sink: what the redirector delivers ───────────────────────────────────────────────────

    def connecting(self, syn: Connecting) -> None:
        plan, verdict = self._plan(syn.namespace, syn.client, syn.original_dst)
        if verdict is not None:
            if verdict is Verdict.ACCEPT:
                self._accept(plan, None, lambda: syn.answer(verdict))
            else:
                syn.answer(verdict)
            return

        def dialled(sock: socket.socket | None, error: FlowError | None) -> None:
            if sock is not None:
                self._accept(plan, sock, lambda: syn.answer(Verdict.ACCEPT))
            elif plan.mocked is not Reach.NO:
                self._accept(_serverless(plan), None, lambda: syn.answer(Verdict.ACCEPT))
            else:
                assert error is not None
                self._failed(plan, error)
                syn.answer(VERDICTS.get(error.kind, Verdict.REFUSE))

        self.dialer.dial(list(plan.candidates), dialled)

    def stream_opened(self, stream: StreamOpened) -> None:
        pending = self._pending.pop((stream.namespace, stream.client), None)
        if pending is None:
            self.spawn(self._open_ungated(stream))
        else:
            self._open(stream, pending)

    def datagram_flow(self, flow: DatagramFlow) -> None:
        self.datagrams.open(flow)

    def left_alone(self, syn: Connecting) -> bool:
        self.control.catch_up()
        owner = self.attribution.owner(syn.namespace, TCP, syn.client, syn.original_dst)
        scope, _ = self.scopes.resolve(syn.namespace, owner.is_test_process)
        names = self.names.of(syn.original_dst[0])
        if (
            scope.settings.capture_loopback
            or pipeline.mapping_for(scope.settings, names, *syn.original_dst) is not None
        ):
            return False
        plan = Plan(syn.namespace, syn.client, syn.original_dst, names, (), loopback=True)
        listens = self.attribution.listens(syn.namespace, syn.original_dst)
        self._failed(plan, None if listens else error_of(errno.ECONNREFUSED))
        return True

    def unreadable(self, namespace: int, process: int) -> None:
        flow = TcpFlow(process=describe(process), started=self.now())
        scope, late = self.scopes.resolve(namespace, lambda: False)
        self.scopes.add(scope, flow, late)
        problem = Problem(kind="uncaptured", reason=_UNREADABLE, flow=flow, advice=_TPROXY)
        self.scopes.problem(scope, problem)

    def drain(self, scope: Scope) -> None:
        """Take in the datagrams that have been sent so far: nobody waits until they are seen."""
        for one in (scope, *scope.children):
            if one.namespace is not None:
                self.redirector.drain(one.namespace)
        if self.session_namespace is not None:
            self.redirector.drain(self.session_namespace)

    async def _open_ungated(self, stream: StreamOpened) -> None:
        """Without the gate the client is connected already; what failed shows as a reset."""
        plan, verdict = self._plan(stream.namespace, stream.client, stream.original_dst)
        if verdict not in (None, Verdict.ACCEPT):
            reset_socket(stream.socket)
            return
        future: asyncio.Future[tuple[socket.socket | None, FlowError | None]] = (
            self.loop.create_future()
        )
        if verdict is None:
            self.dialer.dial(list(plan.candidates), lambda s, e: future.set_result((s, e)))
        else:
            future.set_result((None, None))
        sock, error = await future
        if error is not None and plan.mocked is not Reach.NO:
            plan, error = _serverless(plan), None
        if error is not None:
            self._failed(plan, error)
            reset_socket(stream.socket)
        else:
            self._accept(plan, sock)
            self._open(stream, self._pending.pop((plan.namespace, plan.client)))

    def _accept(
        self, plan: Plan, sock: socket.socket | None, answer: Callable[[], None] = lambda: None
    ) -> None:
        """List a connection before its client's test can ask for it; accepting it comes later.

        `answer` is called when it is known whose it is: first of all if it can be, since the client
        waits, and nobody is told of anything until this is done.
        """
        owner = self.attribution.owner(plan.namespace, TCP, plan.client, plan.address)
        if owner.found:
            self.scopes.will_change()
            answer()
        flow = self._tcp_flow(plan)
        flow.client, flow.started = plan.client, self.now()
        flow.reason = "loopback" if plan.loopback else ""
        flow.origin = Origin.MOCKED if plan.mocked is Reach.YES else Origin.LIVE
        scope, late = self.scopes.resolve(plan.namespace, owner.is_test_process)
        self.scopes.add(scope, flow, late)
        self._pending[plan.namespace, plan.client] = Pending(plan, sock, flow, owner)

        def known() -> None:
            flow.process, flow.inode = owner.process(), owner.inode
            if not owner.found:
                answer()

        owner.when_known(self.loop, known)

    def _open(self, stream: StreamOpened, pending: Pending) -> None:
        if pending.plan.loopback:
            assert pending.server is not None
            done = partial(self._relayed, pending)
            self.connections.add(Relay(self, stream.socket, pending.server, done))
            return
        connection = Connection(self, stream.socket, pending)
        self.connections.add(connection)
        self.spawn(self._guarded(connection))

    def _relayed(self, pending: Pending, sent: int, received: int, error: FlowError | None) -> None:
        flow, owner = pending.flow, pending.owner
        flow.sent, flow.received, flow.error = sent, received, error
        flow.process, flow.inode = owner.process(), owner.inode
        flow.ended = self.now()
        self.recorded(flow)

    async def _guarded(self, connection: Connection) -> None:
        try:
            await self.opener.open(connection)
        except Exception:
            import traceback

            traceback.print_exc()
            connection.reset()

    # ── where a connection goes ──────────────────────────────────────────────────────────────

    def _plan(
        self, namespace: int, client: tuple[str, int], address: tuple[str, int]
    ) -> tuple[Plan, Verdict | None]:
        """Plan a connection; a verdict when nothing needs to be dialled first."""
        self.control.catch_up()
        names = self.names.of(address[0])
        local = self._is_inside(namespace, address)
        scope = self._scope_at_gate(namespace, client, address)
        loopback = local and not scope.settings.capture_loopback
        candidates = tuple(self.candidates(namespace, names, address, scope.settings))
        plan = Plan(namespace, client, address, names, candidates, loopback)
        if loopback:
            return plan, None
        if (scope.mocks or scope.faults) and not scope.sealed:
            plan = plan._replace(mocked=scope.reach(_hosts(plan), address[1]))
        return plan, self._verdict(scope, plan)

    def _verdict(self, scope: Scope, plan: Plan) -> Verdict | None:
        address, port = plan.address
        if port == 53:
            return Verdict.ACCEPT
        if fails := self.faulting.connecting(scope, plan):
            self._failed(plan, fails[0], Origin.FAULT, fails[1])
            return VERDICTS[fails[0].kind]
        if plan.mocked is Reach.YES:
            return Verdict.ACCEPT
        if scope.sealed:
            flow = self._tcp_flow(plan)
            self.add(plan, flow)
            self.scopes.problem(scope, pipeline.after_the_end(flow, scope))
            return Verdict.REFUSE
        cassette = scope.cassette
        ignored = scope.ignores(plan.names, address, port)
        if cassette is not None and scope.plays and not ignored:
            error = cassette.connection_error(
                plan.names[0] if plan.names else address, plan.names, address, port
            )
            if error is not None:
                scope.counts.played += 1
                self._failed(plan, error, Origin.PLAYED)
                return VERDICTS.get(error.kind, Verdict.REFUSE)
            if not scope.records or any(cassette.knows(h, port) for h in (*plan.names, address)):
                return Verdict.ACCEPT
        reason = pipeline.allowed(scope.settings, plan.names, address, port)
        if reason and plan.mocked is not Reach.NO:
            return Verdict.ACCEPT
        if reason:
            flow = self._tcp_flow(plan)
            self.add(plan, flow)
            self.scopes.problem(scope, pipeline.blocked(flow, reason))
            return Verdict.REFUSE
        return None

    def candidates(
        self, namespace: int, names: tuple[str, ...], address: tuple[str, int], settings: Settings
    ) -> list[Candidate]:
        """Return the places where a destination may be, nearest first."""
        host, port = address
        mapping = pipeline.mapping_for(settings, names, host, port)
        if mapping is not None:
            to_port = mapping.to_port or port
            with contextlib.suppress(OSError):
                return [Candidate(a) for a in resolve_now(mapping.to_host, to_port)]
            return []
        if not self.redirector.isolates:
            return [] if self.names.is_given(host) else [Candidate(address)]
        if is_loopback(host):
            return [*self._inward(namespace, address), Candidate(address)]
        if host in OWN:
            return self._inward(namespace, address)
        if host in self.addresses:
            return [*self._everywhere(namespace, address), Candidate(address)]
        return [] if self.names.is_given(host) else [Candidate(address)]

    def _inward(self, namespace: int, address: tuple[str, int]) -> list[Candidate]:
        """Return our other namespaces in which a local address may be served, nearest first.

        The running test's and its programs', the session's, and those of ended tests in which
        something is left: a thread of a pool that is used again.
        """
        running = self.scopes.running
        places = [s.namespace for s in (running, *running.children)] if running else []
        places += [self.session_namespace, *(s.namespace for s in self.requests.lingering)]
        return [Candidate(address, n) for n in places if n is not None and n.id != namespace]

    def _everywhere(self, namespace: int, address: tuple[str, int]) -> list[Candidate]:
        """Return where one of the machine's addresses may be served, the own namespace first.

        The rules let a server on a wildcard address be reached by loopback only.
        """
        own = self.pool.all.get(namespace)
        return [*([Candidate(address, own)] if own else []), *self._inward(namespace, address)]

    def _is_inside(self, namespace: int, address: tuple[str, int]) -> bool:
        """Tell whether a destination is loopback, or a server in one of our namespaces."""
        host = address[0]
        if not self.redirector.isolates:
            return is_loopback(host) and address[1] != 53
        if is_loopback(host) or host in OWN:
            return True
        return host in self.addresses and any(
            self.attribution.listens(c.namespace.id, address)
            for c in self._everywhere(namespace, address)
            if c.namespace is not None
        )

    async def late_candidates(self, connection: Connection) -> list[Candidate]:
        """Return where to dial when an exchange is forwarded after all, resolving its name."""
        plan = connection.plan
        fresh = self.candidates(plan.namespace, plan.names, plan.address, connection.scope.settings)
        if fresh or not self.names.is_given(plan.address[0]):
            return fresh
        if self.options.upstream == "loopback":
            return []
        host, port = connection.endpoint.host, plan.address[1]
        try:
            found = await self.loop.run_in_executor(None, resolve_now, host, port)
        except OSError:
            return []
        return [Candidate(a) for a in found]

    def _scope_at_gate(
        self, namespace: int, client: tuple[str, int], address: tuple[str, int]
    ) -> Scope:
        def by_test_process() -> bool:
            return self.attribution.owner(namespace, TCP, client, address).is_test_process()

        return self.scopes.resolve(namespace, by_test_process)[0]

    # ── what connections report ──────────────────────────────────────────────────────────────

    def decide(self, connection: Connection, flow: HttpFlow) -> Decision | Later:
        scope = self.scopes.get(flow.scope)
        if scope.faults and not scope.sealed:
            go_on = partial(self._decide_mocked, connection, scope, flow)
            return self.faulting.decide(connection, scope, flow, go_on)
        return self._decide_mocked(connection, scope, flow)

    def _decide_mocked(
        self, connection: Connection, scope: Scope, flow: HttpFlow
    ) -> Decision | Later:
        if scope.mocks and not scope.sealed:
            decision = self.mocking.decide(connection, scope, flow)
            if decision is not None:
                return decision
        return self.decide_unmocked(connection, flow)

    def decide_unmocked(self, connection: Connection, flow: HttpFlow) -> Decision | Later:
        scope, address = self.scopes.get(flow.scope), connection.plan.address[0]
        if scope.asks and not scope.ignores((flow.request.host,), address, flow.request.port):
            return self._hooked.decide(connection, scope, flow)
        found = pipeline.decide_http(scope, flow, address)
        return self.decided(connection, flow, *found)

    def decide_service(self, connection: Connection, flow: ServiceFlow) -> Decision:
        scope, address = self.scopes.get(flow.scope), connection.plan.address[0]
        found = pipeline.decide_service(scope, flow, address)
        return self.decided(connection, flow, *found)

    def decide_early(self, connection: Connection, flow: HttpFlow) -> Decision | None:
        scope = self.scopes.get(flow.scope)
        if scope.asks or scope.mocks.may_match(flow) or scope.faults.may_match(flow):
            return None
        found = pipeline.decide_early(scope, flow, connection.plan.address[0])
        return None if found is None else self.decided(connection, flow, *found)

    def decided(
        self,
        connection: Connection,
        flow: HttpFlow | ServiceFlow,
        decision: Decision,
        problem: Problem | None,
    ) -> Decision:
        scope = self.scopes.get(flow.scope)
        if problem is not None:
            flow.process, flow.inode = connection.owner.process(), connection.owner.inode
            self.scopes.problem(scope, problem)
        elif scope.plays and isinstance(decision, Play):
            flow.origin = Origin.PLAYED
        return decision

    def add(self, plan: Plan, flow: AnyFlow) -> None:
        """List a flow that never had a connection."""
        owner = self.attribution.owner(plan.namespace, TCP, plan.client, plan.address)
        scope, late = self.scopes.resolve(plan.namespace, owner.is_test_process)
        flow.client, flow.started = plan.client, self.now()
        self.scopes.add(scope, flow, late)
        flow.process, flow.inode = owner.process(), owner.inode

    def recorded(self, flow: AnyFlow, scope: Scope | None = None) -> None:
        """Count a flow that is final, and put it on the cassette."""
        scope = scope or self.scopes.find(flow.scope)
        if scope is not None:
            if isinstance(flow, (HttpFlow, RawFlow, ServiceFlow)):
                scope.memory += _in_memory(flow)
            recorded = scope.records and flow.origin is Origin.LIVE and not _left_alone(flow)
            if recorded and not _is_ignored(scope, flow):
                assert scope.cassette is not None
                scope.cassette.record(flow)
                scope.counts.recorded += 1
                self.requests.flush_soon(scope, flow)
        self.scopes.changed()

    def unreplayable(self, flow: TcpFlow | UdpFlow) -> None:
        """Fail the test for a conversation that no cassette can play."""
        self.unlike(flow, Miss(MissKind.NEVER, flow.reason, advice=_OPAQUE))

    def unlike(self, flow: AnyFlow, miss: Miss) -> None:
        """Fail the test for what is not as it was recorded."""
        scope = self.scopes.find(flow.scope) or self.scopes.session
        self.scopes.problem(scope, pipeline.unmatched(flow, miss))

    def script(self, connection: Connection) -> Script | Miss:
        """Return what is to be played on a connection whose protocol is not decoded."""
        scope = connection.scope
        assert scope.cassette is not None

        def began() -> None:
            scope.counts.played += 1

        names, port = connection.names, connection.plan.address[1]
        later = connection.has_begun
        return scope.cassette.script(connection.kind, names, port, began, later=later)

    def blocks(self, connection: Connection, flow: TcpFlow | None) -> bool:
        """Reset a connection that may not be dialled late, and say so; else return False."""
        plan, scope = connection.plan, connection.scope
        reason = pipeline.allowed(scope.settings, connection.names, *plan.address)
        if reason:
            self.scopes.problem(scope, pipeline.blocked(flow or self._tcp_flow(plan), reason))
            connection.reset()
        return bool(reason)

    def gone(self, connection: Connection) -> None:
        self.connections.discard(connection)

    def left_machine(self, packets: int) -> None:
        (self.scopes.running or self.scopes.session).counts.left_machine += packets

    def _failed(
        self,
        plan: Plan,
        error: FlowError | None,
        origin: Origin = Origin.LIVE,
        fault: str = "",
    ) -> None:
        """List what does not become a connection of ours: it failed, or is left alone."""
        flow = self._tcp_flow(plan)
        flow.error, flow.origin, flow.fault = error, origin, fault
        flow.reason = "loopback" if plan.loopback else ""
        self.add(plan, flow)
        if error is not None:
            flow.ended = flow.started
        self.recorded(flow)

    @staticmethod
    def _tcp_flow(plan: Plan) -> TcpFlow:
        host = plan.names[0] if plan.names else plan.address[0]
        return TcpFlow(host=host, port=plan.address[1], address=plan.address)


def _hosts(plan: Plan) -> tuple[str, ...]:
    """Return the names by which a test may mean a destination."""
    address = plan.address[0]
    return (*plan.names, address, *(["localhost"] if is_loopback(address) else []))


def _serverless(plan: Plan) -> Plan:
    """Accept a connection for mocks only, since there is no server."""
    return plan._replace(mocked=Reach.YES)


def _in_memory(flow: HttpFlow | RawFlow | ServiceFlow) -> int:
    if isinstance(flow, ServiceFlow):
        return len(flow.sent) + len(flow.answer)
    if isinstance(flow, RawFlow):
        return len(flow.outgoing.data) + len(flow.incoming.data)
    return len(flow.request.body.data) + (len(flow.response.body.data) if flow.response else 0)


def _is_ignored(scope: Scope, flow: AnyFlow) -> bool:
    return scope.ignores((flow.host,), flow.address[0] if flow.address else "", flow.port)


def _left_alone(flow: AnyFlow) -> bool:
    """Tell whether a flow is not to be recorded: it is not ours, or a fault has struck it."""
    return bool(flow.fault) or (isinstance(flow, RawFlow) and flow.reason == "loopback")


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Run the engine; standard input is an `EngineOptions` as msgpack."""
    # Flows are many and live long: looking for cycles among them at the default pace costs a tenth.
    gc.set_threshold(20_000, 50, 50)
    given = sys.stdin.buffer.read()
    if not given:
        return  # whoever launched us is gone
    options = msgspec.msgpack.decode(given, type=EngineOptions)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _raise_descriptor_limit()
    try:
        uvloop.run(_main(options))
    except EnvironmentProblem as error:
        _report_failure(options, error)
        sys.exit(3)


async def _main(options: EngineOptions) -> None:
    await Engine(asyncio.get_running_loop(), options).run()


def _report_failure(options: EngineOptions, error: EnvironmentProblem) -> None:
    from pytest_netcapture.messages import Failed, encode

    with contextlib.suppress(OSError):
        os.write(
            options.control_fd,
            encode(Failed("EnvironmentProblem", error.message, error.cure, error.slug)),
        )
