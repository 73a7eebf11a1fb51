"""What the control channel and the channel for questions carry of mocks."""

from __future__ import annotations

import msgspec

from pytest_netcapture.flows import HttpFlow, WebSocketMessage


class MockAnswer(msgspec.Struct, omit_defaults=True):
    """One answer of a mock: fixed, or `asks` a callable of the test's, or `passes` the request on.

    `times` is how often it is given; None: once, and the last one for ever. `chunks` are the sizes
    of the pieces of a body that is streamed. `delay` in nanoseconds. `sets` is the test's
    state from then on. With `talk` a WebSocket is opened, and these messages are exchanged on it.
    """

    status: int = 200
    headers: list[tuple[str, str]] = []
    body: bytes = b""
    chunks: list[int] = []
    delay: int = 0
    times: int | None = None
    asks: bool = False
    passes: bool = False
    trailers: list[tuple[str, str]] = []
    sets: dict[str, str] = {}
    talk: list[WebSocketMessage] | None = None


class SetMock(msgspec.Struct, tag=True):
    """A mock of a scope, whole again after each change.

    `criteria` are those that can be sent (portable.py); `asks`: there are others besides.
    """

    scope: int
    number: int
    criteria: bytes
    asks: bool
    text: str
    answers: list[MockAnswer]
    when: dict[str, str] = {}
    """It matches in this state of the test only."""


class SetName(msgspec.Struct, tag=True):
    """Answer questions for `name` (a glob) and type `rtype`; other types have no answer."""

    scope: int
    name: str
    rtype: str
    data: list[str]
    ttl: int


class GetCalls(msgspec.Struct, tag=True):
    """The exchanges that a mock has answered or passed on, programs' of the scope included."""

    scope: int
    number: int


class GetUnused(msgspec.Struct, tag=True):
    """Which mocks of a scope have answers that were not given."""

    scope: int


class Unused(msgspec.Struct, tag=True):
    mocks: list[str]
    """What each is for, and what of it is left."""


class OpenQuestions(msgspec.Struct, tag=True):
    """Make the channel for questions of a scope; its descriptor comes with the reply."""

    scope: int


class Questions(msgspec.Struct, tag=True):
    fds: int = 1


class Question(msgspec.Struct, tag=True):
    """Ask whether mock `mock` matches `flow`, and what a callable of its answers."""

    number: int
    mock: int
    answer: int
    """Which of its answers is a callable and wanted, -1 for none."""
    flow: HttpFlow


class HookQuestion(msgspec.Struct, tag=True):
    """Ask what a hook (hooking.py) says before an exchange is played.

    `flow` has the request as it came, or is the recorded exchange; `candidates` are recorded ones.
    """

    number: int
    hook: str
    flow: HttpFlow
    candidates: list[HttpFlow] = []


class Told(msgspec.Struct):
    """The test process's word on a question; `error` is the traceback when its code raised.

    `flow` is what a hook made of the question's; `index` the candidate it chose, -1 for none.
    """

    number: int
    matches: bool = False
    answer: MockAnswer | None = None
    error: str = ""
    flow: HttpFlow | None = None
    index: int = -1
