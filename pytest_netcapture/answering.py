"""Answers the engine's questions about mocks and hooks in a thread; the test waits in its client.

1. The thread exists only in a test that has a mock with a callable, or a hook for replay, from then
   on until the test ends. It is born in the test's namespace: what a callable sends is the test's.
2. One question at a time: callables need no locks. One that itself sends a request which needs to
   ask waits for itself; the engine gives up in the end.
3. Whatever a callable raises is told with its traceback; the client gets a 500, the test fails.
4. Tests patch `socket` and `os`: what is used here is bound at import.

Proved by tests/engine/test_mocks.py and tests/plugin/test_mocking.py.
"""

from __future__ import annotations

import inspect
import os
import threading
import traceback
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec

from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import HttpFlow
from pytest_netcapture.hooking import Hooks
from pytest_netcapture.mock_messages import HookQuestion, MockAnswer, Question, Told
from pytest_netcapture.mocks import Mock, Responder
from pytest_netcapture.responses import Response

LENGTH = 4
_read, _write, _close = os.read, os.write, os.close
_PATIENCE = 1.0


class Answering:
    """A thread at one end of the channel for questions; `mocks` are the test's by number."""

    def __init__(
        self, descriptor: int, mocks: Mapping[int, Mock], hooks: Callable[[], Hooks | None]
    ) -> None:
        self._descriptor = descriptor
        self._mocks = mocks
        self._hooks = hooks
        self._decoder = msgspec.msgpack.Decoder(Question | HookQuestion)
        self._thread = threading.Thread(target=self._run, name="netcapture-mocks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Wait for the thread, which ends when the engine has closed its end."""
        self._thread.join(_PATIENCE)  # longer only if a callable never returns

    def _run(self) -> None:
        try:
            while head := self._exactly(LENGTH):
                question = self._decoder.decode(self._exactly(int.from_bytes(head, "little")))
                self._send(msgspec.msgpack.encode(self._told(question)))
        except OSError:
            pass  # the engine is gone, which the test's thread will say
        finally:
            _close(self._descriptor)

    def _told(self, question: Question | HookQuestion) -> Told:
        told = Told(question.number)
        try:
            if isinstance(question, HookQuestion):
                hooks = self._hooks()
                return hooks.said(question) if hooks else told
            mock = self._mocks[question.mock]
            told.matches = mock.criteria.matches(question.flow)
            if told.matches and question.answer >= 0:
                told.answer = _answer_of(mock.responders[question.answer], question.flow)
        except BaseException as error:  # pytest.fail raises one that is no Exception
            told.error = _traceback(error)
        return told

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = _read(self._descriptor, size - len(data))
            if not piece:
                return b""
            data += piece
        return data

    def _send(self, payload: bytes) -> None:
        data = memoryview(len(payload).to_bytes(LENGTH, "little") + payload)
        while data:
            data = data[_write(self._descriptor, data) :]


def _answer_of(function: Responder, flow: HttpFlow) -> MockAnswer | None:
    returned = function(flow.request)
    if inspect.isawaitable(returned):
        returned = _run_to_the_end(_awaiting(returned))
    if returned is None or isinstance(returned, Response):
        return returned.answer if returned else None
    raise UsageError(
        f"the callable of a mock returned {returned!r}",
        cure="return pytest_netcapture.Response(...), or None to pass the request on",
    )


async def _awaiting(one: Any) -> Any:
    return await one


def _run_to_the_end(coroutine: Coroutine[Any, Any, Any]) -> Any:
    import asyncio  # by then the test's code has it

    return asyncio.run(coroutine)


def _traceback(error: BaseException) -> str:
    """Return the traceback without frames of ours."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__") == __name__:
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    return "".join(lines).rstrip()
