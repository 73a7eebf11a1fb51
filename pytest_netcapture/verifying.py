"""Send recorded requests to the live servers again, from a sandbox, and compare the answers.

1. Requests go out as they were recorded, over HTTP/1, from this process in a sandbox: what comes
   back is seen by the engine as a recording would be.
2. Methods that change something (RFC 9110 §9.2.1) are left out unless asked for; so is a request
   in which something was scrubbed, unless a header field that is given takes its place.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pytest_netcapture.cassettes.drift import Drift, dns_drift_of, drift_of
from pytest_netcapture.cassettes.source import Source
from pytest_netcapture.cassettes.tags import TAG
from pytest_netcapture.cassettes.writing import scrubbed
from pytest_netcapture.flows import (
    AnyFlow,
    DnsFlow,
    FlowError,
    GrpcFlow,
    Headers,
    HttpFlow,
    HttpRequest,
    WebSocketFlow,
)

if TYPE_CHECKING:
    from pytest_netcapture.session import TestScope

_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_FRAMING = frozenset(
    ("connection", "content-length", "transfer-encoding", "expect", "host", "keep-alive", "te")
)


class Options(NamedTuple):
    """What is sent, and what does not count. `headers` replace recorded fields of their names."""

    all_methods: bool = False
    headers: Mapping[str, str] = {}
    ignore: tuple[str, ...] = ()
    timeout: float = 30.0


class Verdict(NamedTuple):
    """Of one recording; `skipped` says why it was not sent."""

    number: int
    flow: AnyFlow
    drift: Drift
    skipped: str = ""


def verify(source: Source, scope: TestScope, options: Options) -> Iterable[Verdict]:
    """Yield how each exchange and look-up of a cassette fares today."""
    ignored = _ignored(options.ignore)
    for number, recording in enumerate(source.recordings, 1):
        flow = recording.flow()
        skipped = _why_not(flow, options)
        if skipped:
            yield Verdict(number, flow, Drift([], []), skipped)
        elif isinstance(flow, HttpFlow):
            actual = _sent_again(source, scope, flow, options)
            yield Verdict(number, flow, drift_of(flow, actual, ignored))
        elif isinstance(flow, DnsFlow):
            yield Verdict(number, flow, dns_drift_of(flow, _asked_again(scope, flow), ignored))


def _why_not(flow: AnyFlow, options: Options) -> str:
    """Return why a flow is not sent again, "" if it is."""
    if isinstance(flow, DnsFlow):
        if flow.server or flow.transport != "udp":
            return "asked of a server of its own"
        return "its name was scrubbed" if _has_tag(flow.name) else ""
    if not isinstance(flow, HttpFlow) or isinstance(flow, (WebSocketFlow, GrpcFlow)):
        return "no plain HTTP exchange"
    request = flow.request
    if request.method not in _SAFE and not options.all_methods:
        return f"{request.method} may change something: --all-methods sends it"
    scrubbed_fields = [
        name
        for name, value in request.headers
        if _has_tag(value) and name.lower() not in options.headers
    ]
    if scrubbed_fields:
        name = scrubbed_fields[0]
        return f"{name} was scrubbed: --header '{name}: VALUE' gives it"
    if _has_tag(request.target) or _has_tag(request.host):
        return "something in its URL was scrubbed"
    return "something in its body was scrubbed" if _tagged(request) else ""


def _has_tag(text: str) -> bool:
    return TAG.search(text.encode("utf-8", "replace")) is not None


def _tagged(request: HttpRequest) -> bool:
    return any(TAG.search(piece) for piece in request.body.pieces())


def _sent_again(source: Source, scope: TestScope, flow: HttpFlow, options: Options) -> HttpFlow:
    seen = {one.id for one in scope.flows()}
    problem = _send(flow.request, options)
    new = [one for one in scope.flows() if isinstance(one, HttpFlow) and one.id not in seen]
    if not new:  # it did not come so far: no name, no connection, no TLS
        kind = "unresolved" if "resol" in problem or "known" in problem else "unreachable"
        failed = FlowError(kind, problem)
        return HttpFlow(host=flow.host, port=flow.port, request=flow.request, error=failed)
    clean = next(iter(scrubbed(source.path, new[-1:])))
    assert isinstance(clean, HttpFlow)
    return clean


def _send(request: HttpRequest, options: Options) -> str:
    """Send a request, read the answer to its end; return what went wrong, as text."""
    if request.scheme == "https":
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            request.host, request.port, timeout=options.timeout, context=context
        )
    else:
        connection = http.client.HTTPConnection(request.host, request.port, timeout=options.timeout)
    with contextlib.closing(connection):
        try:
            connection.putrequest(
                request.method, request.target, skip_host=True, skip_accept_encoding=True
            )
            connection.putheader("Host", request.authority)
            for name, value in _fields(request.headers, options.headers):
                connection.putheader(name, value.encode("latin-1", "replace"))
            body = request.content
            if body or request.method in ("POST", "PUT", "PATCH"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            while answer.read(1 << 20):
                pass
        except (OSError, http.client.HTTPException, ValueError) as error:
            return str(error) or type(error).__name__
    return ""


def _fields(headers: Headers, given: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    for name, value in headers:
        lower = name.lower()
        if lower not in _FRAMING and lower != "content-encoding":
            yield name, given.get(lower, value)


def _asked_again(scope: TestScope, flow: DnsFlow) -> DnsFlow:
    import dns.exception
    import dns.resolver

    seen = {one.id for one in scope.flows()}
    with contextlib.suppress(dns.exception.DNSException):
        dns.resolver.Resolver().resolve(
            f"{flow.name}.", flow.type, raise_on_no_answer=False, lifetime=10
        )
    new = [one for one in scope.flows() if isinstance(one, DnsFlow) and one.id not in seen]
    return new[-1] if new else DnsFlow(name=flow.name, type=flow.type)


def _ignored(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return what tells whether a field is not to count; `*` stands for anything."""
    compiled = [re.compile(re.escape(one).replace(r"\*", ".*")) for one in patterns]
    return lambda field: any(one.fullmatch(field) for one in compiled)
