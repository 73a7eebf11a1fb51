"""Every name that captured code asks for: mapped, on the cassette, or for the real resolver.

1. A mapped name, and one that only HTTP recordings know, has a stable address of each family.
2. The machine's own name is answered here: no recording should depend on what a machine is called.
3. What the real resolver says is passed on unchanged, with its TTLs; no resolver is hard-coded.
   A client that asks a server of its own choice (dig @ADDRESS) is answered by that one.
4. With `upstream=loopback` only resolvers on loopback are asked.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from pytest_netcapture.engine import pipeline
from pytest_netcapture.engine.dialer import Candidate
from pytest_netcapture.engine.dns_asking import Asked, Unanswered, ask
from pytest_netcapture.engine.layers import dns as wire
from pytest_netcapture.engine.mocks import Reach
from pytest_netcapture.engine.scopes import Scope
from pytest_netcapture.flows import DnsAnswer, DnsFlow, FlowError, Origin
from pytest_netcapture.sandbox.resolver import NAMESERVER

if TYPE_CHECKING:
    from pytest_netcapture.engine.attribution import Owner
    from pytest_netcapture.engine.main import Engine

_TTL = 60


class DnsServer:
    """Answers queries; one instance serves all scopes. `own`: the machine's own addresses."""

    def __init__(self, engine: Engine, nameservers: list[str], own: dict[str, str]) -> None:
        self._engine = engine
        self._own = own
        self._nameservers = nameservers
        self._own_names = {
            socket.gethostname().lower(),
            socket.gethostname().lower().partition(".")[0],
        }

    async def answer(self, query: bytes, asked: Asked, owner: Owner) -> bytes | None:
        """Return the reply to `query` in wire form, or None when it is not even a query.

        Raises `Unanswered` when a server that the client has chosen does not answer.
        """
        self._engine.control.catch_up()
        question = wire.parse_query(query)
        if question is None:
            return wire.format_error(query)
        scope, late = self._engine.scopes.resolve(asked.namespace, owner.is_test_process)
        flow = DnsFlow(
            name=question.name,
            type=question.type,
            host=question.name,
            port=53,
            client=asked.client,
            server=self._chosen(asked),
            transport=asked.transport,
        )
        flow.started = self._engine.now()
        if question.name in self._own_names:
            self._give(flow, self._own)
            return wire.build_response(question, flow, tcp=asked.tcp)
        self._engine.scopes.add(scope, flow, late)
        reply = await self._resolve(scope, flow, query, asked)
        self._learn(flow)
        flow.ended = self._engine.now()
        flow.process, flow.inode = await self._engine.loop.run_in_executor(
            None, lambda: (owner.process(), owner.inode)
        )
        self._engine.recorded(flow, scope)
        if flow.fault and flow.error is not None:
            return None
        if flow.server and flow.error is not None:
            raise Unanswered(flow.error)
        return reply or wire.build_response(question, flow, tcp=asked.tcp)

    def _chosen(self, asked: Asked) -> str:
        """Return which server the client has chosen, "" for one of resolv.conf."""
        address = asked.server[0]
        own = not asked.name and address in (NAMESERVER, *self._nameservers)
        return "" if own else asked.name or address

    async def _resolve(
        self, scope: Scope, flow: DnsFlow, query: bytes, asked: Asked
    ) -> bytes | None:
        """Fill in `flow`; return the reply when it is the real resolver's own."""
        if _is_loopback_reverse(flow.name):
            flow.rcode = (
                "NXDOMAIN"  # RFC 6303 §4: nobody else's to answer, so never sent nor blocked
            )
            return None
        if fault := scope.faults.question(flow):
            flow.origin, flow.rcode = Origin.FAULT, fault.message.detail
            flow.fault = f"dns_error {flow.rcode.lower() or 'timeout'}"
            flow.error = None if flow.rcode else FlowError("timeout", "a fault")
            return None
        if not scope.sealed and scope.names.answer(flow):
            return None
        mocked = Reach.NO if scope.sealed else scope.reach_of_name(flow.name)
        if mocked is Reach.YES:
            self._give_stable(flow)
            return None
        names = self._engine.names.of(asked.server[0])
        recorded, problem = pipeline.decide_dns(scope, flow, asked.server, names)
        if recorded is not None:
            flow.origin = Origin.PLAYED
            flow.rcode, flow.answers = recorded.rcode, list(recorded.answers)
            flow.authority, flow.additional = list(recorded.authority), list(recorded.additional)
            flow.error, flow.truncated = recorded.error, recorded.truncated
        elif problem is not None and mocked is Reach.NO:
            flow.rcode = "NXDOMAIN"
            self._engine.scopes.problem(scope, problem)
        elif problem is not None:
            self._give_stable(flow)
        elif self._is_given(scope, flow.name):
            self._give_name(flow)
        else:
            reply = await self._forward(scope, flow, query, asked)
            if mocked is Reach.NO or flow.rcode == "NOERROR":
                return reply
            flow.error = None
            self._give_stable(flow)
        return None

    def _give_stable(self, flow: DnsFlow) -> None:
        """Answer for a host that is mocked, and may not exist."""
        flow.origin = Origin.MOCKED
        self._give_name(flow)

    def _give_name(self, flow: DnsFlow) -> None:
        give = self._engine.names.give
        self._give(flow, {"A": give(flow.name, 4), "AAAA": give(flow.name, 6)})

    def _is_given(self, scope: Scope, name: str) -> bool:
        mapped = any(m.from_host == name for m in scope.settings.map_host)
        known = scope.plays and scope.cassette is not None and name in scope.cassette.hosts
        return mapped or (known and not scope.records and not scope.ignores((name,), "", 0))

    @staticmethod
    def _give(flow: DnsFlow, addresses: dict[str, str]) -> None:
        flow.rcode = "NOERROR"
        address = addresses.get(flow.type)
        flow.answers = [DnsAnswer(flow.name, flow.type, _TTL, address)] if address else []

    async def _forward(
        self, scope: Scope, flow: DnsFlow, query: bytes, asked: Asked
    ) -> bytes | None:
        try:
            reply = await self._ask(scope, flow, query, asked)
        except Unanswered as failed:
            flow.error = failed.error
            flow.rcode = "" if flow.server else "SERVFAIL"
            return None
        wire.fill_from_response(flow, reply)
        return self._filtered(scope, flow, reply)

    async def _ask(self, scope: Scope, flow: DnsFlow, query: bytes, asked: Asked) -> bytes:
        """Ask whom the client asked: a server of its choice, or those of resolv.conf in turn."""
        engine = self._engine
        if asked.ask is not None:
            return await asked.ask(query)
        if flow.server:
            names = engine.names.of(asked.server[0])
            settings = scope.settings
            candidates = engine.candidates(asked.namespace, names, asked.server, settings)
            return await ask(engine, candidates, query, tcp=asked.tcp)
        unanswered = Unanswered(FlowError("unreachable", "no name server answered"))
        for server in self._nameservers:
            if engine.dialer.permitted(server):
                try:
                    return await ask(engine, [Candidate((server, 53))], query, tcp=asked.tcp)
                except Unanswered:
                    unanswered = Unanswered(FlowError("timeout", "no name server answered"))
        raise unanswered

    def _filtered(self, scope: Scope, flow: DnsFlow, reply: bytes) -> bytes | None:
        """Judge the answer where CIDR patterns are what may allow the name."""
        addresses = [a.data for a in flow.answers if a.type in self._own]
        settings = scope.settings
        if (
            flow.server
            or not settings.block
            or not addresses
            or not pipeline.name_only_by_address(settings, flow.name)
        ):
            return reply
        if any(
            not pipeline.allowed(settings, (flow.name,), a, p.port)
            for a in addresses
            for p in settings.allow
        ):
            return reply
        self._engine.scopes.problem(
            scope, pipeline.blocked(flow, "the network is blocked (--netcapture-block)")
        )
        flow.rcode, flow.answers = "NXDOMAIN", []
        return None

    def _learn(self, flow: DnsFlow) -> None:
        for answer in flow.answers:
            if answer.type in self._own:
                self._engine.names.learn(answer.data, flow.name)


def _is_loopback_reverse(name: str) -> bool:
    """Tell whether `name` asks who 127.0.0.0/8 or ::1 is, as http.server does when it binds."""
    return name.endswith(".127.in-addr.arpa") or name == "1." + "0." * 31 + "ip6.arpa"
