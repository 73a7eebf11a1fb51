"""Exchanges that are played as the project's own hooks say.

1. Each hook is a question to the test process (hooking.py); those that it has not are not asked.
2. The request is changed for the search only: what is listed, and sent on, is as it came.
3. Code that raises, or does not answer in time, fails its test; the client sees its connection end.

Proved by tests/plugin/test_hooks.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pytest_netcapture.cassettes.miss import Miss
from pytest_netcapture.engine import pipeline
from pytest_netcapture.engine.layers.layer import Decision, Deny, Later
from pytest_netcapture.engine.scopes import Scope
from pytest_netcapture.flows import HttpFlow, HttpRequest, Origin, Problem
from pytest_netcapture.hook_names import MATCH, REPLAY, REQUEST
from pytest_netcapture.mock_messages import HookQuestion, Told

if TYPE_CHECKING:
    from pytest_netcapture.cassettes.store import Cassette
    from pytest_netcapture.engine.connection import Connection
    from pytest_netcapture.engine.main import Engine


class Failed(Exception):
    """What was asked raised; its text is the traceback."""


class Hooked:
    """Decides on exchanges of scopes whose hooks are asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def decide(self, connection: Connection, scope: Scope, flow: HttpFlow) -> Later:
        later = Later()
        flow.process, flow.inode = connection.owner.process(), connection.owner.inode
        self._engine.spawn(self._settle(later, connection, scope, flow))
        return later

    async def _settle(
        self, later: Later, connection: Connection, scope: Scope, flow: HttpFlow
    ) -> None:
        try:
            decision, problem = await self._asked(connection, scope, flow)
        except Failed as failure:
            decision = Deny(Origin.UNMATCHED)
            reason = f"a hook failed:\n{failure}"
            problem = Problem(kind="hook", reason=reason, flow=flow, advice="mend the hook")
        except (OSError, asyncio.CancelledError):  # the test has ended
            decision, problem = Deny(Origin.UNMATCHED), None
        later.settle(self._engine.decided(connection, flow, decision, problem))

    async def _asked(
        self, connection: Connection, scope: Scope, flow: HttpFlow
    ) -> tuple[Decision, Problem | None]:
        use, cassette = scope.settings.cassette, scope.cassette
        assert use is not None
        assert cassette is not None
        address = connection.plan.address[0]
        request = flow.request
        if REQUEST in use.hooks:
            told = await self._told(scope, HookQuestion(0, REQUEST, flow))
            if not told.matches or told.flow is None:
                return pipeline.forward(scope, flow, address)
            request = told.flow.request
        found = cassette.play_http(request)
        if isinstance(found, Miss) and MATCH in use.hooks:
            found = await self._other(scope, cassette, request, found)
        if isinstance(found, HttpFlow) and REPLAY in use.hooks:
            told = await self._told(scope, HookQuestion(0, REPLAY, found))
            found = told.flow or found
        return pipeline.played(scope, flow, found, address)

    async def _other(
        self, scope: Scope, cassette: Cassette, request: HttpRequest, miss: Miss
    ) -> HttpFlow | Miss:
        """Return the recording that the project's own matcher chooses."""
        candidates = cassette.candidates(request)
        if not candidates:
            return miss
        flows = [flow for _, flow in candidates]
        told = await self._told(scope, HookQuestion(0, MATCH, HttpFlow(request=request), flows))
        if not 0 <= told.index < len(flows):
            return miss
        cassette.take(candidates[told.index][0])
        return flows[told.index]

    async def _told(self, scope: Scope, question: HookQuestion) -> Told:
        told = await self._engine.mocking.ask(scope, question)
        if told.error:
            raise Failed(told.error)
        return told
