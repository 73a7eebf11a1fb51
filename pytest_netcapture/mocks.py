"""`netcapture.mock(...)`: requests that match are answered from here, whatever the network is.

1. Of several mocks that match, the one that was made first answers. One whose answers are used up
   matches nothing any more.
2. Answers are given in the order in which they were added: one without `times` once, if another
   follows it, else for ever. A mock without any answers 200 with no body.
3. What can be sent is decided in the engine. A criterion or an answer that is a callable runs in
   the test process (answering.py), one at a time.
4. It lasts until its test ends.

Proved by tests/engine/test_mocks.py and tests/plugin/test_mocking.py.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from operator import methodcaller
from typing import Any, Protocol, TypeAlias

from pytest_netcapture import responses
from pytest_netcapture.errors import NetcaptureError, UsageError
from pytest_netcapture.flows import AnyFlow, HttpFlow, HttpRequest
from pytest_netcapture.matching import Criteria, joined
from pytest_netcapture.mock_messages import MockAnswer, SetMock
from pytest_netcapture.patterns import Text
from pytest_netcapture.portable import pack
from pytest_netcapture.responses import Response, spelled
from pytest_netcapture.settings import Settings
from pytest_netcapture.views import HttpView

__tracebackhide__ = methodcaller("errisinstance", NetcaptureError)

Responder: TypeAlias = "Callable[[HttpRequest], Awaitable[Response | None] | Response | None]"
_PLACE = "netcapture.mock"
_numbers = itertools.count(1)
_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1")


class MockSource(Protocol):
    """What the session gives a mock."""

    def set_mock(self, mock: Mock) -> None:
        """Let the engine know a mock as it is now."""

    def settings(self) -> Settings:
        """Return what holds for the test now."""

    def calls(self, number: int) -> list[AnyFlow]:
        """Return the exchanges that a mock has answered."""


class Mock:
    """Requests that match its criteria, and what they are answered."""

    def __init__(
        self,
        source: MockSource,
        method: Any,
        url: Any,
        criteria: Mapping[str, Any],
    ) -> None:
        """Check the criteria. Raises `UsageError`."""
        self.criteria = Criteria.build(method, url, criteria, place=_PLACE, kind=HttpFlow)
        if "status" in self.criteria.names():
            cure = "write it into .respond(status)"
            raise UsageError(f"{_PLACE}: a request has no status", cure=cure)
        self.number = next(_numbers)
        self.responders: dict[int, Responder] = {}
        """By the number of the answer."""
        check_loopback(_PLACE, self.criteria, source.settings())
        self._packed, self._whole = pack(joined(method, url, criteria, _PLACE))
        self._place = callers_place()
        self._source = source
        self._answers: list[MockAnswer] = []
        self._when: dict[str, str] = {}
        source.set_mock(self)

    def __repr__(self) -> str:
        return f"<mock of {self.criteria.describe()}>"

    @spelled(f"{_PLACE}(...).respond")
    def respond(
        self,
        status: int = 200,
        *,
        json: Any = responses.NOTHING,
        text: str | None = None,
        content: bytes | None = None,
        stream: Iterable[bytes | str] | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        delay: float | str = 0,
        times: int | None = None,
        sets: Mapping[str, str] | None = None,
    ) -> Mock:
        """Answer with this, `times` times; then with what is added next.

        `stream` are the pieces of a body that is sent in chunks. `delay` is in seconds, or "200ms".
        `sets` changes the test's state, for mocks with `.when(...)`.
        """
        answer = responses.build(
            f"{_PLACE}(...).respond",
            status=status,
            json=json,
            text=text,
            content=content,
            stream=stream,
            headers=headers,
            delay=delay,
            times=times,
        )
        answer.sets = _state(sets or {}, f"{_PLACE}(...).respond: sets")
        return self._add(answer)

    def when(self, **state: str) -> Mock:
        """Match only while the test's state is this: `.when(cart="full")`. At first it is ""."""
        self._when |= _state(state, f"{_PLACE}(...).when")
        self._source.set_mock(self)
        return self

    @spelled(f"{_PLACE}(...).respond_grpc")
    def respond_grpc(
        self,
        *messages: Any,
        status: int = 0,
        message: str = "",
        delay: float | str = 0,
        times: int | None = None,
    ) -> Mock:
        """Answer a gRPC call with messages: protobuf's, or bytes. `status` as gRPC numbers them."""
        place = f"{_PLACE}(...).respond_grpc"
        return self._add(responses.grpc(messages, status, message, place, delay=delay, times=times))

    @spelled(f"{_PLACE}(...).respond_websocket")
    def respond_websocket(
        self, talk: Iterable[tuple[str, Any]], *, times: int | None = None
    ) -> Mock:
        """Open a WebSocket, and say in it what `talk` says: [("<", "hello"), (">", {"a": 1})].

        "<" is said to the client, and ">" is awaited from it; a value is text, bytes, or JSON. A
        client that says something else fails the test. After the last it stays open.
        """
        place = f"{_PLACE}(...).respond_websocket"
        answer = MockAnswer(status=101, talk=responses.talk(talk, place))
        answer.times = responses.check_times(times, place)
        return self._add(answer)

    @spelled(f"{_PLACE}(...).respond_with")
    def respond_with(self, function: Responder, *, times: int | None = None) -> Mock:
        """Answer with what `function` returns for the request: a `Response`, or None to pass it on.

        It may be `async`, and runs in a thread of the test process while the client waits.
        """
        place = f"{_PLACE}(...).respond_with"
        if isinstance(function, Response):
            raise UsageError(f"{place}: a Response cannot be called", cure="write .respond(...)")
        if not callable(function):
            raise UsageError(
                f"{place}: {function!r} cannot be called",
                cure="give a function that takes the request and returns a Response",
            )
        self.responders[len(self._answers)] = function
        return self._add(MockAnswer(asks=True, times=responses.check_times(times, place)))

    @spelled(f"{_PLACE}(...).pass_through")
    def pass_through(self, *, times: int | None = None) -> Mock:
        """Let matching requests go on, past all mocks, to a cassette or the server."""
        place = f"{_PLACE}(...).pass_through"
        return self._add(MockAnswer(passes=True, times=responses.check_times(times, place)))

    @property
    def calls(self) -> HttpView:
        """The exchanges that it has answered or passed on: a live view."""
        return HttpView(lambda: self._source.calls(self.number), name="calls", kind=HttpFlow)

    @property
    def needs_asking(self) -> bool:
        """Tell whether some of it runs in the test process."""
        return not self._whole or bool(self.responders)

    def message(self, scope: int) -> SetMock:
        return SetMock(
            scope,
            self.number,
            self._packed,
            not self._whole,
            f"{self.criteria.describe()}, made at {self._place}",
            self._answers,
            self._when,
        )

    def _add(self, answer: MockAnswer) -> Mock:
        self._answers.append(answer)
        self._source.set_mock(self)
        return self


def _state(given: Mapping[str, str], place: str) -> dict[str, str]:
    for name, value in given.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            cure = 'write {"cart": "full"}'
            raise UsageError(f"{place}: {name!r}: {value!r} is no state", cure=cure)
    return dict(given)


def check_loopback(place: str, criteria: Criteria, settings: Settings) -> None:
    """Refuse what would never match: loopback is left alone unless it is captured."""
    host = next((check.matcher for check in criteria.checks if check.name == "host"), None)
    if settings.capture_loopback or not isinstance(host, Text):
        return
    if isinstance(host.pattern, str) and _LOOPBACK.fullmatch(host.pattern):
        raise UsageError(
            f"{place}: {host.pattern} is loopback, which is left alone",
            cure="run with --netcapture-loopback=capture",
            slug="docs/mocking.md#servers-on-loopback",
        )


def callers_place() -> str:
    """Return the file and line outside of this package that asked for this."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        "pytest_netcapture."
    ):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.replace(chr(92), '/').rpartition('/')[2]}:{frame.f_lineno}"
