"""The test process's side of capture: enter the sandbox, start the engine, move tests in and out.

1. The engine is launched at the earliest hook, while the process has one thread: user namespace,
   then the engine (so it keeps the host's network), then mounts; `Session.start` waits for it and
   enters the session's network namespace. Where these are refused, another ground takes their
   place (launch.py, grounds.py).
2. An xdist controller starts none (grounds.prepare_workers); each worker has one of its own.
3. A test runs in a namespace from the engine's pool; fixtures of wider scope run in the session's.
4. Asking the engine costs a round trip, reading the shared page does not: a test without traffic
   costs one question and two setns(2).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Mapping

import msgspec

from pytest_netcapture import forkserver, grounds
from pytest_netcapture.answering import Answering
from pytest_netcapture.channel import Channel
from pytest_netcapture.errors import EngineGone, EnvironmentProblem, UsageError
from pytest_netcapture.fault_messages import CutAll, GetSchedule, Schedule, SetFault
from pytest_netcapture.flows import AnyFlow, Problem
from pytest_netcapture.grounds import Ground
from pytest_netcapture.hook_names import ASKED, REVIEWS
from pytest_netcapture.hooking import Hooks
from pytest_netcapture.launch import Launched, launch, launch_on
from pytest_netcapture.messages import (
    SESSION_SCOPE,
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
    EngineOptions,
    FlowList,
    GetCassette,
    GetFlows,
    GetProblems,
    GetRecordings,
    Lease,
    Page,
    ProblemList,
    Publish,
    Published,
    Ready,
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
    SetName,
    Unused,
)
from pytest_netcapture.mocks import Mock
from pytest_netcapture.sandbox import processes, resolver, trust
from pytest_netcapture.sandbox.runtime import RuntimeDirectory
from pytest_netcapture.settings import Settings
from pytest_netcapture.unanswered import signs

UPSTREAM_VARIABLE = "NETCAPTURE_UPSTREAM"
"""`loopback` in the environment forbids the engine to dial anything else."""

_LOG_TAIL = 4000
_SECRET = re.compile("SECRET|TOKEN|KEY|PASS|PWD|CRED|AUTH", re.IGNORECASE)
"""Names of variables that may be secrets; the engine decides."""

_getpid = os.getpid


class TestScope:
    """One test, as the test process sees it."""

    __test__ = False

    def __init__(self, session: Session, begun: Begun, settings: Settings) -> None:
        self._session = session
        self.id = begun.scope
        self.namespace = begun.namespace
        self.settings_now = settings
        self.warnings = list(begun.warnings)
        self.problems_seen = 0
        self.last_pid = processes.last_pid()
        self.forkserver = forkserver.pid()
        self.changes = session.page.changes
        self._started = signs.started
        self._sent = signs.sent
        self._cached: tuple[int, list[AnyFlow]] = (-1, [])
        self.mocks: dict[int, Mock] = {}
        self.hooks: Hooks | None = None
        self._answering: Answering | None = None
        self._faults = False
        self.nodeid = ""

    def flows(self) -> list[AnyFlow]:
        """Return this test's flows; asked for again only when something has changed."""
        if self._cached[0] != self._session.page.changes or self.may_have_sent():
            self._sent = signs.sent
            changes = self._session.page.changes
            reply, _ = self._session.channel.ask(GetFlows(self.id), FlowList)
            signs.claim(reply.flows)
            self._cached = (changes, reply.flows)
        return self._cached[1]

    def may_have_sent(self) -> bool:
        """Tell whether there may be datagrams that the engine has not been asked to read."""
        started = signs.started != self._started
        return started or signs.sent != self._sent or signs.has_connected()

    def problems(self, since: int = 0) -> list[Problem]:
        self._sent = signs.sent
        reply, _ = self._session.channel.ask(GetProblems(self.id, since), ProblemList)
        signs.claim(problem.flow for problem in reply.problems)
        return reply.problems

    def wait_change(self, seen: int, timeout: float) -> int:
        """Return the change counter once it differs from `seen`, or after `timeout` seconds."""
        if self._session.page.changes == seen:
            self._session.channel.ask(WaitChange(seen, timeout), Done)
        return self._session.page.changes

    def settings(self) -> Settings:
        return self.settings_now

    def update(self, settings: Settings) -> None:
        if settings != self.settings_now:
            reply, _ = self._session.channel.ask(Update(self.id, settings), Done)
            self.warnings += reply.warnings
            self.settings_now = settings

    def cassette(self) -> CassetteState | None:
        reply, _ = self._session.channel.ask(GetCassette(self.id), CassetteState)
        return reply if reply.path else None

    def save_packets(self, path: str) -> None:
        """Write this test's packets. Raises `UsageError`."""
        self._session.channel.ask(SavePackets(self.id, path), Done)

    def publish(self, port: int, host_port: int) -> int:
        """Let the host reach a port of this test; return the host's."""
        request = Publish(self.id, port, host_port)
        return self._session.channel.ask(request, Published)[0].host_port

    def set_mock(self, mock: Mock) -> None:
        """Let the engine know a mock as it is now."""
        self.mocks[mock.number] = mock
        if mock.needs_asking:
            self._start_answering()
        self._session.channel.ask(mock.message(self.id), Done)

    def set_hooks(self, hooks: Hooks) -> None:
        """Let the project's own code be asked from now on."""
        self.hooks = hooks
        if self.settings_now.cassette is not None and not ASKED.isdisjoint(hooks.names):
            self._start_answering()

    def _start_answering(self) -> None:
        if self._answering is None:
            _, fds = self._session.channel.ask(OpenQuestions(self.id), Questions)
            self._answering = Answering(fds[0], self.mocks, lambda: self.hooks)

    def review(self) -> None:
        """Show the project's own code what has happened, and what is to be recorded.

        Raises whatever that code raises; nothing of the test is recorded then.
        """
        hooks, use = self.hooks, self.settings_now.cassette
        if hooks is None:
            return
        if hooks.looks:
            hooks.show(self.flows())
        if use is None or REVIEWS.isdisjoint(use.hooks):
            return
        channel, kept = self._session.channel, []
        try:
            for flow in channel.ask(GetRecordings(self.id), FlowList)[0].flows:
                reviewed = hooks.review(flow)
                if reviewed is not None:
                    kept.append(reviewed)
        except BaseException:
            channel.ask(SetRecordings(self.id, []), Done)
            raise
        channel.ask(SetRecordings(self.id, kept), Done)

    def calls(self, number: int) -> list[AnyFlow]:
        """Return the exchanges that a mock has answered."""
        return self._session.channel.ask(GetCalls(self.id, number), FlowList)[0].flows

    def unused_mocks(self) -> list[str]:
        """Return what has answers that were not given, and which; nothing without mocks."""
        if not self.mocks:
            return []
        return self._session.channel.ask(GetUnused(self.id), Unused)[0].mocks

    def set_name(self, name: SetName) -> None:
        """Let the engine know what to answer for a name. Raises `UsageError`."""
        self._session.channel.ask(msgspec.structs.replace(name, scope=self.id), Done)

    def set_fault(self, fault: SetFault) -> None:
        """Let the engine know a fault."""
        self._faults = True
        self._session.channel.ask(msgspec.structs.replace(fault, scope=self.id), Done)

    def seed(self) -> str:
        """Return what makes the test's own schedule of faults: its name."""
        return self.nodeid

    def schedule(self) -> list[str]:
        """Return when which faults of the test have struck; nothing without faults."""
        if not self._faults:
            return []
        return self._session.channel.ask(GetSchedule(self.id), Schedule)[0].lines

    def struck(self) -> int:
        """Return how many of the test's flows a fault has struck; any thread may ask."""
        flows = self._session.channel.ask(GetFlows(self.id), FlowList)[0].flows
        return sum(bool(flow.fault) for flow in flows)

    def cut(self) -> None:
        """Reset the connections that the test has left, so that nothing waits for them."""
        self._session.channel.ask(CutAll(self.id), Done)

    def stop_answering(self) -> None:
        """Wait for the thread that runs callables; the engine has closed its end."""
        if self._answering is not None:
            self._answering.stop()

    def program(self, name: str) -> TestScope:
        """Begin a scope, with a namespace of its own, for one program of this test."""
        return self._session.begin_program(self, name)

    def enter(self) -> None:
        """Move this thread into the scope's namespace."""
        self._session.enter(self.namespace)


class Session:
    """One engine, one sandbox, many tests."""

    def __init__(
        self, channel: Channel, page: Page, ready: Ready, ground: Ground, runtime: RuntimeDirectory
    ) -> None:
        self.channel = channel
        self.page = page
        self.redirector = ready.redirector
        self._note = ready.note
        self.gates = ready.gates
        self.engine_pid = ready.pid
        self.ground = ground
        self._runtime = runtime
        self.scope: TestScope | None = None
        self._problems_before = 0
        self._at_home = 0
        self._forkserver = 0
        self._lent: Begun | None = None
        self._lease = 0
        """The request for what the next test needs, 0 when there is none."""
        self.pid = os.getpid()

    @classmethod
    def start(cls, settings: Settings, launched: Launched | None = None) -> Session:
        """Enter the sandbox. Raises `EnvironmentProblem` with the exact reason and cure."""
        first = launched or launch(settings.redirector)
        roots = list(trust.original_roots(os.environ))
        servers = resolver.nameservers()
        try:
            return cls._start(settings, first, roots, servers)
        except EnvironmentProblem as refused:
            first.runtime.remove()
            second = launch_on(grounds.instead(refused, settings.redirector, first.ground))
            return cls._start(settings, second, roots, servers)

    @classmethod
    def _start(
        cls, settings: Settings, launched: Launched, roots: list[str], servers: list[str]
    ) -> Session:
        ground, runtime = launched.ground, launched.runtime
        options = EngineOptions(
            control_fd=launched.control_fd,
            page_fd=launched.page_fd,
            parent_pid=os.getpid(),
            runtime_dir=runtime.path,
            settings=settings,
            secrets=_as_text(os.environ),
            started_ns=session_start_ns(),
            roots=roots,
            nameservers=servers,
            upstream=os.environ.get(UPSTREAM_VARIABLE, "any"),
            seccomp=ground.seccomp,
            ebpf=ground.ebpf,
        )
        launched.reap()
        launched.tell(msgspec.msgpack.encode(options))
        page = Page(launched.page_fd)
        os.close(launched.page_fd)
        channel = Channel(launched.control, page, lambda: _tail(launched.log))
        ready, fds = channel.receive(Ready)
        session = cls(channel, page, ready, ground, runtime)
        os.environ.update(ground.furnish(channel, ready, fds, runtime.path))
        session._watch_environment()
        session.go_home()
        return session

    @property
    def directory(self) -> str:
        """Return the session's private directory."""
        return self._runtime.path

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is different from what people expect, a line each."""
        own = (self._note,) if self._note else ()
        return (*own, *self.ground.notes, *grounds.uncovered_notes(self.ground))

    def _watch_environment(self) -> None:
        """Tell the engine of secrets that are set later, whose values it then scrubs, too."""

        def audit(event: str, args: tuple[object, ...]) -> None:
            if event == "os.putenv" and _getpid() == self.pid:
                name, value = (os.fsdecode(a) for a in args if isinstance(a, (bytes, str)))
                if _SECRET.search(name) or ("://" in value and "@" in value):
                    self.tell(name, value)

        sys.addaudithook(audit)

    def tell(self, name: str, value: str) -> None:
        with contextlib.suppress(EngineGone, OSError):
            self.channel.ask(SetVariable(_utf8(name), _utf8(value)), Done)

    # ── tests ────────────────────────────────────────────────────────────────────────────────

    def begin(self, nodeid: str, settings: Settings) -> TestScope:
        """Move this thread into a fresh namespace for one test."""
        if _getpid() != self.pid and self._lent is not None:
            self._adopt()
        begun = self._lent or self._collect()
        wait = settings.cassette is not None or settings.packets
        request = Begin(nodeid, settings, self.ground.known, scope=begun.scope, reply=wait)
        if wait:
            begun = self._given(self.channel.ask(request, Begun))
        else:
            self.channel.tell(request)
        self.scope = TestScope(self, begun, settings)
        self.scope.nodeid = nodeid
        self._problems_before = self.page.problems
        self.enter(self.scope.namespace)
        return self.scope

    def lend(self) -> None:
        """Let a child that is to be forked run the next test, and do nothing until `take_back`."""
        self._lent = self._collect()

    def take_back(self) -> None:
        """Go on when the child has ended, in whatever way."""
        lent, self._lent = self._lent, None
        if lent is not None and _getpid() == self.pid:
            self.channel.skip()
            self.channel.ask(Abandon(lent.scope), Done)

    def _adopt(self) -> None:
        """Be the process whose session this is, in the child."""
        self.pid = os.getpid()
        self.channel.adopt()

    def _collect(self) -> Begun:
        """Return what was leased for the next test."""
        lease, self._lease = self._lease, 0
        return self._given(self.channel.collect(lease, Begun) if lease else self._ask_lease())

    def begin_program(self, parent: TestScope, name: str) -> TestScope:
        """Begin a scope with a namespace of its own for one program of a test."""
        begun = self._given(self._ask_lease())
        settings = parent.settings_now
        request = Begin(name, settings, [], parent=parent.id, scope=begun.scope, reply=False)
        if settings.packets:
            self.channel.ask(request, Begun)
        else:
            self.channel.tell(request)
        return TestScope(self, begun, settings)

    def enter(self, namespace: int) -> None:
        """Move this thread into a namespace that the engine has given."""
        self.ground.enter(namespace)

    def _ask_lease(self) -> tuple[Begun, list[int]]:
        return self.channel.ask(Lease(self.ground.known), Begun)

    def _given(self, answer: tuple[Begun, list[int]]) -> Begun:
        """Keep the descriptor of a new namespace."""
        begun, fds = answer
        if len(fds) < begun.fds:
            self.channel.ask(Abandon(begun.scope), Done)
            raise UsageError(
                "this process has no descriptor left for the test's network namespace",
                cure="close what tests before this one have opened, or raise the limit: ulimit -n",
            )
        self.ground.keep(begun, fds)
        return begun

    def end(self, scope: TestScope) -> Ended:
        """Move back to the session's namespace and close the test's books."""
        server = forkserver.pid()
        if server != scope.forkserver:
            forkserver.end(server)
        self.go_home()
        self.scope = None
        clean = processes.last_pid() == scope.last_pid
        sent = scope.may_have_sent() or (not clean and _spawns())
        quiet = (
            not sent
            and self.page.changes == scope.changes
            and scope.settings_now.cassette is None
            and not scope.mocks
        )
        request = End(scope.id, clean, scope.problems_seen, quiet)
        if quiet:  # what comes after all counts for the session
            self.channel.tell(request, hold=self._lent is None)
            ended = Ended(Counts())
        else:
            ended = self.channel.ask(request, Ended)[0]
            signs.claim(problem.flow for problem in ended.problems)
            scope.stop_answering()
        if self._lent is None:
            self._lease = self.channel.post(Lease(self.ground.known))
        return ended

    def new_problems(self) -> list[Problem]:
        """Return the running test's problems since the last call; asks only if there are any."""
        scope = self.scope
        if scope is None:
            return []
        if self.page.problems == self._problems_before and not scope.may_have_sent():
            return []
        self._problems_before = self.page.problems
        found = scope.problems(scope.problems_seen)
        scope.problems_seen += len(found)
        return found

    def enter_home(self) -> None:
        """Go to the session's namespace until the matching `leave_home`; pairs nest."""
        self._at_home += 1
        if self._at_home == 1:
            self._forkserver = forkserver.pid()
        self.go_home()

    def leave_home(self) -> None:
        self._at_home -= 1
        if self._at_home <= 0 and self.scope is not None:
            if forkserver.pid() != self._forkserver:  # a wider fixture's: it lives at home
                self.scope.forkserver = forkserver.pid()
            self.ground.enter(self.scope.namespace)

    def go_home(self) -> None:
        self.ground.go_home()

    # ── the session itself ───────────────────────────────────────────────────────────────────

    def check_engine(self) -> None:
        """Raise `EngineGone` if the engine has died."""
        if not self.channel.alive():
            self.channel.ask(GetProblems(SESSION_SCOPE), ProblemList)

    def log(self) -> str:
        """Return what the engine had to complain about: a bug of ours, if anything."""
        return _tail(os.path.join(self._runtime.path, "engine.log")).strip()

    def late_problems(self, since: int) -> list[Problem]:
        """Return the session's own problems from `since` on; nothing when the engine is gone."""
        if os.getpid() != self.pid:
            return []
        with contextlib.suppress(EngineGone, OSError):
            return self.channel.ask(GetProblems(SESSION_SCOPE, since), ProblemList)[0].problems
        return []

    def close(self) -> Closed:
        """Say goodbye; the engine goes when this process has ended, and cleans up after it."""
        if os.getpid() != self.pid:
            return Closed(Counts())
        try:
            return self.channel.ask(Close(), Closed)[0]
        except EngineGone:
            with contextlib.suppress(OSError):  # a test may have closed our descriptors
                self._runtime.remove()
            raise


def session_start_ns() -> int:
    """Return when the run began (wall clock): an xdist worker's run began with its controller."""
    return int(os.environ.setdefault("NETCAPTURE_SESSION_START", str(time.time_ns())))


def _spawns() -> bool:
    """Tell whether multiprocessing may have started a process, of which no audit event tells."""
    return any(
        f"multiprocessing.popen_{how}" in sys.modules for how in ("spawn_posix", "forkserver")
    )


def _as_text(environ: Mapping[str, str]) -> dict[str, str]:
    """Return variables as text: bytes that are not UTF-8 (surrogates here) fit no message."""
    return {_utf8(name): _utf8(value) for name, value in environ.items()}


def _utf8(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "ignore").decode()


def _tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read()[-_LOG_TAIL:].decode("utf-8", "replace")
    except OSError:
        return ""
