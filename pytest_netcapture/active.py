"""The hooks of a process that runs tests, when capture is on.

1. A test's scope begins before its first fixture and ends after its last, so reruns are tests of
   their own (pytest-rerunfailures) and setup and teardown traffic is the test's.
2. Fixtures of wider scope are set up and torn down in the session's namespace; a finalizer added
   before a fixture's own runs after it, one added after runs before it (FixtureDef.addfinalizer).
3. What a test must not do fails it after the phase that did it, even when its code swallowed the
   error; an error of the test's own is kept, and the problem becomes a section of its report.
4. A bad option ends the run with status 4, as pytest's own do; a machine that cannot capture, and
   an engine that is gone, with status 3. Nothing is run uncaptured instead.

Proved by tests/plugin.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import traceback
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import pytest

from pytest_netcapture import controller, forked, grounds, markers, stacks, summary
from pytest_netcapture.capture import Netcapture
from pytest_netcapture.cassette_names import Owners
from pytest_netcapture.errors import EngineGone, EnvironmentProblem, NetcaptureError, UsageError
from pytest_netcapture.flows import AnyFlow, Problem
from pytest_netcapture.hooking import Hooks
from pytest_netcapture.keeping import Keeping
from pytest_netcapture.messages import Counts
from pytest_netcapture.plugin import ACTIVE
from pytest_netcapture.report.exchange import flow_line
from pytest_netcapture.report.problem import problem_text
from pytest_netcapture.report.seen import Seen
from pytest_netcapture.session import Session, TestScope
from pytest_netcapture.settings import Settings
from pytest_netcapture.sources import Sources
from pytest_netcapture.summary import Summary

if TYPE_CHECKING:
    from pytest_netcapture.chaos.plugin import ChaosRun

SECTION = "netcapture"
_CONFIGURED = "_netcapture_configured"
_GIVEN_BY_FIXTURE = pytest.StashKey[dict[str, Any]]()
_COUNTS = pytest.StashKey[Counts]()
_NOTHING = Counts()
_SETTINGS = pytest.StashKey[Settings]()
_FAILED = pytest.StashKey[bool]()
_PROBLEMS = pytest.StashKey[list[str]]()
_MOST_UNUSED = 10
_CI = "CI is set, so the record mode is none unless an option or a marker says otherwise"


def register(
    config: pytest.Config, sources: Sources, session: Session, chaos: ChaosRun | None
) -> None:
    """Register the hooks of a session that has been started."""
    plugins = config.pluginmanager
    printed, refusal = Summary(), Refusal()
    plugins.register(Active(config, sources, session, printed, refusal, chaos=chaos), ACTIVE)
    if plugins.hasplugin(forked.PLUGIN):
        plugins.register(forked.Forked(session), "netcapture-forked")
    plugins.register(refusal, "netcapture-refusal")
    if not controller.is_worker():
        plugins.register(printed, summary.NAME)


class Refusal:
    """Fails the setup of a test that cannot be captured, inside of all wrappers.

    One that raised before its yield would keep pytest's own from what their teardown undoes.
    """

    reason = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        reason, self.reason = self.reason, ""
        if reason:
            pytest.fail(reason, pytrace=False)


class Active:
    """What a session does at each of pytest's steps."""

    def __init__(
        self,
        config: pytest.Config,
        sources: Sources,
        session: Session,
        printed: Summary,
        refusal: Refusal,
        *,
        chaos: ChaosRun | None,
    ) -> None:
        self._chaos = chaos
        self._refusal = refusal
        self._config = config
        self._sources = sources
        self._session = session
        self._summary = printed
        self._report = sources.report()
        self._fatal = ""
        self._status = 3
        self._warned: set[str] = set()
        self._told = 0
        """How many problems outside of tests are reported."""
        stacks.install()
        atexit.register(self._tell_late)

    @property
    def session(self) -> Session:
        return self._session

    def pytest_report_header(self) -> list[str]:
        return [f"netcapture: {self._session.redirector}", *self._session.notes]

    # ── collection ───────────────────────────────────────────────────────────────────────────

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Check every test's markers before the first one runs."""
        owners = Owners()
        try:
            # Conftests have been read: ini and command line are final.
            self._sources = Sources(self._config)
            for item in items:
                settings = item.stash[_SETTINGS] = self._settings_for(item)
                use = settings.cassette
                shared = self._sources.shares(item) or self._is_cell(item)
                if use is not None and not shared:
                    owners.claim(use.path, item.nodeid)
                self._ask_for_config(item)
        except UsageError as error:
            self._fatal, self._status = str(error), pytest.ExitCode.USAGE_ERROR
            raise pytest.UsageError(f"netcapture: {error}") from None

    def _settings_for(self, item: pytest.Item, fixture: dict[str, Any] | None = None) -> Settings:
        """Return a test's settings. Raises `UsageError`."""
        settings = self._sources.for_item(self._test_of(item), fixture)
        if self._chaos is not None:
            settings = self._chaos.settings(item, settings)
        settings = _with_hooks(settings, Hooks(item, fixture))
        asked, present = settings.redirector, self._session.redirector
        if asked not in {grounds.AUTO, present}:
            raise UsageError(
                f"{item.nodeid}: redirector={asked!r} for one test, where the run uses {present}",
                cure=f"choose it for the whole run: --netcapture-redirector={asked}",
            )
        return settings

    def _is_cell(self, item: pytest.Item) -> bool:
        return self._chaos is not None and self._chaos.test_of(item) is not item

    def _test_of(self, item: pytest.Item) -> pytest.Item:
        """Return the test of which `item` is a cell, or `item`."""
        return item if self._chaos is None else self._chaos.test_of(item)

    def _ask_for_config(self, item: pytest.Item) -> None:
        """Have the project's own `netcapture_config` fixture, where there is one, applied first."""
        names = getattr(item, "fixturenames", None)
        if names is None or _CONFIGURED in names:
            return
        if item.session._fixturemanager.getfixturedefs("netcapture_config", item):
            names.insert(0, _CONFIGURED)

    @pytest.fixture
    def _netcapture_configured(self, request: pytest.FixtureRequest) -> None:
        returned = request.getfixturevalue("netcapture_config")
        item, scope = request.node, self._session.scope
        try:
            given = item.stash[_GIVEN_BY_FIXTURE] = markers.fixture_options(returned)
            if scope is not None:
                scope.update(self._settings_for(item, given))
                scope.set_hooks(Hooks(item, given))
        except NetcaptureError as error:
            pytest.fail(f"{item.nodeid}: {error}", pytrace=False)

    # ── one test ─────────────────────────────────────────────────────────────────────────────

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._begin(item)
        return (yield from self._phase(item, "setup"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        return (yield from self._phase(item, "call"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        try:
            result = yield from self._phase(item, "teardown")
        except BaseException:
            item.stash[_FAILED] = True
            _add_section(item, "teardown", self._end(item))
            raise
        _fail_for(self._end(item))
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        scope = self._session.scope
        if report.failed:
            item.stash[_FAILED] = True
        if report.failed and scope is not None and (lines := self._schedule(scope)):
            report.sections.append((f"{SECTION} faults", "\n".join(lines)))
        counts = item.stash.get(_COUNTS, None)
        if call.when == "teardown" and counts is not None:
            summary.attach(report, msgspec.structs.asdict(counts))
            del item.stash[_COUNTS]
        return report

    @staticmethod
    def _schedule(scope: TestScope) -> list[str]:
        """Return when faults have struck, so that it can be had again."""
        with contextlib.suppress(NetcaptureError):  # what is wrong is told elsewhere
            return scope.schedule()
        return []

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        session = self._session
        fixturedef.addfinalizer(session.leave_home)
        session.enter_home()
        try:
            return (yield)
        finally:
            session.leave_home()
            fixturedef.addfinalizer(session.enter_home)

    def fixture_for(self, request: pytest.FixtureRequest) -> Netcapture:
        scope = self._session.scope
        if scope is None:
            raise UsageError(f"{request.node.nodeid}: no test runs")
        return Netcapture(scope)

    def _begin(self, item: pytest.Item) -> None:
        item.stash[_FAILED], item.stash[_PROBLEMS] = False, []
        try:
            settings = item.stash.get(_SETTINGS, None) or self._sources.for_item(item)
            scope = self._session.begin(item.nodeid, settings)
        except (EngineGone, EnvironmentProblem) as error:
            self._stop(error)
        except NetcaptureError as error:
            self._refusal.reason = str(error)
        else:
            self._warn(item, scope.warnings)
            scope.set_hooks(Hooks(item))
            if self._chaos is not None:
                self._chaos.begin(item, scope)

    def _phase(self, item: pytest.Item, when: str) -> Generator[None, Any, Any]:
        try:
            result = yield
        except BaseException:
            _add_section(item, when, self._new_problems(item, when))
            raise
        _fail_for(self._new_problems(item, when))
        return result

    def _new_problems(self, item: pytest.Item, when: str) -> list[str]:
        try:
            if when == "call":  # beginning a test asks it anyway
                self._session.check_engine()
            found = self._session.new_problems()
        except (EngineGone, EnvironmentProblem) as error:
            self._stop(error)
        texts = [self._text(problem, item) for problem in found]
        if texts:
            item.stash[_PROBLEMS] += texts
        return texts

    def _end(self, item: pytest.Item) -> list[str]:
        """Close the books of the running test; return what is wrong with them."""
        scope = self._session.scope
        if scope is None:
            return []
        settings = scope.settings_now
        try:
            if self._chaos is not None:
                self._chaos.end(item, scope)
            hooked = _reviewed(scope)
            watchers = self._watchers(item, settings)
            for watcher in watchers:
                watcher.look(scope, failed=item.stash[_FAILED] or bool(hooked))
            unused_mocks = scope.unused_mocks() if settings.strict else []
            ended = self._session.end(scope)
        except (EngineGone, EnvironmentProblem) as error:
            self._stop(error)
        if ended.counts != _NOTHING:
            item.stash[_COUNTS] = ended.counts
        self._warn(item, ended.warnings)
        texts = [self._text(problem, item) for problem in ended.problems]
        texts += hooked
        if unused_mocks:
            texts.append(_unused_mocks_text(unused_mocks))
        if settings.strict and ended.unused:
            path = settings.cassette.path if settings.cassette else ""
            texts.append(_unused_text(path, ended.unused))
        for watcher in watchers:
            said = [*item.stash[_PROBLEMS], *texts]
            watcher.settle(said, failed=item.stash[_FAILED] or bool(texts))
        return texts

    def _watchers(self, item: pytest.Item, settings: Settings) -> list[Keeping | Seen]:
        """Return what looks at a test's traffic before it is forgotten."""
        watchers: list[Keeping | Seen] = []
        if settings.keep != "never":
            watchers.append(Keeping(item, settings))
        if self._report:
            watchers.append(Seen(item, self._report))
        return watchers

    def _warn(self, item: pytest.Item, warnings: Sequence[str]) -> None:
        for warning in warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                item.warn(pytest.PytestWarning(warning))

    def _text(self, problem: Problem, item: pytest.Item | None = None) -> str:
        root = str(self._config.rootpath)
        frames = _stack(problem.flow) if problem.flow else []
        text = problem_text(problem, stacks.relevant(frames, root), root)
        if problem.kind == "unmatched" and item is not None and self._is_because_of_ci(item):
            text += f"\n           {_CI}"
        return text

    def _is_because_of_ci(self, item: pytest.Item) -> bool:
        given = item.stash.get(_GIVEN_BY_FIXTURE, None)
        return self._sources.mode_is_because_of_ci(item, given)

    def _stop(self, error: NetcaptureError) -> NoReturn:
        """End the run: nothing more can be captured."""
        self._fatal = self._fatal or str(error)
        pytest.exit(self._fatal, returncode=self._status)

    # ── the run ──────────────────────────────────────────────────────────────────────────────

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        counts, messages, undecrypted = self._last_words()
        self._summary.add(counts, messages, undecrypted)
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[controller.OUTPUT] = {
                "counts": counts,
                "messages": messages,
                "undecrypted": undecrypted,
                "notes": self._session.notes,
                "fatal": self._fatal,
                "status": int(self._status),
            }
        self._summary.decide(session)

    def _last_words(self) -> tuple[dict[str, int], list[str], dict[str, str]]:
        """Return what happened outside of tests, and what could not be decrypted."""
        try:
            closed = self._session.close()
        except EngineGone as error:
            return {}, [] if self._fatal else [str(error)], {}
        self._told = len(closed.problems)
        messages = [self._text(problem) for problem in closed.problems]
        log = self._session.log()
        if log:
            messages.append(f"the engine reports a bug of its own; please report it:\n{log}")
        return msgspec.structs.asdict(closed.counts), messages, closed.undecrypted

    def _tell_late(self) -> None:
        """Say what exit handlers were refused: those of tests run before this one."""
        for problem in self._session.late_problems(self._told):
            sys.stderr.write(f"netcapture: after the run: {self._text(problem)}\n")


def _stack(flow: AnyFlow) -> list[stacks.Frame]:
    """Return the Python stack that made `flow`; nothing for another program's."""
    frames = stacks.stack_for(flow.inode)
    if not frames and flow.protocol == "dns" and flow.process.pid == os.getpid():
        frames = stacks.stack_for_name(flow.host)
    return frames


def _with_hooks(settings: Settings, hooks: Hooks) -> Settings:
    use = settings.cassette
    if use is None or not hooks.names:
        return settings
    told = msgspec.structs.replace(use, hooks=hooks.names)
    return msgspec.structs.replace(settings, cassette=told)


def _reviewed(scope: TestScope) -> list[str]:
    """Let the project's own code look at what a test did; return what it raised."""
    try:
        scope.review()
    except (EngineGone, EnvironmentProblem):
        raise
    except Exception as error:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        return [f"hook: failed, so nothing of this test was recorded\n{''.join(lines).rstrip()}"]
    return []


def _fail_for(texts: Sequence[str]) -> None:
    __tracebackhide__ = True
    if texts:
        pytest.fail("\n\n".join(texts), pytrace=False)


def _add_section(item: pytest.Item, when: str, texts: Sequence[str]) -> None:
    if texts:
        item.add_report_section(when, SECTION, "\n\n".join(texts))


def _unused_text(path: str, unused: Sequence[AnyFlow]) -> str:
    lines = [f"unused: {len(unused)} of the interactions in {path} were not played"]
    lines += [f"  {flow_line(flow, who=False)}" for flow in unused[:_MOST_UNUSED]]
    lines = [line.replace("  [played]", "") for line in lines]
    if len(unused) > _MOST_UNUSED:
        lines.append(f"  … {len(unused) - _MOST_UNUSED} more")
    lines.append(
        "  do       record it again: --netcapture-record-mode=rewrite, or drop --netcapture-strict"
    )
    return "\n".join(lines)


def _unused_mocks_text(unused: Sequence[str]) -> str:
    lines = [f"unused: {len(unused)} of the test's mocks were not used"]
    lines += [f"  {line}" for line in unused]
    lines.append("  do       take them out, or drop --netcapture-strict")
    return "\n".join(lines)
