"""The `netcapture` fixture: a test's traffic to look at, to make claims about, and to direct.

1. It holds no flows and no sockets: `FlowSource` (the session) has them, for the running test only.
2. What a claim means is in claims.py, which flows a criterion means in matching.py.
3. A claim that fails is `AssertionMismatch`, an `AssertionError`; one that makes no sense is
   `UsageError`. Neither shows frames of ours.
4. `wait_for` waits for what is complete: an exchange that is answered or failed, unless the
   criteria say ``status=None``. It looks after each change, so it misses none and never polls.
5. What `.allow` and its like change holds for the rest of the test; the latest word wins.

Proved by tests/test_capture.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from typing import Any, Literal, Protocol

import msgspec

from pytest_netcapture import claims, programs
from pytest_netcapture.errors import AssertionMismatch, NetcaptureError, UsageError
from pytest_netcapture.fault_messages import SetFault
from pytest_netcapture.faults import Fault
from pytest_netcapture.flows import (
    AnyFlow,
    DnsFlow,
    Flow,
    GrpcFlow,
    HttpFlow,
    MailFlow,
    MongoFlow,
    Origin,
    Problem,
    RedisFlow,
    SqlFlow,
    TcpFlow,
    TlsFailure,
    UdpFlow,
    WebSocketFlow,
)
from pytest_netcapture.matching import Criteria
from pytest_netcapture.messages import CassetteState
from pytest_netcapture.mock_messages import SetName
from pytest_netcapture.mocks import Mock
from pytest_netcapture.ports import check_port
from pytest_netcapture.programs import CompletedProgram, Program
from pytest_netcapture.settings import (
    HostMapping,
    HostPattern,
    Settings,
    parse_mapping,
    parse_pattern,
)
from pytest_netcapture.views import DnsView, HttpView, View

__tracebackhide__ = methodcaller("errisinstance", NetcaptureError)


class FlowSource(Protocol):
    """What the session gives the fixture of one test."""

    def flows(self) -> list[AnyFlow]:
        """Return the test's flows in order of appearance, unfinished ones included."""

    def problems(self) -> list[Problem]:
        """Return what will fail the test at its end."""

    def wait_change(self, seen: int, timeout: float) -> int:
        """Block until the change counter differs from `seen` or `timeout` passed; return it."""

    def settings(self) -> Settings:
        """Return what holds for the test now."""

    def update(self, settings: Settings) -> None:
        """Let `settings` hold for the rest of the test."""

    def cassette(self) -> CassetteState | None:
        """Return the state of the test's cassette, if it has one."""

    def publish(self, port: int, host_port: int) -> int:
        """Let the host reach a port of the test; return the host's."""

    def save_packets(self, path: str) -> None:
        """Write the test's packets to a file. Raises `UsageError`."""

    def set_mock(self, mock: Mock) -> None:
        """Let a mock hold as it is now."""

    def calls(self, number: int) -> list[AnyFlow]:
        """Return the exchanges that mock `number` has answered."""

    def set_name(self, name: SetName) -> None:
        """Let answers for a name hold. Raises `UsageError`."""

    def set_fault(self, fault: SetFault) -> None:
        """Let a fault hold."""

    def seed(self) -> str:
        """Return what makes the test's own schedule of faults."""

    def unused_mocks(self) -> list[str]:
        """Return what mocks are for that have answers left, and which."""

    def program(self, name: str) -> FlowSource:
        """Begin a scope, with a namespace of its own, for one program of the test."""

    def enter(self) -> None:
        """Move the calling thread into this scope's namespace."""


class Netcapture:
    """The `netcapture` fixture."""

    def __init__(self, source: FlowSource) -> None:
        self._source = source

    def __repr__(self) -> str:
        return repr(self.flows)

    @property
    def flows(self) -> View[Flow]:
        return View(self._source.flows)

    @property
    def http(self) -> HttpView:
        return HttpView(self._source.flows, name="http", kind=HttpFlow)

    @property
    def websockets(self) -> View[WebSocketFlow]:
        return View(self._source.flows, name="websockets", kind=WebSocketFlow)

    @property
    def grpc(self) -> View[GrpcFlow]:
        return View(self._source.flows, name="grpc", kind=GrpcFlow)

    @property
    def sql(self) -> View[SqlFlow]:
        """Return the statements that were executed."""
        return View(self._source.flows, name="sql", kind=SqlFlow, keep=_is_statement)

    @property
    def redis(self) -> View[RedisFlow]:
        """Return the commands to Redis, and the messages of subscriptions."""
        return View(self._source.flows, name="redis", kind=RedisFlow, keep=_is_command)

    @property
    def mongo(self) -> View[MongoFlow]:
        """Return the commands to MongoDB."""
        return View(self._source.flows, name="mongo", kind=MongoFlow, keep=_is_mongo_command)

    @property
    def smtp(self) -> View[MailFlow]:
        """Return the mails that were sent."""
        return View(self._source.flows, name="smtp", kind=MailFlow, keep=_is_mail)

    @property
    def dns(self) -> DnsView:
        return DnsView(self._source.flows, name="dns", kind=DnsFlow)

    @property
    def tcp(self) -> View[TcpFlow]:
        return View(self._source.flows, name="tcp", kind=TcpFlow)

    @property
    def udp(self) -> View[UdpFlow]:
        return View(self._source.flows, name="udp", kind=UdpFlow)

    @property
    def tls_failures(self) -> View[TlsFailure]:
        return View(self._source.flows, name="tls_failures", kind=TlsFailure)

    @property
    def blocked(self) -> View[Flow]:
        return View(self._source.flows, name="blocked", keep=_is_blocked)

    @property
    def cassette(self) -> CassetteState | None:
        """Return `.path`, `.mode`, `.played`, `.recorded`, `.unused`; None without a cassette."""
        return self._source.cassette()

    def assert_requested(
        self,
        method: Any = None,
        url: Any = None,
        /,
        *,
        times: int | None = None,
        at_least: int = 1,
        **criteria: Any,
    ) -> None:
        """Claim that matching requests were made: exactly `times`, or `at_least` so many."""
        place = "netcapture.assert_requested"
        wanted = Criteria.build(method, url, criteria, place=place, kind=HttpFlow)
        _check_count(times, f"{place}: times")
        _check_count(at_least, f"{place}: at_least")
        _raise(claims.requested(self._source.flows(), wanted, times, at_least))

    def assert_not_requested(self, method: Any = None, url: Any = None, /, **criteria: Any) -> None:
        """Claim that no matching request was made; fails when that cannot be told."""
        place = "netcapture.assert_not_requested"
        wanted = Criteria.build(method, url, criteria, place=place, kind=HttpFlow)
        _raise(claims.not_requested(self._source.flows(), wanted))

    def assert_connected(self, host: str, port: int) -> None:
        """Claim that a connection to a host (name, glob or address) and port was established."""
        place = "netcapture.assert_connected"
        wanted = Criteria.build(None, None, {"host": host, "port": port}, place=place)
        _raise(claims.connected(self._source.flows(), wanted, f"{host}:{port}"))

    def assert_resolved(self, name: str) -> None:
        """Claim that a name (or glob) was looked up and found to exist."""
        place = "netcapture.assert_resolved"
        given = {"name": name, "rcode": "NOERROR"}
        wanted = Criteria.build(None, None, given, place=place, kind=DnsFlow)
        _raise(claims.resolved(self._source.flows(), wanted, name))

    def assert_order(self, first: Any, then: Any, /, *more: Any) -> None:
        """Claim that matching flows appeared in this order, whatever was between them.

        A step is a url or glob, a (method, url) pair, or a dict of criteria.
        """
        place = "netcapture.assert_order"
        given = (first, then, *more)
        steps = [
            claims.step_criteria(one, f"{place}: step {number}")
            for number, one in enumerate(given, 1)
        ]
        _raise(claims.in_order(self._source.flows(), steps))

    def assert_concurrency(
        self, at_most: int, method: Any = None, url: Any = None, /, **criteria: Any
    ) -> None:
        """Claim that at most so many matching exchanges were under way at any moment."""
        place = "netcapture.assert_concurrency"
        wanted = Criteria.build(method, url, criteria, place=place, kind=HttpFlow)
        if at_most is None:
            raise UsageError(f"{place}: at most how many?", cure="write a number first")
        _check_count(at_most, f"{place}: at_most")
        _raise(claims.at_once(self._source.flows(), wanted, at_most))

    def assert_encrypted(
        self,
        method: Any = None,
        url: Any = None,
        /,
        *,
        at_least: Literal["1.2", "1.3"] | None = None,
        **criteria: Any,
    ) -> None:
        """Claim that nothing that matches went in plain text, or over TLS before `at_least`.

        Name look-ups and loopback connections that are left alone do not count.
        """
        place = "netcapture.assert_encrypted"
        wanted = Criteria.build(method, url, criteria, place=place)
        if at_least not in (None, "1.2", "1.3"):
            cure = 'write "1.2" or "1.3"'
            raise UsageError(f"{place}: at_least={at_least!r} is no version of TLS", cure=cure)
        _raise(claims.encrypted(self._source.flows(), wanted, at_least or ""))

    def assert_retried(
        self,
        method: Any = None,
        url: Any = None,
        /,
        *,
        times: int | None = None,
        at_most: int | None = None,
        **criteria: Any,
    ) -> None:
        """Claim how often matching requests were made again after they had failed.

        A request with the same method and url is a retry when the one before ended with an error,
        or with status 408, 425, 429 or 5xx. Without numbers: at least once.
        """
        place = "netcapture.assert_retried"
        wanted = Criteria.build(method, url, criteria, place=place, kind=HttpFlow)
        _check_count(times, f"{place}: times")
        _check_count(at_most, f"{place}: at_most")
        if times is not None and at_most is not None:
            raise UsageError(f"{place}: times and at_most are both given", cure="give one of them")
        _raise(claims.retried(self._source.flows(), wanted, times, at_most))

    def snapshot(
        self,
        method: Any = None,
        url: Any = None,
        /,
        *,
        headers: Sequence[str] = (),
        mask: bool = True,
        **criteria: Any,
    ) -> list[dict[str, Any]]:
        """Return the requests that were made as plain data, for `==` or a snapshot library.

        `headers` names those to show. With `mask` values that differ from run to run are replaced
        by their kind (`<uuid>`, `<date>`), and secrets by `<secret>`.
        """
        from pytest_netcapture import snapshots

        place = "netcapture.snapshot"
        if isinstance(headers, str):
            raise UsageError(f"{place}: headers={headers!r} is no list", cure=f"[{headers!r}]")
        wanted = Criteria.build(method, url, criteria, place=place, kind=HttpFlow)
        found = [f for f in self._source.flows() if isinstance(f, HttpFlow) and wanted.matches(f)]
        return snapshots.snapshot(found, headers, mask)

    def assert_no_traffic(self) -> None:
        """Claim that there was no flow of any kind, DNS and loopback included."""
        _raise(claims.no_traffic(self._source.flows()))

    def wait_for(
        self,
        method: Any = None,
        url: Any = None,
        /,
        *,
        timeout: float = 5,
        **criteria: Any,
    ) -> Any:
        """Wait for a matching flow and return it. `timeout` in seconds."""
        place = "netcapture.wait_for"
        wanted = Criteria.build(method, url, criteria, place=place)
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout < 0:
            raise UsageError(
                f"{place}: timeout={timeout!r} is not a time in seconds", cure="write timeout=5"
            )
        needs_end = criteria.get("status", ...) is not None
        deadline = _now() + timeout
        seen = self._source.wait_change(-1, 0)
        while True:
            every = self._source.flows()
            for flow in every:
                if wanted.matches(flow) and (not needs_end or claims.is_complete(flow)):
                    return flow
            left = deadline - _now()
            if left <= 0:
                raise claims.too_late(every, wanted, timeout)
            seen = self._source.wait_change(seen, left)

    def run(self, args: Any, **kwargs: Any) -> CompletedProgram:
        """Run a program in a sandbox of its own as `subprocess.run` does; it has `.flows` too."""
        return programs.run(self._source, args, **kwargs)

    def popen(self, args: Any, **kwargs: Any) -> Program:
        """Start a program in a sandbox of its own: a `subprocess.Popen` with `.flows`."""
        return programs.popen(self._source, args, **kwargs)

    def publish(self, port: int, *, host_port: int = 0) -> int:
        """Let the host reach `port` of this test at 127.0.0.1; return the host's port.

        Without `host_port` it is a free one. It lasts until the test ends.
        """
        place = "netcapture.publish"
        check_port(port, f"{place}: port")
        if host_port:
            check_port(host_port, f"{place}: host_port")
        return self._source.publish(port, host_port)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this test's traffic to a file, in the format that its ending says.

        ``.cassette``, ``.har``: what was said so far, scrubbed as in a recording. ``.pcapng``: its
        packets, which are kept with --netcapture-packets, and the secrets that Wireshark needs to
        decrypt them.
        """
        from pytest_netcapture.interchange.saving import ENDINGS, save

        name = os.path.abspath(os.fspath(path))
        if name.endswith(".pcapng"):
            self._source.save_packets(name)
        elif name.endswith(ENDINGS):
            save(name, self._source.flows(), self._source.settings().filters)
        else:
            raise UsageError(
                f"netcapture.save: {os.fspath(path)!r} has an ending that stands for no format",
                cure=f"write {', '.join(ENDINGS)} or .pcapng",
            )

    def mock(self, method: Any = None, url: Any = None, /, **criteria: Any) -> Mock:
        """Answer matching requests from here for the rest of this test, whatever the network is.

        Say with what: ``.respond(201, json={...})``, ``.respond_with(function)``.
        """
        return Mock(self._source, method, url, criteria)

    def mock_dns(self, name: str, rtype: str, /, *data: str, ttl: int = 60) -> None:
        """Answer look-ups of `name` (or a glob) with records of a type, for the rest of this test.

        `data` as in a zone file: "10.0.0.1" for A, "10 mail.example.com." for MX. Without any the
        name exists, and has no such record. So it is for types that are not given.
        """
        place = "netcapture.mock_dns"
        for one in (name, rtype, *data):
            if not isinstance(one, str) or not one:
                cure = 'write mock_dns("db.example.com", "A", "10.0.0.1")'
                raise UsageError(f"{place}: {one!r} is not text", cure=cure)
        if not isinstance(ttl, int) or isinstance(ttl, bool) or ttl < 0:
            raise UsageError(f"{place}: ttl={ttl!r} is no number of seconds", cure="write ttl=60")
        known = name.lower().rstrip(".")
        self._source.set_name(SetName(0, known, rtype.upper(), list(data), ttl))

    def mock_openapi(
        self, document: str | os.PathLike[str] | Mapping[str, Any], *, server: str | None = None
    ) -> dict[str, Mock]:
        """Mock each operation of an OpenAPI document: a file, or the document itself, parsed.

        Returns the mocks by `operationId`, or "GET /path" where there is none. `server` is the url
        before the paths, if it is not the document's first one.
        """
        from pytest_netcapture import openapi

        return {
            one.name: self.mock(one.method, one.url).respond(
                one.status, content=one.body, headers=one.headers
            )
            for one in openapi.operations(document, server)
        }

    def fault(self, method: Any = None, url: Any = None, /, **criteria: Any) -> Fault:
        """Let matching traffic go wrong for the rest of this test, live, played or mocked.

        Say how: ``.refuse()``, ``.reset(after_bytes=100)``, ``.status(503, times=2)``.
        """
        return Fault(self._source, method, url, criteria)

    def assert_all_mocks_used(self) -> None:
        """Claim that every answer of every mock of this test was given."""
        _raise(claims.all_used(self._source.flows(), self._source.unused_mocks()))

    def allow(self, *patterns: str) -> None:
        """Let connections to `patterns` out for the rest of this test, whatever is blocked."""
        added = _patterns(patterns, "netcapture.allow")
        self._change(lambda s: {"allow": s.allow + added, "deny": _without(s.deny, added)})

    def block(self, *patterns: str) -> None:
        """Block connections to `patterns`, or all but the allowed, for the rest of this test."""
        added = _patterns(patterns, "netcapture.block", least=0)
        if added:
            self._change(lambda s: {"deny": s.deny + added, "allow": _without(s.allow, added)})
        else:
            self._change(lambda _: {"block": True})

    def passthrough(self, *patterns: str) -> None:
        """Leave connections to `patterns` undecrypted for the rest of this test."""
        added = _patterns(patterns, "netcapture.passthrough")
        self._change(lambda s: {"passthrough": s.passthrough + added})

    def map_host(self, *mappings: str | Mapping[str, str]) -> None:
        """Dial connections to FROM at TO for the rest of this test: {from: to} or "FROM=TO"."""
        added = _mappings(mappings, "netcapture.map_host")
        self._change(lambda s: {"map_host": added + s.map_host})

    def _change(self, changes: Callable[[Settings], dict[str, Any]]) -> None:
        settings = self._source.settings()
        self._source.update(msgspec.structs.replace(settings, **changes(settings)))


def _now(clock: Callable[[], float] = time.monotonic) -> float:
    """Return seconds; the clock is bound here, since tests that freeze time patch `time`."""
    return clock()


def _raise(mismatch: AssertionMismatch | None) -> None:
    if mismatch is not None:
        raise mismatch


def _check_count(value: object, place: str) -> None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return
    raise UsageError(f"{place}={value!r} is not a number of times", cure="write 0, 1, 2, …")


def _is_statement(flow: Flow) -> bool:
    return isinstance(flow, SqlFlow) and flow.step in ("query", "execute")


def _is_command(flow: Flow) -> bool:
    return isinstance(flow, RedisFlow) and flow.step in ("command", "message")


def _is_mongo_command(flow: Flow) -> bool:
    return isinstance(flow, MongoFlow) and (flow.step == "command" or flow.question == "ping")


def _is_mail(flow: Flow) -> bool:
    return isinstance(flow, MailFlow) and flow.step == "message"


def _is_blocked(flow: Flow) -> bool:
    return flow.origin is Origin.BLOCKED


def _patterns(patterns: Sequence[str], place: str, least: int = 1) -> tuple[HostPattern, ...]:
    if len(patterns) < least:
        raise UsageError(f"{place}: no pattern was given", cure=f'write {place}("api.example.com")')
    for one in patterns:
        if not isinstance(one, str):
            cure = (
                f"write {place}(*{one!r})" if isinstance(one, (list, tuple)) else "write a string"
            )
            raise UsageError(f"{place}: {one!r} is not a host pattern", cure=cure)
    return tuple(parse_pattern(one, place) for one in patterns)


def _without(
    patterns: tuple[HostPattern, ...], others: tuple[HostPattern, ...]
) -> tuple[HostPattern, ...]:
    return tuple(one for one in patterns if one not in others)


def _mappings(mappings: Sequence[Any], place: str) -> tuple[HostMapping, ...]:
    texts: list[str] = []
    for one in mappings:
        if isinstance(one, str):
            texts.append(one)
        elif isinstance(one, Mapping):
            texts += [f"{source}={target}" for source, target in one.items()]
        else:
            raise UsageError(
                f"{place}: {one!r} is not a mapping",
                cure='write {"api.example.com": "127.0.0.1:8443"} or "FROM=TO"',
            )
    if not texts:
        raise UsageError(f"{place}: no mapping was given", cure='write {"api.example.com": "…"}')
    return tuple(parse_mapping(text, place) for text in texts)
