"""The kinds of faults of a chaos run: to which exchanges they apply, what is expected of a test.

1. A fault lasts from its exchange to the end of the test, so a retry meets it again.
2. Those of connections wait until the exchanges before theirs on that host are over; the connection
   is then closed in order, so that the next exchange needs a new one.
3. What spoils a body applies to answers of status 2xx that have one: of others clients read none.

Proved by tests/plugin/test_chaos.py.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from pytest_netcapture.fault_messages import SetFault
from pytest_netcapture.faults import Fault, FaultSource
from pytest_netcapture.settings import Settings

_SLOW = "200ms"
_RETRY_AFTER = {"Retry-After": "1"}
_FRAMING = frozenset(("content-length", "content-encoding", "transfer-encoding", "connection"))


class Exchange(NamedTuple):
    """What a cassette says of one exchange.

    `same`: how many came before it, of the same method, host, port and path; `before`: to the same
    host and port. `size`: bytes of the answer's body, decoded.
    """

    number: int
    method: str
    scheme: str
    host: str
    port: int
    path: str
    status: int
    size: int
    same: int
    before: int

    def __str__(self) -> str:
        default = {"http": 80, "https": 443}.get(self.scheme)
        port = "" if self.port == default else f":{self.port}"
        return f"{self.method} {self.scheme}://{self.host}{port}{self.path}"


class Answer(NamedTuple):
    """The recorded answer: what some faults send in part."""

    status: int
    headers: Sequence[tuple[str, str]]
    content: bytes


class Kind(NamedTuple):
    """One kind. `strike` adds the fault; it is given the answer only if `reads` it."""

    name: str
    text: str
    strike: Callable[[Fault, Exchange, Answer], object]
    of_connection: bool = False
    applies: Callable[[Exchange], bool] = lambda _: True
    expect: str = "any"
    reads: bool = False


def _has_body(exchange: Exchange) -> bool:
    return 200 <= exchange.status < 300 and exchange.size > 1 and exchange.method != "HEAD"


def _is_named(exchange: Exchange) -> bool:
    try:
        ipaddress.ip_address(exchange.host)
    except ValueError:
        return exchange.host != "localhost"
    return False


def _half(fault: Fault, answer: Answer) -> None:
    _instead(fault, answer, answer.content[: len(answer.content) // 2])


def _instead(fault: Fault, answer: Answer, content: bytes) -> None:
    kept = [(name, value) for name, value in answer.headers if name.lower() not in _FRAMING]
    fault.status(answer.status, content=content, headers=kept)


KINDS = (
    Kind("refused", "connection refused", lambda f, _e, _a: f.refuse(), of_connection=True),
    Kind("unreachable", "no route to host", lambda f, _e, _a: f.unreachable(), of_connection=True),
    Kind("timeout", "the server never answers", lambda f, _e, _a: f.blackhole()),
    Kind("reset", "reset before the answer", lambda f, _e, _a: f.reset()),
    Kind(
        "reset-body",
        "reset in the middle of the body",
        lambda f, e, _a: f.reset(after_bytes=e.size // 2),
        applies=_has_body,
        expect="fail",
    ),
    Kind("500", "status 500", lambda f, _e, _a: f.status(500)),
    Kind("429", "status 429, Retry-After", lambda f, _e, _a: f.status(429, headers=_RETRY_AFTER)),
    Kind(
        "truncated",
        "the connection ends in the middle of the body",
        lambda f, e, _a: f.truncate(after_bytes=e.size // 2),
        applies=_has_body,
        expect="fail",
    ),
    Kind(
        "truncated-json",
        "half of the body, sent as if it were the whole",
        lambda f, _e, a: _half(f, a),
        applies=_has_body,
        expect="fail",
        reads=True,
    ),
    Kind(
        "empty",
        "an empty body",
        lambda f, _e, a: _instead(f, a, b""),
        applies=_has_body,
        expect="fail",
        reads=True,
    ),
    Kind("slow", f"{_SLOW} late", lambda f, _e, _a: f.latency(_SLOW), expect="survive"),
    Kind(
        "expired",
        "an expired certificate",
        lambda f, _e, _a: f.tls_error("expired"),
        of_connection=True,
        applies=lambda e: e.scheme == "https",
        expect="fail",
    ),
    Kind(
        "nxdomain",
        "the name does not exist",
        lambda f, _e, _a: f.dns_error("nxdomain"),
        of_connection=True,
        applies=_is_named,
    ),
)
BY_NAME = {kind.name: kind for kind in KINDS}


class _From(FaultSource):
    """A source of faults that wait until so many exchanges of theirs are over."""

    def __init__(self, source: FaultSource, before: int) -> None:
        self._source = source
        self._before = before

    def settings(self) -> Settings:
        return self._source.settings()

    def set_fault(self, fault: SetFault) -> None:
        self._source.set_fault(msgspec.structs.replace(fault, after_exchanges=self._before))

    def seed(self) -> str:
        return self._source.seed()


def arm(source: FaultSource, kind: Kind, exchange: Exchange, answer: Answer) -> None:
    """Let `kind` strike a test from `exchange` on."""
    criteria: dict[str, Any] = {"host": exchange.host, "port": exchange.port}
    if not kind.of_connection:
        criteria["path"] = re.compile(rf"\A{re.escape(exchange.path)}\Z")
        method = exchange.method
        fault = Fault(_After(source, exchange.same), method, None, criteria)
    else:
        if kind.name == "nxdomain":
            criteria = {"host": exchange.host}
        fault = Fault(_From(source, exchange.before), None, None, criteria)
    kind.strike(fault, exchange, answer)


class _After(_From):
    """A source of faults that let so many of their chances go."""

    def set_fault(self, fault: SetFault) -> None:
        self._source.set_fault(msgspec.structs.replace(fault, after=self._before))
