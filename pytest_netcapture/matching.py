"""When a flow matches: one implementation for assertions, filters, and what comes after them.

1. `Criteria` is a list of checks, all of which must agree. A check reads one value of a flow and
   asks one `Matcher` about it (patterns.py); a url is several checks (urls.py).
2. A criterion that a kind of flow does not have never agrees with a flow of that kind.
3. Every criterion is checked when the `Criteria` is built: an unknown name, a wrong type and a
   value that could never match are `UsageError`, with the place and the nearest valid name.
4. Cheap checks come first, bodies last; a match stops at the first check that disagrees.
5. A new criterion is one entry in `FIELDS`. ``name__contains`` asks for a part of the same value.

Proved by tests/test_matching.py.
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Callable, Iterable, Mapping
from operator import methodcaller
from typing import Any

import msgspec

from pytest_netcapture import criterion
from pytest_netcapture.errors import NetcaptureError, UsageError
from pytest_netcapture.flows import (
    AnyFlow,
    Difference,
    DnsFlow,
    Flow,
    HttpFlow,
    MailFlow,
    Message,
    MongoFlow,
    RedisFlow,
    ServiceFlow,
    SqlFlow,
    TcpFlow,
    TlsFailure,
)
from pytest_netcapture.patterns import Matcher, Text, Unparsed, shown
from pytest_netcapture.urls import canonical_path, split_url

__tracebackhide__ = methodcaller("errisinstance", NetcaptureError)

_MOST_EXAMINED = 4
_NEAR_ENOUGH = 1 / 3


class Field(msgspec.Struct, frozen=True):
    """A criterion's name in flows: which kinds have it, how it is read, how much it says."""

    kinds: tuple[type[Flow], ...]
    read: Callable[[Any], Any]
    build: Callable[[Any, str, bool], Matcher]
    weight: int
    large: bool = False


class Check(msgspec.Struct, frozen=True):
    name: str
    field: Field
    matcher: Matcher

    def agrees(self, flow: Flow) -> bool:
        return isinstance(flow, self.field.kinds) and self.matcher.matches(self.field.read(flow))

    def differences(self, flow: Flow) -> list[Difference]:
        if not isinstance(flow, self.field.kinds):
            return [
                Difference(self.name, str(self.matcher), f"({flow.protocol} has no {self.name})")
            ]
        return self.matcher.differences(self.name, self.field.read(flow))

    def score(self, flow: Flow) -> float:
        if not isinstance(flow, self.field.kinds):
            return 0.0
        return self.field.weight * self.matcher.closeness(self.field.read(flow))


class Near(msgspec.Struct, frozen=True):
    """A flow that almost matches, and where it does not."""

    flow: AnyFlow
    differences: list[Difference]
    score: float


class Criteria(msgspec.Struct, frozen=True):
    """What a flow must be like."""

    checks: tuple[Check, ...]
    text: str

    @classmethod
    def of(cls, method: Any = None, url: Any = None, /, **criteria: Any) -> Criteria:
        return cls.build(method, url, criteria)

    @classmethod
    def build(
        cls,
        method: Any,
        url: Any,
        criteria: Mapping[str, Any],
        *,
        place: str = "criteria",
        kind: type[Flow] = Flow,
    ) -> Criteria:
        """Check and compile criteria for flows of `kind`. Raises `UsageError` naming `place`."""
        given = joined(method, url, criteria, place)
        exact = _exact(given, place)
        checks = [
            check for name in given for check in _checks(name, given[name], exact, place, kind)
        ]
        if exact:
            given["exact"] = True
        checks.sort(key=lambda check: check.field.large)
        return cls(tuple(checks), _described(given))

    def matches(self, flow: Flow) -> bool:
        return all(check.agrees(flow) for check in self.checks)

    def differences(self, flow: Flow) -> list[Difference]:
        """Return each field in which `flow` differs: `recorded` is what was wanted."""
        return [difference for check in self.checks for difference in check.differences(flow)]

    def describe(self) -> str:
        return self.text

    def only(self, *names: str) -> Criteria:
        """Return the part of the criteria that is about `names`."""
        return Criteria(tuple(check for check in self.checks if check.name in names), self.text)

    def names(self) -> set[str]:
        return {check.name for check in self.checks}


def nearest(flows: Iterable[AnyFlow], criteria: Criteria, limit: int = 3) -> list[Near]:
    """Return the flows that come closest without matching, best first, of equals the latest first.

    A flow that agrees in less than a third, by weight, is not near. Bodies are only looked at in
    the few that come closest by everything else.
    """
    small = [check for check in criteria.checks if not check.field.large]
    flows = list(flows)[::-1]
    closest = heapq.nlargest(
        limit * _MOST_EXAMINED, flows, key=lambda flow: sum(check.score(flow) for check in small)
    )
    enough = _NEAR_ENOUGH * sum(check.field.weight for check in criteria.checks)
    near = []
    for flow in closest:
        score = sum(check.score(flow) for check in criteria.checks)
        differences = criteria.differences(flow)
        if differences and score >= enough:
            near.append(Near(flow, differences, score))
    return sorted(near, key=lambda one: -one.score)[:limit]


def joined(method: Any, url: Any, criteria: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Join positional and named criteria into one dict. Raises `UsageError`."""
    if callable(method) and not isinstance(method, str):
        method, criteria = None, {**criteria, "where": method}
    if isinstance(method, str) and "/" in method:
        raise UsageError(
            f"{place}: the first argument is the method, and {method!r} is none",
            cure=f"write url={method!r}, or give the method first",
        )
    given: dict[str, Any] = {}
    for name, value in (("method", method), ("url", url)):
        if value is None:
            continue
        if name in criteria:
            raise UsageError(f"{place}: {name} is given twice", cure=f"leave out {name}=")
        given[name] = value
    return {**given, **criteria}


def _exact(given: dict[str, Any], place: str) -> bool:
    exact = given.pop("exact", False)
    if not isinstance(exact, bool):
        raise UsageError(f"{place}: exact={exact!r} is not True or False", cure="write exact=True")
    if exact and not given.keys() & {"json", "form", "query"}:
        raise UsageError(
            f"{place}: exact=True has nothing to apply to",
            cure="it belongs to json=, form= or query=",
        )
    return exact


def _checks(name: str, value: Any, exact: bool, place: str, kind: type[Flow]) -> list[Check]:
    if name == "url" and isinstance(value, str) and issubclass(HttpFlow, kind):
        return _url_checks(value, place)
    base, _, lookup = name.partition("__")
    field = FIELDS.get(base)
    if field is None or not any(
        issubclass(one, kind) or issubclass(kind, one) for one in field.kinds
    ):
        raise _unknown(base, field is not None, place, kind)
    if not lookup:
        return [Check(name, field, field.build(value, f"{place}: {name}", exact))]
    if lookup != "contains":
        raise UsageError(f"{place}: unknown lookup {name!r}", cure=f"known: {base}__contains")
    return [Check(name, field, criterion.contains(value, f"{place}: {name}", field.build))]


def _unknown(name: str, elsewhere: bool, place: str, kind: type[Flow]) -> UsageError:
    known = sorted(
        one
        for one, field in FIELDS.items()
        if any(issubclass(a, kind) or issubclass(kind, a) for a in field.kinds)
    )
    if issubclass(HttpFlow, kind):
        known.append("exact")
    what = f"{kind.protocol} flows have no {name!r}" if elsewhere else f"unknown criterion {name!r}"
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"{place}: {what}", cure=f"{hint}known: {', '.join(known)}")


def _url_checks(url: str, place: str) -> list[Check]:
    parts = split_url(url, f"{place}: url")
    checks = []
    if parts.text is not None:
        checks.append(Check("url", FIELDS["url"], Text(parts.text)))
    for name in ("scheme", "host", "port", "path"):
        value = getattr(parts, name)
        if value is not None:
            field = FIELDS[name]
            checks.append(Check(name, field, field.build(value, f"{place}: url", False)))
    if parts.query is not None:
        pairs = criterion.pairs(parts.query, f"{place}: url", not parts.more_query)
        checks.append(Check("query", FIELDS["query"], pairs))
    return checks


def _described(given: Mapping[str, Any]) -> str:
    head = " ".join(shown(given[name]) for name in ("method", "url") if name in given)
    rest = ", ".join(
        shown(value) if name == "where" else f"{name}={_short(criterion.written(value))}"
        for name, value in given.items()
        if name not in ("method", "url")
    )
    return f"{head} with {rest}" if head and rest else head or rest or "anything"


def _short(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _hosts(flow: Flow) -> tuple[str, ...]:
    """Return the names by which a flow's server is known, the client's word first."""
    if isinstance(flow, HttpFlow):
        return (flow.request.host,)
    names = [flow.sni] if isinstance(flow, (TcpFlow, TlsFailure)) else []
    names += [flow.host, flow.address[0] if flow.address else ""]
    return tuple(dict.fromkeys(name.lower().rstrip(".") for name in names if name))


def _port(flow: Flow) -> int:
    return flow.request.port if isinstance(flow, HttpFlow) else flow.port


def _path(flow: HttpFlow) -> tuple[str, ...]:
    path = flow.request.path
    return tuple(dict.fromkeys((path, canonical_path(path))))


def _urls(flow: HttpFlow) -> tuple[str, ...]:
    return tuple(dict.fromkeys((flow.url, flow.url.partition("?")[0])))


def _parsed(message: Message) -> Any:
    try:
        return message.json()
    except msgspec.DecodeError:
        return Unparsed(message.text[:2000])


_ANY = (Flow,)
_HTTP = (HttpFlow,)
_DNS = (DnsFlow,)
_SQL = (SqlFlow,)

FIELDS: dict[str, Field] = {
    "method": Field(_HTTP, lambda f: f.request.method, criterion.folded, 4),
    "url": Field(_HTTP, _urls, criterion.text, 10),
    "scheme": Field(_HTTP, lambda f: f.request.scheme, criterion.folded, 2),
    "host": Field(_ANY, _hosts, criterion.host, 10),
    "port": Field(_ANY, _port, criterion.number, 3),
    "path": Field(_HTTP, _path, criterion.path, 10),
    "query": Field(_HTTP, lambda f: f.request.params, criterion.pairs, 4),
    "headers": Field(_HTTP, lambda f: f.request.headers.items(), criterion.headers, 3),
    "status": Field(_HTTP, lambda f: f.response and f.response.status, criterion.status, 3),
    "body": Field(_HTTP, lambda f: f.request, criterion.body, 4, large=True),
    "json": Field(_HTTP, lambda f: _parsed(f.request), criterion.json, 4, large=True),
    "form": Field(_HTTP, lambda f: f.request.form, criterion.pairs, 4, large=True),
    "name": Field(_DNS, lambda f: f.name.lower().rstrip("."), criterion.host, 10),
    "type": Field(_DNS, lambda f: f.type, criterion.folded, 3),
    "rcode": Field(_DNS, lambda f: f.rcode, criterion.folded, 3),
    "service": Field((ServiceFlow,), lambda f: f.service, criterion.folded, 3),
    "step": Field((ServiceFlow,), lambda f: f.step, criterion.folded, 3),
    "statement": Field(_SQL, lambda f: f.statement, criterion.text, 10),
    "parameters": Field(_SQL, lambda f: f.parameters, criterion.values, 6),
    "database": Field((SqlFlow, MongoFlow), lambda f: f.database, criterion.text, 3),
    "user": Field((SqlFlow, MongoFlow), lambda f: f.user, criterion.text, 3),
    "collection": Field((MongoFlow,), lambda f: f.collection, criterion.text, 6),
    "documents": Field((MongoFlow,), lambda f: f.documents, criterion.values, 6),
    "command": Field(
        (SqlFlow, RedisFlow, MongoFlow), lambda f: f.command, criterion.text, 3, large=True
    ),
    "arguments": Field((RedisFlow,), lambda f: f.arguments, criterion.values, 6),
    "sender": Field((MailFlow,), lambda f: f.sender, criterion.folded, 6),
    "recipients": Field((MailFlow,), lambda f: f.recipients, criterion.values, 6),
    "subject": Field((MailFlow,), lambda f: f.subject, criterion.text, 6, large=True),
    "text": Field((MailFlow,), lambda f: f.text, criterion.text, 4, large=True),
    "sqlstate": Field(_SQL, lambda f: f.sqlstate, criterion.text, 3, large=True),
    "process": Field(_ANY, lambda f: f.process, criterion.process, 3),
    "where": Field(_ANY, lambda f: f, lambda test, place, _: criterion.accepted(test, place), 2),
}
