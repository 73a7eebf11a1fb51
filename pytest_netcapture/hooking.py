"""What a project's own code says of recordings: its hooks, and vcrpy's two callables.

1. It runs in the test process. Recordings wait in the engine until the test has ended, and are then
   fetched, shown to the code and sent back (`review`); what is played is asked for while the
   client waits, in the thread of answering.py (`said`).
2. What is not implemented costs nothing: `names` tells the engine what is to be asked.
3. Code that raises fails the test, and nothing of that test is recorded: what it was to hide would
   be in the file.

Proved by tests/plugin/test_hooks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import AnyFlow, Flow, HttpFlow, HttpRequest, HttpResponse
from pytest_netcapture.hook_names import FLOW, MATCH, RECORD, REPLAY, REQUEST, RESPONSE
from pytest_netcapture.mock_messages import HookQuestion, Told

_HOOKS = (FLOW, RECORD, REPLAY, MATCH)


class Hooks:
    """What is implemented for one test; `given` is what its `netcapture_config` returned."""

    def __init__(self, item: pytest.Item, given: Mapping[str, Any] | None = None) -> None:
        relay = item.ihook
        every = {name: getattr(relay, f"pytest_netcapture_{name}") for name in _HOOKS}
        self._call = {name: call for name, call in every.items() if call.get_hookimpls()}
        self._own: dict[str, Callable[[Any], Any]] = {
            name: given[name] for name in (REQUEST, RESPONSE) if given and given.get(name)
        }

    @property
    def names(self) -> tuple[str, ...]:
        """What the engine has to know of."""
        return tuple(name for name in (*self._call, *self._own) if name != FLOW)

    def show(self, flows: list[AnyFlow]) -> None:
        """Tell of a test's flows."""
        for flow in flows:
            self._call[FLOW](flow=flow)

    @property
    def looks(self) -> bool:
        return FLOW in self._call

    def review(self, flow: AnyFlow) -> AnyFlow | None:
        """Return what is to be recorded for a flow, None for nothing. Raises `UsageError`."""
        kept: Any = flow
        if RECORD in self._call:
            said = self._call[RECORD](flow=flow)
            kept = flow if said is None else said
        if kept is not False and not isinstance(kept, Flow):
            raise _wrong("pytest_netcapture_before_record", kept, "a flow, None or False")
        if kept is False or not isinstance(kept, HttpFlow):
            return None if kept is False else kept  # type: ignore[return-value]
        return self._both(kept)

    def _both(self, flow: HttpFlow) -> HttpFlow | None:
        """Apply vcrpy's two: each returns what is to be kept, None leaves the exchange out."""
        request = self._request(flow.request)
        if request is None:
            return None
        flow.request = request
        if RESPONSE in self._own and flow.response is not None:
            response = self._own[RESPONSE](flow.response)
            if response is not None and not isinstance(response, HttpResponse):
                raise _wrong(RESPONSE, response, "the response, or None to leave the exchange out")
            if response is None:
                return None
            flow.response = response
        return flow

    def _request(self, request: HttpRequest) -> HttpRequest | None:
        if REQUEST not in self._own:
            return request
        changed = self._own[REQUEST](request)
        if changed is not None and not isinstance(changed, HttpRequest):
            raise _wrong(REQUEST, changed, "the request, or None to leave the exchange out")
        return changed

    def said(self, question: HookQuestion) -> Told:
        """Answer what the engine asks before it plays."""
        told = Told(question.number)
        flow = question.flow
        if question.hook == REQUEST:
            request = self._request(flow.request)
            told.matches = request is not None
            flow.request = request or flow.request
            told.flow = flow
        elif question.hook == MATCH:
            told.index = self._first_match(flow.request, question.candidates)
        else:
            said = self._call[REPLAY](flow=flow)
            if said is not None and not isinstance(said, HttpFlow):
                raise _wrong("pytest_netcapture_before_replay", said, "an HttpFlow or None")
            told.flow = said or flow
        return told

    def _first_match(self, request: HttpRequest, candidates: list[HttpFlow]) -> int:
        for index, recorded in enumerate(candidates):
            if self._call[MATCH](request=request, recorded=recorded):
                return index
        return -1


def _wrong(name: str, returned: object, cure: str) -> UsageError:
    return UsageError(f"{name} returned {returned!r}", cure=f"return {cure}")
