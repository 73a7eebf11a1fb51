"""What is done with a connection and with each exchange: replay, allow or block, forward.

Pure decisions over a scope's settings and cassette; the callers do the I/O and keep the problems.
"""

from __future__ import annotations

from functools import partial

from pytest_netcapture.cassettes.dialogue import Dialogue
from pytest_netcapture.cassettes.miss import Miss
from pytest_netcapture.cassettes.store import Cassette
from pytest_netcapture.engine.layers.layer import Decision, Deny, Forward, Play
from pytest_netcapture.engine.scopes import Scope
from pytest_netcapture.flows import (
    Address,
    AnyFlow,
    DnsFlow,
    HttpFlow,
    Origin,
    Problem,
    ServiceFlow,
    WebSocketFlow,
)
from pytest_netcapture.settings import HostMapping, HostPattern, Settings

_OF_CONNECTIONS = ("A", "AAAA", "HTTPS")


def allowed(settings: Settings, names: tuple[str, ...], address: str, port: int) -> str:
    """Return why a connection is blocked, "" when it is allowed."""
    for pattern in settings.deny:
        if pattern.matches(names, address, port):
            return f"{pattern.text} is blocked"
    if not settings.block or any(p.matches(names, address, port) for p in settings.allow):
        return ""
    return "the network is blocked (--netcapture-block)"


def name_allowed(settings: Settings, name: str) -> str:
    """Return why asking for `name` is blocked, "" when it is allowed.

    With a CIDR block among the allowed, the answer decides, so any name may be asked for.
    """
    for pattern in settings.deny:
        if not pattern.port and pattern.matches((name,), "", 0):
            return f"{pattern.text} is blocked"
    if not settings.block or any(p.network or _names(p, name) for p in settings.allow):
        return ""
    return "the network is blocked (--netcapture-block)"


def _names(pattern: HostPattern, name: str) -> bool:
    return pattern.matches((name,), "", pattern.port)


def mapping_for(
    settings: Settings, names: tuple[str, ...], address: str, port: int
) -> HostMapping | None:
    """Return the first mapping for a connection; the one with a port wins."""
    if not settings.map_host:
        return None
    found = [m for m in settings.map_host for name in (*names, address) if m.applies(name, port)]
    return max(found, key=lambda m: m.from_port, default=None)


def blocked(flow: AnyFlow, reason: str) -> Problem:
    flow.origin = Origin.BLOCKED
    return Problem(
        kind="blocked",
        reason=reason,
        flow=flow,
        advice=f"allow it: --netcapture-allow={flow.host or '...'}, or netcapture.allow(...)",
    )


def unmatched(flow: AnyFlow, miss: Miss) -> Problem:
    flow.origin = Origin.UNMATCHED
    return Problem(
        kind="unmatched",
        reason=miss.reason,
        flow=flow,
        nearest=miss.nearest,
        differences=list(miss.differences),
        advice=miss.advice,
    )


def after_the_end(flow: AnyFlow, scope: Scope) -> Problem:
    """Refuse traffic of a test that has ended and was on replay: it would be live."""
    flow.origin = Origin.UNMATCHED
    return Problem(
        kind="unmatched",
        reason=f"{scope.nodeid} has ended, and it was on replay",
        flow=flow,
        advice="end the test's child processes before the test ends",
    )


def decide_http(scope: Scope, flow: HttpFlow, address: str) -> tuple[Decision, Problem | None]:
    """Decide on one exchange: the first that applies."""
    if scope.sealed:
        return Deny(Origin.UNMATCHED), after_the_end(flow, scope)
    if scope.ignores((flow.request.host,), address, flow.request.port):
        return forward(scope, flow, address)
    cassette = scope.cassette
    if cassette is not None and scope.plays:
        return played(scope, flow, cassette.play_http(flow.request), address)
    return forward(scope, flow, address)


def played(
    scope: Scope, flow: HttpFlow, found: HttpFlow | Miss, address: str
) -> tuple[Decision, Problem | None]:
    """Decide by what the cassette has for an exchange."""
    cassette = scope.cassette
    if not isinstance(found, Miss) and cassette is not None:
        scope.counts.played += 1
        return _play(scope, cassette, found), None
    if isinstance(found, Miss) and not scope.records:
        return Deny(Origin.UNMATCHED), unmatched(flow, found)
    return forward(scope, flow, address)


def decide_service(
    scope: Scope, flow: ServiceFlow, address: str
) -> tuple[Decision, Problem | None]:
    """Decide on one exchange with a database or broker.

    A session is live or played as a whole: where anything may be recorded it is live.
    """
    quiet = "quiet" in flow.notes
    if scope.sealed:
        return Deny(Origin.UNMATCHED), None if quiet else after_the_end(flow, scope)
    cassette = scope.cassette
    ignored = scope.ignores((flow.host,), address, flow.port)
    if cassette is not None and scope.plays and not scope.records and not ignored:
        found = cassette.play_service(flow)
        if isinstance(found, Miss):
            return Deny(Origin.UNMATCHED), None if quiet else unmatched(flow, found)
        scope.counts.played += 1
        compare = partial(cassette.compare_sent, found)
        return Play(exchange=found, error=found.error, compare=compare), None
    reason = allowed(scope.settings, (flow.host,), address, flow.port)
    return (Deny(), blocked(flow, reason)) if reason else (Forward(), None)


def decide_early(
    scope: Scope, flow: HttpFlow, address: str
) -> tuple[Decision, Problem | None] | None:
    """Decide on an exchange whose body is still to come; None when the body decides."""
    if scope.sealed:
        return Deny(Origin.UNMATCHED), after_the_end(flow, scope)
    cassette = scope.cassette
    ignored = scope.ignores((flow.request.host,), address, flow.request.port)
    if cassette is None or not scope.plays or ignored:
        return forward(scope, flow, address)
    found = cassette.begin_http(flow.request)
    if found is None:
        return None
    if isinstance(found, Dialogue):
        scope.counts.played += 1
        return Play(dialogue=found), None
    if not scope.records:
        return Deny(Origin.UNMATCHED), unmatched(flow, found)
    return forward(scope, flow, address)


def forward(scope: Scope, flow: HttpFlow, address: str) -> tuple[Decision, Problem | None]:
    reason = allowed(scope.settings, (flow.request.host,), address, flow.request.port)
    if reason:
        return Deny(), blocked(flow, reason)
    return Forward(), None


def _play(scope: Scope, cassette: Cassette, found: HttpFlow) -> Play:
    paced = scope.settings.replay_speed == "recorded"
    if isinstance(found, WebSocketFlow) and found.opened:
        return Play(found.response, conversation=cassette.conversation(found), paced=paced)
    return Play(found.response, found.error, paced=paced)


def decide_dns(
    scope: Scope, flow: DnsFlow, server: Address, names: tuple[str, ...]
) -> tuple[DnsFlow | None, Problem | None]:
    """Return the recorded answer, or the problem, or neither when the resolver is to be asked.

    `server` is the one that the client asks, known by `names`.
    """
    if scope.sealed:
        return None, after_the_end(flow, scope)
    cassette = scope.cassette
    if cassette is not None and scope.plays and not scope.ignores((flow.name,), "", 0):
        found = cassette.play_dns(flow.name, flow.type, flow.server, flow.transport)
        if not isinstance(found, Miss):
            scope.counts.played += 1
            return found, None
        if not scope.records and not may_be_given(cassette, flow):
            return None, unmatched(flow, found)
        return None, None
    reason = name_allowed(scope.settings, flow.name)
    if flow.server and (reason or name_only_by_address(scope.settings, flow.name)):
        reason = allowed(scope.settings, (flow.server, *names), *server)
    return None, blocked(flow, reason) if reason else None


def may_be_given(cassette: Cassette, flow: DnsFlow) -> bool:
    """Tell whether a question that was not recorded is answered with what we make up.

    Of a name that was asked for, only what may be asked beside it by another client.
    """
    if flow.name not in cassette.hosts:
        return False
    beside = flow.type in _OF_CONNECTIONS and not flow.server
    return beside or not cassette.asked_for(flow.name)


def name_only_by_address(settings: Settings, name: str) -> bool:
    """Tell whether `name` may be asked for only because an allowed CIDR block may contain it."""
    return not any(_names(p, name) for p in settings.allow if not p.network)
