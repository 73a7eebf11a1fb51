"""The test process's side of capture: enter the sandbox, start the engine, move tests in and out.

1. `Session.start` runs at the earliest hook, while the process has one thread: user namespace, then
   the engine (so it keeps the host's network), then mounts, then the session's network namespace.
2. An xdist controller only enters the user namespace and lends capabilities while workers are
   started; each worker starts a session of its own and gives the capabilities back.
3. A test runs in a namespace from the engine's pool; fixtures of wider scope run in the session's.
4. Asking the engine costs a round trip, reading the shared page does not: a test without traffic
   costs one question and two setns(2).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import BinaryIO

import msgspec

from pytest_netcapture.channel import Channel
from pytest_netcapture.errors import EngineGone
from pytest_netcapture.flows import AnyFlow, Problem
from pytest_netcapture.messages import (
    SESSION_SCOPE,
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
    Lease,
    Page,
    ProblemList,
    Ready,
    SetVariable,
    Update,
    WaitChange,
)
from pytest_netcapture.sandbox import capabilities, kernel, namespaces, processes, resolver, trust
from pytest_netcapture.sandbox.runtime import RuntimeDirectory, sweep_stale
from pytest_netcapture.settings import Settings

ENGINE_CAPS = (
    kernel.CAP_SYS_ADMIN,
    kernel.CAP_NET_ADMIN,
    kernel.CAP_NET_RAW,
    kernel.CAP_SYS_PTRACE,
)
UPSTREAM_VARIABLE = "NETCAPTURE_UPSTREAM"
"""`loopback` in the environment forbids the engine to dial anything else."""

_LOG_TAIL = 4000
_BOOT = (
    "import os, sys; os.fork() and os._exit(0); sys.path[:] = {path!r}; "
    "from pytest_netcapture.engine.main import main; main()"
)

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
        self.changes = session.page.changes
        self._cached: tuple[int, list[AnyFlow]] = (-1, [])

    def flows(self) -> list[AnyFlow]:
        """Return this test's flows; asked for again only when something has changed."""
        changes = self._session.page.changes
        if self._cached[0] != changes:
            reply, _ = self._session.channel.ask(GetFlows(self.id), FlowList)
            self._cached = (changes, reply.flows)
        return self._cached[1]

    def problems(self, since: int = 0) -> list[Problem]:
        reply, _ = self._session.channel.ask(GetProblems(self.id, since), ProblemList)
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

    def program(self, name: str) -> TestScope:
        """Begin a scope, with a namespace of its own, for one program of this test."""
        return self._session.begin_program(self, name)

    def enter(self) -> None:
        """Move this thread into the scope's namespace."""
        self._session.enter(self.namespace)


class Session:
    """One engine, one sandbox, many tests."""

    def __init__(
        self, channel: Channel, page: Page, ready: Ready, session_fd: int, runtime: RuntimeDirectory
    ) -> None:
        self.channel = channel
        self.page = page
        self.redirector = ready.redirector
        self.gates = ready.gates
        self.engine_pid = ready.pid
        self.notes = ready.notes
        self._fds = {ready.namespace: session_fd}
        self._home = session_fd
        self._runtime = runtime
        self.scope: TestScope | None = None
        self._problems_before = 0
        self._at_home = 0
        self._lease = 0
        """The request for what the next test needs, 0 when there is none."""
        self.pid = os.getpid()

    @classmethod
    def start(cls, settings: Settings) -> Session:
        """Enter the sandbox. Raises `EnvironmentProblem` with the exact reason and cure."""
        sweep_stale()
        roots = list(trust.original_roots(os.environ))
        servers = resolver.nameservers()
        if not set(ENGINE_CAPS) <= capabilities.effective():  # an xdist worker was lent them
            namespaces.enter_user_namespace()
        runtime = RuntimeDirectory.create()
        page_fd = Page.create()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        options = EngineOptions(
            control_fd=theirs.fileno(),
            page_fd=page_fd,
            parent_pid=os.getpid(),
            runtime_dir=runtime.path,
            settings=settings,
            secrets=_as_text(os.environ),
            started_ns=session_start_ns(),
            roots=roots,
            nameservers=servers,
            upstream=os.environ.get(UPSTREAM_VARIABLE, "any"),
        )
        log = os.path.join(runtime.path, "engine.log")
        with capabilities.ambient(ENGINE_CAPS):
            _spawn_engine(options, (theirs.fileno(), page_fd), log)
        theirs.close()
        capabilities.lower_ambient(ENGINE_CAPS)
        capabilities.keep_only((kernel.CAP_SYS_ADMIN,))
        namespaces.unshare_mounts()
        page = Page(page_fd)
        os.close(page_fd)
        channel = Channel(ours, page, lambda: _tail(log))
        places = trust.find(sys.path, os.environ)  # while the engine starts
        ready, fds = channel.receive(Ready)
        session = cls(channel, page, ready, fds[0], runtime)
        session._furnish(ready, runtime.path, places)
        session._watch_environment()
        session.go_home()
        return session

    def _furnish(self, ready: Ready, directory: str, places: trust.Places) -> None:
        """Trust our CA, look names up here: for this process tree only."""
        self.trust = trust.install(
            ready.ca_pem, directory=directory, places=places, subject_hash=ready.subject_hash
        )
        self.resolver = resolver.install(directory)
        os.environ.update(trust.environment(self.trust, os.environ))

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
        lease, self._lease = self._lease, 0
        begun = self._given(self.channel.collect(lease, Begun) if lease else self._ask_lease())
        wait = settings.cassette is not None
        request = Begin(nodeid, settings, list(self._fds), scope=begun.scope, reply=wait)
        if wait:
            begun = self._given(self.channel.ask(request, Begun))
        else:
            self.channel.tell(request)
        self.scope = TestScope(self, begun, settings)
        self._problems_before = self.page.problems
        self.enter(self.scope.namespace)
        return self.scope

    def begin_program(self, parent: TestScope, name: str) -> TestScope:
        """Begin a scope with a namespace of its own for one program of a test."""
        begun = self._given(self._ask_lease())
        settings = parent.settings_now
        self.channel.tell(
            Begin(name, settings, [], parent=parent.id, scope=begun.scope, reply=False)
        )
        return TestScope(self, begun, settings)

    def enter(self, namespace: int) -> None:
        """Move this thread into a namespace that the engine has given."""
        namespaces.enter_network(self._fds[namespace])

    def _ask_lease(self) -> tuple[Begun, list[int]]:
        return self.channel.ask(Lease(list(self._fds)), Begun)

    def _given(self, answer: tuple[Begun, list[int]]) -> Begun:
        """Keep the descriptor of a new namespace."""
        begun, fds = answer
        if fds:
            self._fds[begun.namespace] = fds[0]
        return begun

    def end(self, scope: TestScope) -> Ended:
        """Move back to the session's namespace and close the test's books."""
        self.go_home()
        self.scope = None
        clean = processes.last_pid() == scope.last_pid
        quiet = self.page.changes == scope.changes and scope.settings_now.cassette is None
        request = End(scope.id, clean, scope.problems_seen, quiet)
        if quiet:  # what comes after all counts for the session
            self.channel.tell(request, hold=True)
            ended = Ended(Counts())
        else:
            ended = self.channel.ask(request, Ended)[0]
        self._lease = self.channel.post(Lease(list(self._fds)))
        return ended

    def new_problems(self) -> list[Problem]:
        """Return the running test's problems since the last call; asks only if there are any."""
        scope = self.scope
        if scope is None or self.page.problems == self._problems_before:
            return []
        self._problems_before = self.page.problems
        found = scope.problems(scope.problems_seen)
        scope.problems_seen += len(found)
        return found

    def enter_home(self) -> None:
        """Go to the session's namespace until the matching `leave_home`; pairs nest."""
        self._at_home += 1
        self.go_home()

    def leave_home(self) -> None:
        self._at_home -= 1
        if self._at_home <= 0 and self.scope is not None:
            namespaces.enter_network(self._fds[self.scope.namespace])

    def go_home(self) -> None:
        namespaces.enter_network(self._home)

    # ── the session itself ───────────────────────────────────────────────────────────────────

    def check_engine(self) -> None:
        """Raise `EngineGone` if the engine has died."""
        if not self.channel.alive():
            self.channel.ask(GetProblems(SESSION_SCOPE), ProblemList)

    def log(self) -> str:
        """Return what the engine had to complain about: a bug of ours, if anything."""
        return _tail(os.path.join(self._runtime.path, "engine.log")).strip()

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


def prepare_controller() -> None:
    """Enter the user namespace in an xdist controller, whose workers cannot: they have threads."""
    namespaces.enter_user_namespace()
    capabilities.keep_only(ENGINE_CAPS)


def lend_capabilities(lend: bool) -> None:
    """Let programs that are started from now on (xdist workers) have what engines need, or not."""
    if lend:
        capabilities.raise_ambient(ENGINE_CAPS)
    else:
        capabilities.lower_ambient(ENGINE_CAPS)


def session_start_ns() -> int:
    """Return when the run began (wall clock): an xdist worker's run began with its controller."""
    return int(os.environ.setdefault("NETCAPTURE_SESSION_START", str(time.time_ns())))


def _as_text(environ: Mapping[str, str]) -> dict[str, str]:
    """Return variables as text: bytes that are not UTF-8 (surrogates here) fit no message."""
    return {_utf8(name): _utf8(value) for name, value in environ.items()}


def _utf8(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "ignore").decode()


def _spawn_engine(options: EngineOptions, fds: tuple[int, ...], log: str) -> None:
    """Start the engine with no more of our environment than it needs.

    Its module path is ours but for the working directory, whose modules could shadow its own.
    """
    here = os.getcwd()
    path = [p for p in sys.path if (p and os.path.abspath(p) != here) or p == _package_parent()]
    if _package_parent() not in path:
        path.append(_package_parent())
    code = _BOOT.format(path=path)
    with open(log, "wb") as stderr, _options_file(options) as stdin:
        # The engine forks and its parent exits: a test that waits for any child never meets it.
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", code],
            pass_fds=fds,
            stdin=stdin,
            stdout=stderr,
            stderr=stderr,
            cwd="/",
            check=False,
        )


def _options_file(options: EngineOptions) -> BinaryIO:
    """Return the options as a file in memory: they hold secrets, and command lines are public."""
    file = os.fdopen(os.memfd_create("netcapture-options", os.MFD_CLOEXEC), "r+b")
    file.write(msgspec.msgpack.encode(options))
    file.seek(0)
    return file


def _package_parent() -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read()[-_LOG_TAIL:].decode("utf-8", "replace")
    except OSError:
        return ""
