"""`Response`: what a mock answers, as a test's author writes it, checked when it is written.

1. At most one of `json`, `text`, `content` and `stream` makes the body; each brings its own
   Content-Type unless the headers have one. Content-Length is added where the wire needs it.
2. What no server could send is a `UsageError`, which names the place.

Proved by tests/test_mocks.py.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from operator import methodcaller
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

import msgspec

from pytest_netcapture.errors import NetcaptureError, UsageError
from pytest_netcapture.flows import WebSocketMessage
from pytest_netcapture.mock_messages import MockAnswer
from pytest_netcapture.quantities import duration

__tracebackhide__ = methodcaller("errisinstance", NetcaptureError)

P = ParamSpec("P")
R = TypeVar("R")

_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_BODILESS = frozenset((204, 304))
NOTHING: Any = msgspec.UNSET


def spelled(place: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make unknown arguments of a function a `UsageError` with the nearest name."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters.values()
        known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
        known = [name for name in known if name != "self"]

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in known:
                    cure = f"{nearest_name(name, known)}known: {', '.join(known)}"
                    raise UsageError(f"{place}: unknown argument {name!r}", cure=cure)
            return function(*args, **kwargs)

        return checked

    return decorate


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Return the question whether the nearest known name is meant, if there is one."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {near[0]!r}? " if near else ""


class Response:
    """An answer to a request, for a callable that `netcapture.mock(...).respond_with` was given."""

    @spelled("Response")
    def __init__(
        self,
        status: int = 200,
        *,
        json: Any = NOTHING,
        text: str | None = None,
        content: bytes | None = None,
        stream: Iterable[bytes | str] | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        delay: float | str = 0,
    ) -> None:
        """Take a body and `delay`, in seconds or as "200ms". Raises `UsageError`."""
        self.answer = build(
            "Response",
            status=status,
            json=json,
            text=text,
            content=content,
            stream=stream,
            headers=headers,
            delay=delay,
        )


def build(
    place: str,
    *,
    status: Any,
    json: Any = NOTHING,
    text: Any = None,
    content: Any = None,
    stream: Any = None,
    headers: Any = None,
    delay: Any = 0,
    times: Any = None,
) -> MockAnswer:
    """Check the parts of an answer and put them together. Raises `UsageError` naming `place`."""
    given = {"json": json, "text": text, "content": content, "stream": stream}
    bodies = [n for n, one in given.items() if one is not (NOTHING if n == "json" else None)]
    if len(bodies) > 1:
        raise UsageError(f"{place}: {' and '.join(bodies)} are both bodies", cure="leave one out")
    check_status(status, place)
    answer = MockAnswer(status=int(status), headers=header_fields(headers, f"{place}: headers"))
    if bodies:
        if status in _BODILESS:
            raise UsageError(
                f"{place}: a {int(status)} has no body", cure=f"leave out {bodies[0]}="
            )
        _MAKERS[bodies[0]](answer, given[bodies[0]], f"{place}: {bodies[0]}")
    answer.delay = duration(delay, f"{place}: delay")
    answer.times = check_times(times, place)
    return answer


def grpc(
    messages: Iterable[Any], status: Any, message: str, place: str, *, delay: Any, times: Any
) -> MockAnswer:
    """Put the answer to a gRPC call together. Raises `UsageError` naming `place`."""
    if type(status) is not int or not 0 <= status <= 16:
        raise UsageError(f"{place}: status={status!r} is none of gRPC's", cure="write 0 to 16")
    body = b""
    for one in messages:
        data = one.SerializeToString() if hasattr(one, "SerializeToString") else one
        if not isinstance(data, bytes):
            cure = "give a protobuf message, or bytes"
            raise UsageError(f"{place}: {one!r} is not a message", cure=cure)
        body += b"\0" + len(data).to_bytes(4, "big") + data
    trailers = [("grpc-status", str(status))]
    if message:
        trailers.append(("grpc-message", quote(message, safe=" !#$&'()*+,/:;=?@[]~")))
    return MockAnswer(
        headers=[("content-type", "application/grpc")],
        body=body,
        trailers=trailers,
        delay=duration(delay, f"{place}: delay"),
        times=check_times(times, place),
    )


def talk(said: Any, place: str) -> list[WebSocketMessage]:
    """Return what is said on a WebSocket. Raises `UsageError` naming `place`."""
    cure = 'write [("<", "hello"), (">", {"a": 1})]'
    if isinstance(said, (str, bytes, Mapping)) or not isinstance(said, Iterable):
        raise UsageError(f"{place}: {said!r} is no talk", cure=cure)
    found = []
    for one in said:
        if not isinstance(one, tuple) or len(one) != 2 or one[0] not in ("<", ">"):
            raise UsageError(f"{place}: {one!r} is nothing to say", cure=cure)
        mark, value = one
        kind = "binary" if isinstance(value, bytes) else "text"
        if isinstance(value, str):
            value = value.encode()
        elif not isinstance(value, bytes):
            value = msgspec.json.encode(value)
        found.append(WebSocketMessage(sent=mark == ">", kind=kind, data=value))
    return found


def check_status(status: Any, place: str) -> None:
    if isinstance(status, int) and not isinstance(status, bool) and 200 <= status <= 599:
        return
    if isinstance(status, int) and 100 <= status < 200:
        raise UsageError(
            f"{place}: {int(status)} is no final answer", cure="answer with 200 or above"
        )
    raise UsageError(f"{place}: {status!r} is not a status", cure="write a number from 200 to 599")


def check_times(times: Any, place: str) -> int | None:
    if times is None:
        return None
    if isinstance(times, int) and not isinstance(times, bool) and times > 0:
        return times
    raise UsageError(f"{place}: times={times!r} is not a number of times", cure="write 1, 2, 3, …")


def header_fields(headers: Any, place: str) -> list[tuple[str, str]]:
    """Return names and values; a value may be a list of several."""
    items = headers.items() if isinstance(headers, Mapping) else headers or ()
    fields = []
    for item in items if isinstance(items, Iterable) and not isinstance(items, str) else [items]:
        if not (isinstance(item, tuple) and len(item) == 2):
            raise UsageError(f"{place}: {item!r} is not a name and a value", cure=_HEADERS)
        name, values = item
        several = values if isinstance(values, (list, tuple)) else [values]
        fields += [_field(name, value, place) for value in several]
    return fields


_HEADERS = 'write {"name": "value"}'


def _field(name: Any, value: Any, place: str) -> tuple[str, str]:
    if not isinstance(name, str) or not name or not _TOKEN.issuperset(name):
        raise UsageError(
            f"{place}: {name!r} is not a header's name (RFC 9110 §5.6.2)", cure=_HEADERS
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or any(c in "\r\n\0" for c in value):
        raise UsageError(f"{place}.{name}: {value!r} is not a header's value", cure=_HEADERS)
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        # What clients send and expect beyond ASCII is UTF-8, seen as latin-1 (flows.py, rule 3).
        value = value.encode().decode("latin-1")
    return name, value


def _json(answer: MockAnswer, value: Any, place: str) -> None:
    try:
        answer.body = msgspec.json.encode(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{place}: {error}", cure="give what JSON has, or content=") from None
    _content_type(answer, "application/json")


def _text(answer: MockAnswer, value: Any, place: str) -> None:
    if not isinstance(value, str):
        raise UsageError(f"{place}: {value!r} is not a string", cure=_other(value))
    answer.body = value.encode()
    _content_type(answer, "text/plain; charset=utf-8")


def _content(answer: MockAnswer, value: Any, place: str) -> None:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise UsageError(f"{place}: {type(value).__name__} is not bytes", cure=_other(value))
    answer.body = bytes(value)


def _stream(answer: MockAnswer, value: Any, place: str) -> None:
    cure = 'write ["data: 1\\n\\n", "data: 2\\n\\n"], strings or bytes'
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise UsageError(f"{place}: {value!r} is not several pieces", cure=cure)
    pieces = []
    for piece in value:
        if not isinstance(piece, (str, bytes)):
            raise UsageError(f"{place}: {piece!r} is not a piece of a body", cure=cure)
        pieces.append(piece.encode() if isinstance(piece, str) else piece)
    answer.body = b"".join(pieces)
    answer.chunks = [len(piece) for piece in pieces if piece]
    answer.headers.append(("Transfer-Encoding", "chunked"))


_MAKERS: dict[str, Callable[[MockAnswer, Any, str], None]] = {
    "json": _json,
    "text": _text,
    "content": _content,
    "stream": _stream,
}


def _content_type(answer: MockAnswer, value: str) -> None:
    if not any(name.lower() == "content-type" for name, _ in answer.headers):
        answer.headers.append(("Content-Type", value))


def _other(value: Any) -> str:
    if isinstance(value, str):
        return "write text="
    return "write content=" if isinstance(value, bytes) else "write json="
