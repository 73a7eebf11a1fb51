"""To which test a conversation belongs.

1. A connection is made in a namespace; while the test that the namespace was given to runs, it is
   that test's.
2. On the session's namespace, or one whose test has ended, it belongs to the running test when its
   owner is the test process itself or the session's child; else to the ended test, marked late.
3. What a scope holds is final once `End` was answered; late flows are still listed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_netcapture.cassettes.store import Cassette
from pytest_netcapture.engine.faults import Faults
from pytest_netcapture.engine.mocked_names import MockedNames
from pytest_netcapture.engine.mocks import Mocks, Reach
from pytest_netcapture.engine.namespaces import EngineNamespace
from pytest_netcapture.flows import AnyFlow, HttpFlow, Problem, ServiceFlow
from pytest_netcapture.hook_names import ASKED
from pytest_netcapture.messages import SESSION_SCOPE, Counts, Page
from pytest_netcapture.settings import Settings

MEMORY_WINDOW = 32 << 20
"""Bytes of bodies that one scope may keep in memory; past it they go to disk."""


@dataclass(eq=False)
class Scope:
    """One test, or the session."""

    id: int
    nodeid: str
    settings: Settings
    mocks: Mocks = field(default_factory=Mocks)
    faults: Faults = field(default_factory=Faults)
    names: MockedNames = field(default_factory=MockedNames)
    cassette: Cassette | None = None
    namespace: EngineNamespace | None = None
    active: bool = True
    flows: list[AnyFlow] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    told: set[tuple[object, ...]] = field(default_factory=set)
    counts: Counts = field(default_factory=Counts)
    memory: int = 0
    children: list[Scope] = field(default_factory=list)
    """Programs of this test that have a sandbox of their own."""
    parent: Scope | None = None
    spool: str = ""
    """Directory of its large bodies, once there is one."""
    heavy: bool = False
    """Its cassette has large bodies to write, which is done in a thread when it has ended."""
    sealed: bool = False
    """It has ended and could only replay: what is left of it must not reach the network."""

    def reach(self, hosts: tuple[str, ...], port: int) -> Reach:
        """Tell whether a connection may be accepted without a server, for mocks or faults."""
        return max(self.mocks.reach(hosts, port), self.faults.reach(hosts, port))

    def ignores(self, names: tuple[str, ...], address: str, port: int) -> bool:
        """Tell whether the traffic with a host (port 0: its name) is live, whatever is recorded."""
        use = self.settings.cassette
        return use is not None and any(
            pattern.matches(names, address, port or pattern.port) for pattern in use.ignored_hosts
        )

    def reach_of_name(self, name: str) -> Reach:
        """Tell whether a name may be that of a host without a server."""
        return max(self.mocks.names(name), self.faults.names(name))

    @property
    def plays(self) -> bool:
        return self.active and self.cassette is not None and self.cassette.can_play

    @property
    def asks(self) -> bool:
        """Whether the project's own code has a say in what is played."""
        use = self.settings.cassette
        return use is not None and self.plays and not ASKED.isdisjoint(use.hooks)

    @property
    def records(self) -> bool:
        return self.active and self.cassette is not None and self.cassette.can_record


class Scopes:
    """All scopes of an engine, and the counters that the test process watches."""

    def __init__(self, settings: Settings, page: Page, directory: str) -> None:
        self._directory = directory
        self.session = Scope(SESSION_SCOPE, "the session", settings)
        self.running: Scope | None = None
        self._all: dict[int, Scope] = {SESSION_SCOPE: self.session}
        self._of_namespace: dict[int, Scope] = {}
        self._page = page
        self._next_scope = 1
        self._next_flow = 1
        self._changes = 0
        self._problems = 0
        self.watchers: list[Callable[[int], None]] = []

    @property
    def changes(self) -> int:
        return self._changes

    def get(self, identity: int) -> Scope:
        return self._all[identity]

    def find(self, identity: int) -> Scope | None:
        return self._all.get(identity)

    def reserve(self) -> int:
        """Return the number of a scope that is to begin."""
        identity = self._next_scope
        self._next_scope += 1
        return identity

    def begin(
        self, identity: int, nodeid: str, settings: Settings, namespace: EngineNamespace
    ) -> Scope:
        scope = Scope(identity, nodeid, settings, namespace=namespace)
        self._all[scope.id] = scope
        self._of_namespace[namespace.id] = scope
        return scope

    def begin_child(
        self, parent: Scope, identity: int, nodeid: str, namespace: EngineNamespace
    ) -> Scope:
        """Begin a program's scope: it shares all of its parent but the flows."""
        scope = self.begin(identity, nodeid, parent.settings, namespace)
        scope.cassette, scope.parent = parent.cassette, parent
        scope.mocks, scope.faults, scope.names = parent.mocks, parent.faults, parent.names
        parent.children.append(scope)
        return scope

    def end(self, scope: Scope) -> None:
        cassette = scope.cassette
        scope.sealed = cassette is not None and cassette.can_play and not cassette.can_record
        scope.active = False
        if self.running is scope:
            self.running = None

    def spool(self, scope: Scope) -> str:
        """Return the directory of a scope's large bodies, which lives as long as the scope."""
        if not scope.spool:
            scope.spool = os.path.join(self._directory, f"scope-{scope.id}")
            os.mkdir(scope.spool, 0o700)
        return scope.spool

    def forget(self, scope: Scope) -> None:
        """Drop a scope that nothing can belong to any more."""
        self._all.pop(scope.id, None)
        if scope.spool:
            shutil.rmtree(scope.spool, ignore_errors=True)
        if scope.namespace and self._of_namespace.get(scope.namespace.id) is scope:
            del self._of_namespace[scope.namespace.id]

    def resolve(
        self, namespace: int, owned_by_test_process: Callable[[], bool]
    ) -> tuple[Scope, bool]:
        """Return the scope of a conversation in `namespace`, and whether it is late."""
        scope = self._of_namespace.get(namespace)
        if scope is not None and scope.active:
            return scope, False
        current = self.running or self.session
        if scope is None or owned_by_test_process():
            return current, False
        return scope, True

    def add(self, scope: Scope, flow: AnyFlow, late: bool) -> None:
        flow.id = self._next_flow
        self._next_flow += 1
        flow.scope = scope.id
        flow.late = late
        scope.flows.append(flow)
        scope.counts.flows += 1
        self.changed()

    def replace(self, old: AnyFlow, new: AnyFlow) -> None:
        """Put what a connection turned out to be in the place of the connection itself."""
        new.id, new.scope, new.late = old.id, old.scope, old.late
        new.process, new.inode = old.process, old.inode
        scope = self._all.get(old.scope)
        if scope is not None:
            for index in range(len(scope.flows) - 1, -1, -1):
                if scope.flows[index] is old:
                    scope.flows[index] = new
                    break
        self.changed()

    def problem(self, scope: Scope, problem: Problem) -> None:
        """Note why a test must fail; of an ended test, why the session must."""
        target = (scope.parent or scope) if scope.active else self.session
        told = _told(problem)
        if told not in target.told:  # retries, and A beside AAAA, are one problem
            target.told.add(told)
            target.problems.append(problem)
        if problem.kind == "blocked":
            target.counts.blocked += 1
        elif problem.kind == "unmatched":
            target.counts.unmatched += 1
        self._problems += 1
        self.changed()

    def will_change(self) -> None:
        """Tell the test process to ask, before what it asks for is noted."""
        self._changes += 1
        self._page.write(self._changes, self._problems)

    def changed(self) -> None:
        self.will_change()
        if self.watchers:
            for watcher in list(self.watchers):
                watcher(self._changes)


def _told(problem: Problem) -> tuple[object, ...]:
    """Return what makes a problem another one for a reader."""
    flow = problem.flow
    if flow is None:
        return (problem.kind, problem.reason)
    what = flow.protocol
    if isinstance(flow, HttpFlow):
        what = f"{flow.request.method} {flow.url}"
    elif isinstance(flow, ServiceFlow):
        return (problem.kind, flow.process.pid, flow.host, flow.port, flow.asked, *flow.values)
    return (problem.kind, flow.process.pid, flow.host, flow.port, what)
