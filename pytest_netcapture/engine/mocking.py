"""Answer requests from mocks: at once, after a while, or when the test process has been asked.

1. Mocks come before all else in the pipeline; what none answers goes on as if there were none.
2. The test process is asked over a channel of its own, since its control channel is its thread's,
   which waits for the client just then. It is opened when the first mock needs it.
3. A callable that raises, or does not answer in time, fails its test; the client gets a 500 that
   says so.

Proved by tests/engine/test_mocks.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import msgspec

from pytest_netcapture.cassettes.conversation import MockedConversation
from pytest_netcapture.engine.layers.layer import Decision, Deny, Later, Play
from pytest_netcapture.engine.mocks import LiveMock, response_of
from pytest_netcapture.engine.scopes import Scope
from pytest_netcapture.flows import (
    Headers,
    HttpFlow,
    HttpResponse,
    Origin,
    Problem,
    WebSocketFlow,
    WebSocketMessage,
)
from pytest_netcapture.mock_messages import HookQuestion, MockAnswer, Question, Told

if TYPE_CHECKING:
    from pytest_netcapture.engine.connection import Connection
    from pytest_netcapture.engine.main import Engine

PATIENCE = 60.0
"""Seconds that a callable may take."""
_LENGTH = 4
_FAILED = "text/plain; charset=utf-8"


class Asking:
    """The engine's end of the channel for questions of one scope."""

    def __init__(self, engine: Engine) -> None:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        self._socket = ours
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Told]] = {}
        self._decoder = msgspec.msgpack.Decoder(Told)
        self._closed = False
        engine.spawn(self._listen(engine.loop))

    def close(self) -> None:
        """End what is waited for; the test process sees the end of the channel."""
        if not self._closed:
            self._closed = True
            self.theirs.close()
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            for future in self._waiting.values():
                future.cancel()

    async def ask(self, question: Question | HookQuestion) -> Told:
        """Return what the test process says. Raises `TimeoutError`, or is cancelled at the end."""
        loop = asyncio.get_running_loop()
        self._number += 1
        number = question.number = self._number
        future = self._waiting[number] = loop.create_future()
        try:
            payload = msgspec.msgpack.encode(question)
            head = len(payload).to_bytes(_LENGTH, "little")
            await loop.sock_sendall(self._socket, head + payload)
            return await asyncio.wait_for(future, PATIENCE)
        finally:
            del self._waiting[number]

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        buffer = b""
        with self._socket, contextlib.suppress(OSError):
            while data := await loop.sock_recv(self._socket, 1 << 16):
                buffer += data
                while len(buffer) >= _LENGTH:
                    end = _LENGTH + int.from_bytes(buffer[:_LENGTH], "little")
                    if len(buffer) < end:
                        break
                    told = self._decoder.decode(buffer[_LENGTH:end])
                    buffer = buffer[end:]
                    future = self._waiting.get(told.number)
                    if future is not None and not future.done():
                        future.set_result(told)


class Mocking:
    """Decides on exchanges that a scope's mocks may answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asking: dict[int, Asking] = {}

    def open(self, scope: Scope) -> int:
        """Return the descriptor at which the test process answers questions of `scope`."""
        asking = self._asking[scope.id] = Asking(self._engine)
        return asking.theirs.fileno()

    def close(self, scope: Scope) -> None:
        asking = self._asking.pop(scope.id, None)
        if asking is not None:
            asking.close()

    def decide(
        self, connection: Connection, scope: Scope, flow: HttpFlow
    ) -> Decision | Later | None:
        """Return what a mock says; None when none does."""
        for mock in scope.mocks.due():
            if not mock.may_match(flow):
                continue
            index = mock.next_answer()
            if mock.asks or mock.answers[index].asks:
                return self._ask(connection, scope, flow)
            if mock.target.matches_rest(flow):
                return self._give(connection, mock, index, flow)
        return None

    def _give(
        self, connection: Connection, mock: LiveMock, index: int, flow: HttpFlow
    ) -> Decision | Later:
        answer = mock.give(index, flow)
        self._engine.scopes.get(flow.scope).mocks.state.update(answer.sets)
        if answer.passes:
            return self._engine.decide_unmocked(connection, flow)
        if answer.talk is not None:
            return self._talk(answer.talk, flow, mock)
        return self._after(answer.delay, mock.response(index))

    @staticmethod
    def _talk(said: list[WebSocketMessage], flow: HttpFlow, mock: LiveMock) -> Play:
        """Open a WebSocket (RFC 6455 §4.2.2, over HTTP/2 RFC 8441 §5) and follow a script."""
        connect = flow.request.method == "CONNECT"
        upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
        response = HttpResponse(
            status=200 if connect else 101,
            reason="" if connect else "Switching Protocols",
            headers=Headers([] if connect else upgrade),
        )
        script = WebSocketFlow(request=flow.request, response=response, messages=said)
        conversation = MockedConversation(script, mock.text)
        return Play(response, origin=Origin.MOCKED, conversation=conversation)

    def _after(self, delay: int, response: HttpResponse) -> Play | Later:
        play = Play(response, origin=Origin.MOCKED)
        if not delay:
            return play
        later = Later()
        self._engine.loop.call_later(delay / 1e9, later.settle, play)
        return later

    # ── asking ───────────────────────────────────────────────────────────────────────────────

    def _ask(self, connection: Connection, scope: Scope, flow: HttpFlow) -> Later:
        later = Later()
        flow.process, flow.inode = connection.owner.process(), connection.owner.inode
        self._engine.spawn(self._settle(later, connection, scope, flow))
        return later

    async def _settle(
        self, later: Later, connection: Connection, scope: Scope, flow: HttpFlow
    ) -> None:
        try:
            decision = await self._asked(connection, scope, flow)
        except (OSError, asyncio.CancelledError):  # the test has ended
            decision = Deny(Origin.UNMATCHED)
        if isinstance(decision, Later):
            decision.then(later.settle)
        else:
            later.settle(decision)

    async def _asked(
        self, connection: Connection, scope: Scope, flow: HttpFlow
    ) -> Decision | Later:
        for mock in scope.mocks.due():
            index = mock.next_answer()
            if index < 0 or not mock.criteria.matches(flow):
                continue
            calls = mock.answers[index].asks
            if not (mock.asks or calls):
                return self._give(connection, mock, index, flow)
            if calls:
                mock.give(index, flow)  # while it is asked, another may ask
            told = await self.ask(scope, Question(0, mock.number, index if calls else -1, flow))
            if told.error:
                return self._failed(scope, mock, flow, told.error)
            if told.matches and calls:
                return self._said(connection, flow, told.answer)
            if told.matches:
                return self._give(connection, mock, index, flow)
            if calls:
                mock.take_back(index, flow)
        return self._engine.decide_unmocked(connection, flow)

    async def ask(self, scope: Scope, question: Question | HookQuestion) -> Told:
        """Return what the test process says. Raises `OSError` when the test has ended."""
        asking = self._asking.get((scope.parent or scope).id)
        if asking is None:
            raise OSError("the test has ended")
        try:
            return await asking.ask(question)
        except (TimeoutError, asyncio.TimeoutError):
            return Told(0, error=f"no answer within {PATIENCE:g} s")

    def _said(
        self, connection: Connection, flow: HttpFlow, answer: MockAnswer | None
    ) -> Decision | Later:
        if answer is None:
            return self._engine.decide_unmocked(connection, flow)
        return self._after(answer.delay, response_of(answer))

    def _failed(self, scope: Scope, mock: LiveMock, flow: HttpFlow, error: str) -> Play:
        """Fail the test, and the client too, in words."""
        reason = f"a callable of the mock of {mock.text}, failed:\n{error}"
        advice = "mend the callable; the client was answered 500"
        self._engine.scopes.problem(
            scope, Problem(kind="mock", reason=reason, flow=flow, advice=advice)
        )
        body = f"netcapture: {reason}\n".encode()
        headers = [("Content-Type", _FAILED), ("Connection", "close")]
        failure = MockAnswer(status=500, headers=headers, body=body)
        return Play(response_of(failure), origin=Origin.MOCKED)
