"""Claims about traffic: pure functions from flows to an `AssertionMismatch`, or to None.

1. "Requested" is about exchanges. A claim that something was *not* requested fails when it cannot
   be told, because a connection to that host was not decoded: no claim passes for want of sight.
2. "Connected" and "resolved" are about what succeeded; an attempt that failed is shown as a near
   miss. A flow counts for the host its request names and for the one that was dialled.
3. "In order" is about when flows appeared; others may lie between.

Proved by tests/test_capture.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import methodcaller
from typing import Any

from pytest_netcapture.errors import AssertionMismatch, NetcaptureError, UsageError
from pytest_netcapture.flows import (
    AnyFlow,
    DnsFlow,
    Flow,
    HttpFlow,
    Origin,
    ServiceFlow,
    TcpFlow,
    TlsFailure,
    UdpFlow,
)
from pytest_netcapture.matching import Criteria
from pytest_netcapture.report.mismatch import mismatch_text
from pytest_netcapture.report.text import count

__tracebackhide__ = methodcaller("errisinstance", NetcaptureError)

_NEVER_CONNECTED = frozenset({"refused", "unreachable", "unresolved"})


def requested(
    every: Sequence[AnyFlow], wanted: Criteria, times: int | None, at_least: int
) -> AssertionMismatch | None:
    """Claim that so many exchanges match: exactly `times`, or if that is None, `at_least`."""
    exchanges = [flow for flow in every if isinstance(flow, HttpFlow)]
    found = sum(map(wanted.matches, exchanges))
    if found == times or (times is None and found >= at_least):
        return None
    expected = _times(times) if times is not None else f"at least {_times(at_least)}"
    claim = f"expected {expected}, seen {_times(found)}: {wanted.describe()}"
    return _mismatch(claim, wanted, exchanges, every, cure=_undecoded_cure(every, wanted))


def not_requested(every: Sequence[AnyFlow], wanted: Criteria) -> AssertionMismatch | None:
    """Claim that no exchange matches, nor could have matched unseen (rule 1)."""
    exchanges = [flow for flow in every if isinstance(flow, HttpFlow)]
    found = sum(map(wanted.matches, exchanges))
    if found:
        claim = f"expected no request, seen {_times(found)}: {wanted.describe()}"
        return _mismatch(claim, wanted, exchanges, every)
    unseen = _undecoded(every, wanted)
    if unseen:
        claim = f"cannot tell whether this was requested: {wanted.describe()}"
        return _mismatch(claim, None, unseen, unseen, cure=_undecoded_cure(every, wanted))
    return None


def connected(every: Sequence[AnyFlow], wanted: Criteria, server: str) -> AssertionMismatch | None:
    """Claim that a connection to `server`, which `wanted` describes, was established."""
    attempts = [flow for flow in every if not isinstance(flow, DnsFlow)]
    matching = [flow for flow in attempts if _connects_to(flow, wanted)]
    if any(map(is_established, matching)):
        return None
    if matching:
        claim = f"expected a connection to {server}, none was established"
        return _mismatch(claim, None, matching, every)
    return _mismatch(f"expected a connection to {server}, there was none", wanted, attempts, every)


def resolved(every: Sequence[AnyFlow], wanted: Criteria, name: str) -> AssertionMismatch | None:
    """Claim that a question matches `wanted`."""
    if any(map(wanted.matches, every)):
        return None
    questions = [flow for flow in every if isinstance(flow, DnsFlow)]
    return _mismatch(f"expected {name} to be resolved", wanted, questions, every)


def in_order(every: Sequence[AnyFlow], steps: Sequence[Criteria]) -> AssertionMismatch | None:
    """Claim that flows match `steps` one after the other."""
    start = 0
    for number, step in enumerate(steps, 1):
        at = next((i for i in range(start, len(every)) if step.matches(every[i])), None)
        if at is None:
            return _mismatch(_order_claim(steps, number, every), None, every, every)
        start = at + 1
    return None


def at_once(every: Sequence[AnyFlow], wanted: Criteria, at_most: int) -> AssertionMismatch | None:
    """Claim that no more than `at_most` matching exchanges were under way at any moment."""
    exchanges = [f for f in every if isinstance(f, HttpFlow) and wanted.matches(f)]
    most: list[HttpFlow] = []
    for flow in exchanges:
        together = [other for other in exchanges if _is_under_way(other, flow.started)]
        most = max(most, together, key=len)
    if len(most) <= at_most:
        return None
    claim = f"expected at most {at_most} at once, seen {len(most)}: {wanted.describe()}"
    return _mismatch(claim, wanted, most, every)


def _is_under_way(flow: HttpFlow, moment: int) -> bool:
    return flow.started <= moment and (not flow.ended or moment < flow.ended)


def encrypted(
    every: Sequence[AnyFlow], wanted: Criteria, at_least: str
) -> AssertionMismatch | None:
    """Claim that what matches was encrypted; look-ups of names and loopback do not count."""
    flows = [f for f in every if wanted.matches(f) and _may_be_told(f)]
    plain = [f for f in flows if not _is_encrypted(f)]
    if plain:
        claim = f"expected no plaintext, seen {count(len(plain), 'flow')}: {wanted.describe()}"
        return _mismatch(claim, None, plain, plain)
    if not at_least:
        return None
    old = [f for f in flows if (known := _tls(f)) and _version(known) < _version(at_least)]
    if old:
        seen = ", ".join(sorted(set(map(_tls, old))))
        claim = f"expected TLS {at_least} or later, seen {seen}: {wanted.describe()}"
        return _mismatch(claim, None, old, old)
    unseen = [f for f in flows if not _tls(f)]
    if unseen:
        claim = f"cannot tell which version of TLS this was: {wanted.describe()}"
        cure = "these connections were not decoded; take the host out of passthrough"
        return _mismatch(claim, None, unseen, unseen, cure=cure)
    return None


def retried(
    every: Sequence[AnyFlow], wanted: Criteria, times: int | None, at_most: int | None
) -> AssertionMismatch | None:
    """Claim how often matching requests were made again after they had failed."""
    exchanges = [f for f in every if isinstance(f, HttpFlow) and wanted.matches(f)]
    last: dict[tuple[str, str], bool] = {}
    found = 0
    for flow in exchanges:
        key = flow.request.method, flow.url
        found += last.get(key, False)
        last[key] = _has_failed(flow)
    if times is None and (found <= at_most if at_most is not None else found):
        return None
    if times is not None and found == times:
        return None
    expected = f"at most {_times(at_most)}" if at_most is not None else "at least once"
    if times is not None:
        expected = _times(times)
    claim = f"expected to be retried {expected}, seen {_times(found)}: {wanted.describe()}"
    return _mismatch(claim, wanted, exchanges, every)


def _has_failed(flow: HttpFlow) -> bool:
    status = flow.response.status if flow.response else 0
    return flow.error is not None or not status or status >= 500 or status in (408, 425, 429)


def _may_be_told(flow: Flow) -> bool:
    """Tell whether a flow carried what may be read on the way."""
    if isinstance(flow, (DnsFlow, TlsFailure)) or not is_established(flow):
        return False
    return not (isinstance(flow, TcpFlow) and flow.reason == "loopback")


def _is_encrypted(flow: Flow) -> bool:
    if isinstance(flow, HttpFlow):
        return flow.request.scheme in ("https", "wss")
    if isinstance(flow, TcpFlow) and (flow.tls or flow.sni):
        return True
    return bool(flow.tls_version) or (isinstance(flow, UdpFlow) and "QUIC" in flow.reason)


def _tls(flow: Flow) -> str:
    """Return the version of TLS, "" when it is not known; QUIC has 1.3 (RFC 9001 §4)."""
    over_quic = isinstance(flow, HttpFlow) and flow.request.http_version == "3"
    return "TLSv1.3" if over_quic else flow.tls_version


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.removeprefix("TLSv").split("."))


def no_traffic(every: Sequence[AnyFlow]) -> AssertionMismatch | None:
    """Claim that there is no flow of any kind."""
    if not every:
        return None
    return _mismatch(f"expected no traffic, seen {count(len(every), 'flow')}", None, every, every)


def all_used(every: Sequence[AnyFlow], unused: Sequence[str]) -> AssertionMismatch | None:
    """Claim that no mock is among `unused`."""
    if not unused:
        return None
    claim = "\n".join(
        [f"expected every mock to be used, {len(unused)} were not:", *_listed(unused)]
    )
    return _mismatch(claim, None, every, every)


def too_late(every: Sequence[AnyFlow], wanted: Criteria, timeout: float) -> AssertionMismatch:
    """Return what to raise when no match was complete within `timeout` seconds."""
    what = "answered" if any(map(wanted.matches, every)) else "seen"
    claim = f"not {what} within {timeout:g} s: {wanted.describe()}"
    return _mismatch(claim, wanted, every, every)


def step_criteria(step: Any, place: str) -> Criteria:
    """Take a url or glob, a (method, url) pair, or a dict of criteria. Raises `UsageError`."""
    if isinstance(step, str):
        return Criteria.build(None, step, {}, place=place)
    if isinstance(step, Mapping):
        return Criteria.build(None, None, step, place=place)
    if isinstance(step, tuple) and len(step) == 2:
        return Criteria.build(step[0], step[1], {}, place=place)
    cure = 'write "https://host/path", ("GET", "https://host/path") or {"path": "/path"}'
    raise UsageError(f"{place}: {step!r} is not a step", cure=cure)


def is_complete(flow: Flow) -> bool:
    """Tell whether a flow has come to what it was for: an answer, an error, an end."""
    if isinstance(flow, HttpFlow):
        return flow.response is not None or flow.error is not None or bool(flow.ended)
    if isinstance(flow, ServiceFlow):
        return bool(flow.ended)
    if isinstance(flow, DnsFlow):
        return bool(flow.rcode) or flow.error is not None or bool(flow.ended)
    return True


def is_established(flow: Flow) -> bool:
    """Tell whether the client got a connection."""
    if flow.origin is Origin.BLOCKED:
        return False
    if flow.origin is Origin.UNMATCHED:
        return isinstance(flow, HttpFlow)
    if flow.error is None:
        return True
    if flow.error.kind == "timeout":
        return not isinstance(flow, TcpFlow) or flow.sent > 0
    return flow.error.kind not in _NEVER_CONNECTED


def _mismatch(
    claim: str,
    wanted: Criteria | None,
    flows: Sequence[AnyFlow],
    every: Sequence[AnyFlow],
    *,
    cure: str = "",
) -> AssertionMismatch:
    text = mismatch_text(claim, wanted, flows, everything=every)
    return AssertionMismatch(text, cure=cure)


def _listed(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _order_claim(steps: Sequence[Criteria], number: int, every: Sequence[AnyFlow]) -> str:
    missing = steps[number - 1]
    seen = any(map(missing.matches, every))
    why = "came only before the steps ahead of it" if seen else "never came"
    lines = [f"expected {len(steps)} steps in order, step {number} {why}"]
    lines += [
        f"  {'✓' if n < number else '✗' if n == number else ' '} {n}. {step.describe()}"
        for n, step in enumerate(steps, 1)
    ]
    return "\n".join(lines)


def _connects_to(flow: Flow, wanted: Criteria) -> bool:
    """Tell whether a flow's connection is meant, by the request's host or by the one dialled."""
    return wanted.matches(flow) or wanted.matches(_connection(flow))


def _connection(flow: Flow) -> TcpFlow:
    return TcpFlow(host=flow.host, port=flow.port, address=flow.address)


def _undecoded(every: Sequence[AnyFlow], wanted: Criteria) -> list[AnyFlow]:
    """Return connections to the wanted host in which a request would not have been seen."""
    server = wanted.only("host", "port")
    if "host" not in server.names():
        return []
    return [
        flow
        for flow in every
        if isinstance(flow, TcpFlow) and is_established(flow) and server.matches(flow)
    ]


def _undecoded_cure(every: Sequence[AnyFlow], wanted: Criteria) -> str:
    unseen = _undecoded(every, wanted)
    if not unseen:
        return ""
    if any(isinstance(flow, TcpFlow) and flow.reason == "loopback" for flow in unseen):
        return "loopback is not decoded; to see its requests, use --netcapture-loopback=capture"
    return "these connections were not decoded; take the host out of passthrough"
