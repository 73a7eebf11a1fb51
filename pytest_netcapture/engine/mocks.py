"""A scope's mocks: which of them answers a request, and with which of its answers.

1. The first that matches and has an answer left; for the rules see mocks.py above.
2. A mocked host needs no server: `reach` tells the gate, `names` the name server. One that says
   nothing of the host may answer for any, so there the network is tried first.
3. An answer counts as given when it is decided on: a client that hangs up meanwhile has had it.

Pure: no I/O. Proved by tests/engine/test_mocks.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from http import HTTPStatus

from pytest_netcapture.flows import AnyFlow, Body, Flow, Headers, HttpFlow, HttpResponse
from pytest_netcapture.matching import Criteria
from pytest_netcapture.mock_messages import MockAnswer, SetMock
from pytest_netcapture.portable import unpack

_DEFAULT = MockAnswer()
_FOR_EVER = 1 << 62


class Reach(IntEnum):
    """Whether a connection may be accepted without a server."""

    NO = 0
    PERHAPS = 1
    """When there is no server."""
    YES = 2


class Target:
    """What criteria say of a request before all of it, or anything, has come."""

    def __init__(self, criteria: Criteria) -> None:
        checks = criteria.checks
        self._small = tuple(check for check in checks if not check.field.large)
        self._large = tuple(check for check in checks if check.field.large)
        self._host = next((check.matcher for check in checks if check.name == "host"), None)
        self._port = next((check.matcher for check in checks if check.name == "port"), None)

    def may_match(self, flow: Flow) -> bool:
        """Tell whether all but the body agrees."""
        return all(check.agrees(flow) for check in self._small)

    def matches_rest(self, flow: Flow) -> bool:
        """Tell whether the body, too, agrees, where `may_match` is true."""
        return all(check.agrees(flow) for check in self._large)

    def reaches(self, hosts: tuple[str, ...], port: int) -> Reach:
        """Tell whether a host, which has these names, and a port are meant."""
        if self._port is not None and not self._port.matches(port):
            return Reach.NO
        return self._of_host(hosts)

    def names(self, name: str) -> Reach:
        """Tell whether the host of this name is meant."""
        return self._of_host((name,))

    def _of_host(self, hosts: tuple[str, ...]) -> Reach:
        if self._host is None:
            return Reach.PERHAPS
        return Reach.YES if self._host.matches(hosts) else Reach.NO


class LiveMock:
    """One mock, and how far it is used."""

    def __init__(self, message: SetMock) -> None:
        self.number = message.number
        self.criteria: Criteria = unpack(message.criteria, HttpFlow)
        self.asks = message.asks
        self.text = message.text
        self.calls: list[AnyFlow] = []
        self.target = Target(self.criteria)
        self._used: list[int] = []
        self._responses: dict[int, HttpResponse] = {}
        self.answers: list[MockAnswer] = []
        self.set(message)

    def set(self, message: SetMock) -> None:
        """Take over answers that were added."""
        self.answers = message.answers or [_DEFAULT]
        self.when = message.when
        self._used += [0] * (len(self.answers) - len(self._used))
        self._responses.clear()

    def may_match(self, flow: HttpFlow) -> bool:
        """Tell whether a request matches as far as can be told before its body."""
        return self.next_answer() >= 0 and self.target.may_match(flow)

    def next_answer(self) -> int:
        """Return the number of the answer that is due, -1 when they are used up."""
        last = len(self.answers) - 1
        for index, answer in enumerate(self.answers):
            if self._used[index] < _limit(answer, last=index == last):
                return index
        return -1

    def give(self, index: int, flow: HttpFlow) -> MockAnswer:
        self._used[index] += 1
        self.calls.append(flow)
        return self.answers[index]

    def take_back(self, index: int, flow: HttpFlow) -> None:
        """Undo `give`: a callable criterion did not agree."""
        self._used[index] -= 1
        self.calls.remove(flow)

    def response(self, index: int) -> HttpResponse:
        """Return a fixed answer as a response, the same one each time."""
        found = self._responses.get(index)
        if found is None:
            found = self._responses[index] = response_of(self.answers[index])
        return found

    def left(self) -> str:
        """Tell what of it was not used, "" when all was."""
        missing = list(self._missing())
        if not missing:
            return ""
        if not any(self._used):
            return "never used"
        return f"not given: {', '.join(missing)}"

    def _missing(self) -> Iterator[str]:
        for index, answer in enumerate(self.answers):
            lacking = (answer.times or 1) - self._used[index]
            if lacking > 0:
                what = "callable" if answer.asks else "pass-through" if answer.passes else ""
                yield f"answer {index + 1} ({what or answer.status}) {lacking} times".replace(
                    " 1 times", ""
                )


class Mocks:
    """The mocks of one scope, in their order."""

    def __init__(self) -> None:
        self._all: dict[int, LiveMock] = {}
        self.state: dict[str, str] = {}
        """What answers have set, of the whole test."""

    def __bool__(self) -> bool:
        return bool(self._all)

    def __iter__(self) -> Iterator[LiveMock]:
        return iter(self._all.values())

    def due(self) -> Iterator[LiveMock]:
        """Yield those that match in the present state."""
        for mock in list(self._all.values()):
            if all(self.state.get(name, "") == value for name, value in mock.when.items()):
                yield mock

    def set(self, message: SetMock) -> None:
        """Add a mock, or change one."""
        known = self._all.get(message.number)
        if known is None:
            self._all[message.number] = LiveMock(message)
        else:
            known.set(message)

    def get(self, number: int) -> LiveMock:
        return self._all[number]

    def may_match(self, flow: HttpFlow) -> bool:
        return any(mock.may_match(flow) for mock in self)

    def reach(self, hosts: tuple[str, ...], port: int) -> Reach:
        """Tell whether requests to a host, which has these names, and a port are mocked."""
        found = {mock.target.reaches(hosts, port) for mock in self}
        return max(found, default=Reach.NO)

    def names(self, name: str) -> Reach:
        found = {mock.target.names(name) for mock in self}
        return max(found, default=Reach.NO)


def response_of(answer: MockAnswer) -> HttpResponse:
    return HttpResponse(
        status=answer.status,
        reason=_phrase(answer.status),
        headers=Headers(answer.headers),
        body=Body(len(answer.body), answer.body, chunks=answer.chunks),
        trailers=Headers(answer.trailers),
    )


def _limit(answer: MockAnswer, *, last: bool) -> int:
    if answer.times is not None:
        return answer.times
    return _FOR_EVER if last else 1


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
