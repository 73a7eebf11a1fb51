"""`netcapture.fault(...)`: what goes wrong on the way between a client and its server.

1. Each method adds one fault, whose criteria are those that `fault` was given. Of those that
   strike an exchange the first counts; but what slows it down adds up.
2. A fault has chances: matching connections, handshakes, questions or exchanges, in their order. It
   strikes at each, but for the first `after` ones, at most `times` times; with a `probability` it
   throws a die for each chance, seeded, so the same seed gives the same schedule.
3. Without `seed` a test has its own, from its name: it does the same each run.
4. It lasts until its test ends.

Proved by tests/engine/test_faults.py and tests/plugin/test_mocking.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from operator import methodcaller
from typing import Any, Literal, Protocol

from pytest_netcapture import responses
from pytest_netcapture.errors import NetcaptureError, UsageError
from pytest_netcapture.fault_messages import FaultKind, SetFault
from pytest_netcapture.flows import DnsFlow, Flow, HttpFlow, TcpFlow
from pytest_netcapture.matching import Criteria, joined
from pytest_netcapture.mocks import callers_place, check_loopback
from pytest_netcapture.portable import pack
from pytest_netcapture.quantities import duration, rate
from pytest_netcapture.responses import spelled
from pytest_netcapture.settings import Settings

__tracebackhide__ = methodcaller("errisinstance", NetcaptureError)

_PLACE = "netcapture.fault"
_numbers = itertools.count(1)
_OF_CONNECTIONS = frozenset(("host", "port", "process"))
_TLS = {
    "expired": "certificate has expired",
    "wrong_host": "wrong_host",
    "untrusted": "self-signed certificate in certificate chain",
}
_DNS = {"nxdomain": "NXDOMAIN", "servfail": "SERVFAIL", "timeout": ""}


class FaultSource(Protocol):
    """What the session gives a fault."""

    def settings(self) -> Settings:
        """Return what holds for the test now."""

    def set_fault(self, fault: SetFault) -> None:
        """Let the engine know a fault."""

    def seed(self) -> str:
        """Return what makes the test's own schedule."""


class Fault:
    """What matches some criteria goes wrong; each method says in which way."""

    def __init__(
        self, source: FaultSource, method: Any, url: Any, criteria: Mapping[str, Any]
    ) -> None:
        """Check the criteria. Raises `UsageError`."""
        wanted = Criteria.build(method, url, criteria, place=_PLACE)
        check_loopback(_PLACE, wanted, source.settings())
        self._given = joined(method, url, criteria, _PLACE)
        self._packed, whole = pack(self._given)
        if not whole:
            cure = "write text, numbers or re.compile(...)"
            raise UsageError(f"{_PLACE}: a fault has no callable criteria", cure=cure)
        self._of_connections = wanted.names() <= _OF_CONNECTIONS
        self._text = wanted.describe()
        self._source = source
        self._made = callers_place()

    def __repr__(self) -> str:
        return f"<faults of {self._text}>"

    # ── when a connection is made ────────────────────────────────────────────────────────────

    @spelled(f"{_PLACE}(...).refuse")
    def refuse(
        self,
        *,
        times: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        seed: object = None,
    ) -> Fault:
        """Refuse connections: the client gets ECONNREFUSED."""
        when = _when(times, after, probability, seed)
        return self._add(FaultKind.REFUSE, when, kind=TcpFlow, at_connect=True)

    @spelled(f"{_PLACE}(...).unreachable")
    def unreachable(
        self,
        *,
        times: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        seed: object = None,
    ) -> Fault:
        """Answer connections with "host unreachable": the client gets EHOSTUNREACH."""
        when = _when(times, after, probability, seed)
        return self._add(FaultKind.UNREACHABLE, when, kind=TcpFlow, at_connect=True)

    @spelled(f"{_PLACE}(...).blackhole")
    def blackhole(
        self,
        *,
        times: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        seed: object = None,
    ) -> Fault:
        """Answer nothing: connections, or with criteria of requests, those requests, time out."""
        when = _when(times, after, probability, seed)
        connects = self._of_connections
        kind = TcpFlow if connects else HttpFlow
        return self._add(FaultKind.BLACKHOLE, when, kind=kind, at_connect=connects)

    @spelled(f"{_PLACE}(...).tls_error")
    def tls_error(
        self,
        problem: Literal["expired", "wrong_host", "untrusted"],
        /,
        *,
        times: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        seed: object = None,
    ) -> Fault:
        """Show clients a certificate that is bad in this way."""
        detail = _one_of(problem, _TLS, "tls_error")
        when = _when(times, after, probability, seed)
        return self._add(FaultKind.TLS, when, kind=TcpFlow, detail=detail)

    @spelled(f"{_PLACE}(...).dns_error")
    def dns_error(
        self,
        problem: Literal["nxdomain", "servfail", "timeout"],
        /,
        *,
        times: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        seed: object = None,
    ) -> Fault:
        """Answer questions for names so, or not at all; A and AAAA of a look-up count once."""
        detail = _one_of(problem, _DNS, "dns_error")
        when = _when(times, after, probability, seed)
        return self._add(FaultKind.DNS, when, kind=DnsFlow, detail=detail)

    # ── in an exchange, or on a connection that is not decoded ───────────────────────────────

    @spelled(f"{_PLACE}(...).status")
    def status(
        self,
        status: int,
        /,
        *,
        json: Any = responses.NOTHING,
        text: str | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        times: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        seed: object = None,
    ) -> Fault:
        """Answer requests with a status, in place of whoever would have answered."""
        answer = responses.build(
            f"{_PLACE}(...).status",
            status=status,
            json=json,
            text=text,
            content=content,
            headers=headers,
        )
        when = _when(times, after, probability, seed)
        detail = str(int(status))
        return self._add(FaultKind.STATUS, when, kind=HttpFlow, answer=answer, detail=detail)

    @spelled(f"{_PLACE}(...).reset")
    def reset(
        self,
        *,
        after_bytes: int | None = None,
        times: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        seed: object = None,
    ) -> Fault:
        """Reset the connection (a TCP RST): before the answer, or after so much of its body."""
        size = _size(after_bytes, "reset: after_bytes")
        when = _when(times, after, probability, seed)
        return self._add(FaultKind.RESET, when, kind=self._exchange, size=size)

    @spelled(f"{_PLACE}(...).truncate")
    def truncate(
        self,
        *,
        after_bytes: int = 0,
        times: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        seed: object = None,
    ) -> Fault:
        """End the connection in order after so much of the answer's body."""
        size = _size(after_bytes, "truncate: after_bytes") or 0
        when = _when(times, after, probability, seed)
        return self._add(FaultKind.TRUNCATE, when, kind=self._exchange, size=size)

    @spelled(f"{_PLACE}(...).corrupt")
    def corrupt(
        self,
        *,
        after_bytes: int = 0,
        times: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        seed: object = None,
    ) -> Fault:
        """Invert the byte that follows so many of the answer's body."""
        size = _size(after_bytes, "corrupt: after_bytes") or 0
        when = _when(times, after, probability, seed)
        return self._add(FaultKind.CORRUPT, when, kind=self._exchange, size=size)

    @spelled(f"{_PLACE}(...).latency")
    def latency(
        self,
        time: float | str,
        /,
        *,
        jitter: float | str = 0,
        times: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        seed: object = None,
    ) -> Fault:
        """Delay answers by `time`, give or take `jitter`: seconds, or "200ms"."""
        place = f"{_PLACE}(...).latency"
        long, more = duration(time, place), duration(jitter, f"{place}: jitter")
        if more > long:
            raise UsageError(f"{place}: jitter is longer than {time!r}", cure="make it shorter")
        when = _when(times, after, probability, seed)
        return self._add(FaultKind.LATENCY, when, kind=HttpFlow, time=long, jitter=more)

    @spelled(f"{_PLACE}(...).bandwidth")
    def bandwidth(
        self,
        rate_: float | str,
        /,
        *,
        times: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        seed: object = None,
    ) -> Fault:
        """Let answers through at so many bytes a second: 65536, or "64kB/s"."""
        many = rate(rate_, f"{_PLACE}(...).bandwidth")
        when = _when(times, after, probability, seed)
        return self._add(FaultKind.BANDWIDTH, when, kind=self._exchange, rate=many)

    @property
    def _exchange(self) -> type[Flow]:
        return Flow if self._of_connections else HttpFlow

    def _add(
        self, what: FaultKind, when: dict[str, Any], *, kind: type[Flow], **fields: Any
    ) -> Fault:
        place = f"{_PLACE}(...).{what.value}"
        names = Criteria.build(None, None, self._given, place=place, kind=kind).names()
        if "process" in names and what is FaultKind.DNS:
            cure = "leave it out"
            raise UsageError(f"{place}: who asks is known too late to choose by", cure=cure)
        if "status" in names:
            raise UsageError(f"{place}: it strikes before there is a status", cure="leave it out")
        seed = when.pop("seed")
        if when["probability"] < 1 and seed is None:
            seed = self._source.seed()
        fault = SetFault(
            scope=0,
            number=next(_numbers),
            kind=what,
            criteria=self._packed,
            text=f"{self._text}, made at {self._made}",
            seed="" if seed is None else str(seed),
            **when,
            **fields,
        )
        self._source.set_fault(fault)
        return self


def _when(times: Any, after: Any, probability: Any, seed: Any) -> dict[str, Any]:
    responses.check_times(times, _PLACE)
    if type(after) is not int or after < 0:
        raise UsageError(
            f"{_PLACE}: after={after!r} is not a number of times", cure="write after=1"
        )
    if type(probability) not in (int, float) or not 0 < probability <= 1:
        raise UsageError(
            f"{_PLACE}: probability={probability!r} is none", cure="write 0.1, at most 1"
        )
    if seed is not None and not isinstance(seed, (int, str)):
        raise UsageError(f"{_PLACE}: seed={seed!r} is no seed", cure="write a number or a string")
    return {"times": times, "after": after, "probability": float(probability), "seed": seed}


def _size(value: Any, place: str) -> int | None:
    if value is None or (type(value) is int and value >= 0):
        return value
    raise UsageError(f"{_PLACE}(...).{place}={value!r} is no number of bytes", cure="write 100")


def _one_of(problem: Any, known: Mapping[str, str], method: str) -> str:
    if isinstance(problem, str) and problem in known:
        return known[problem]
    hint = responses.nearest_name(problem, known) if isinstance(problem, str) else ""
    raise UsageError(
        f"{_PLACE}(...).{method}: there is no {problem!r}", cure=f"{hint}known: {', '.join(known)}"
    )
