"""Every name that captured code asks for: mapped, on the cassette, or for the real resolver.

1. A mapped name, and one that only HTTP recordings know, has a stable address of each family.
2. The machine's own name is answered here: no recording should depend on what a machine is called.
3. What the real resolver says is passed on unchanged, with its TTLs; no resolver is hard-coded.
4. With `upstream=loopback` only resolvers on loopback are asked.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from pytest_netcapture.engine import pipeline
from pytest_netcapture.engine.dialer import is_loopback
from pytest_netcapture.engine.layers import dns as wire
from pytest_netcapture.engine.layers.layer import Ignoring
from pytest_netcapture.engine.mocks import Reach
from pytest_netcapture.engine.scopes import Scope
from pytest_netcapture.flows import Address, DnsAnswer, DnsFlow, FlowError, Origin

if TYPE_CHECKING:
    from pytest_netcapture.engine.attribution import Owner
    from pytest_netcapture.engine.connection import Connection
    from pytest_netcapture.engine.main import Engine

_TTL = 60
_TIMEOUT = 5.0


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

    async def answer(
        self, query: bytes, namespace: int, client: Address, owner: Owner, *, tcp: bool
    ) -> bytes | None:
        """Return the reply to `query` in wire form, or None when it is not even a query."""
        self._engine.control.catch_up()
        question = wire.parse_query(query)
        if question is None:
            return wire.format_error(query)
        scope, late = self._engine.scopes.resolve(namespace, owner.is_test_process)
        flow = DnsFlow(
            name=question.name, type=question.type, host=question.name, port=53, client=client
        )
        flow.started = self._engine.now()
        if question.name in self._own_names:
            self._give(flow, self._own)
            return wire.build_response(question, flow, tcp=tcp)
        self._engine.scopes.add(scope, flow, late)
        reply = await self._resolve(scope, flow, query, tcp=tcp)
        self._learn(flow)
        flow.ended = self._engine.now()
        flow.process, flow.inode = await self._engine.loop.run_in_executor(
            None, lambda: (owner.process(), owner.inode)
        )
        self._engine.recorded(flow, scope)
        if flow.fault and flow.error is not None:
            return None
        return reply or wire.build_response(question, flow, tcp=tcp)

    async def _resolve(
        self, scope: Scope, flow: DnsFlow, query: bytes, *, tcp: bool
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
        mocked = Reach.NO if scope.sealed else scope.reach_of_name(flow.name)
        if mocked is Reach.YES:
            self._give_stable(flow)
            return None
        recorded, problem = pipeline.decide_dns(scope, flow)
        if recorded is not None:
            flow.origin = Origin.PLAYED
            flow.rcode, flow.answers, flow.error = (
                recorded.rcode,
                list(recorded.answers),
                recorded.error,
            )
        elif problem is not None and mocked is Reach.NO:
            flow.rcode = "NXDOMAIN"
            self._engine.scopes.problem(scope, problem)
        elif problem is not None:
            self._give_stable(flow)
        elif self._is_given(scope, flow.name):
            self._give_name(flow)
        else:
            reply = await self._forward(scope, flow, query, tcp=tcp)
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
        return mapped or (known and not scope.records)

    @staticmethod
    def _give(flow: DnsFlow, addresses: dict[str, str]) -> None:
        flow.rcode = "NOERROR"
        address = addresses.get(flow.type)
        flow.answers = [DnsAnswer(flow.name, flow.type, _TTL, address)] if address else []

    async def _forward(
        self, scope: Scope, flow: DnsFlow, query: bytes, *, tcp: bool
    ) -> bytes | None:
        servers = [s for s in self._nameservers if self._engine.dialer.permitted(s)]
        for server in servers:
            if not is_loopback(server):
                self._engine.left_machine(1)
            reply = await self._ask(server, query, tcp=tcp)
            if reply is not None:
                wire.fill_from_response(flow, reply)
                return self._filtered(scope, flow, reply)
        flow.rcode = "SERVFAIL"
        flow.error = FlowError("timeout" if servers else "unreachable", "no name server answered")
        return None

    def _filtered(self, scope: Scope, flow: DnsFlow, reply: bytes) -> bytes | None:
        """Judge the answer where CIDR patterns are what may allow the name."""
        addresses = [a.data for a in flow.answers if a.type in self._own]
        settings = scope.settings
        if (
            not settings.block
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

    async def _ask(self, server: str, query: bytes, *, tcp: bool) -> bytes | None:
        ask = _ask_tcp if tcp else _ask_udp
        try:
            return await asyncio.wait_for(ask(server, query), _TIMEOUT)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
            return None

    def _learn(self, flow: DnsFlow) -> None:
        for answer in flow.answers:
            if answer.type in self._own:
                self._engine.names.learn(answer.data, flow.name)


def _is_loopback_reverse(name: str) -> bool:
    """Tell whether `name` asks who 127.0.0.0/8 or ::1 is, as http.server does when it binds."""
    return name.endswith(".127.in-addr.arpa") or name == "1." + "0." * 31 + "ip6.arpa"


class QueryLayer(Ignoring):
    """Name queries over TCP (RFC 7766): framed, several at once, answered as they are ready.

    There is no server to hear from: we are it.
    """

    def __init__(self, connection: Connection, engine: Engine) -> None:
        self._connection = connection
        self._engine = engine
        self._framing = wire.TcpFraming()

    def client_data(self, data: bytes) -> None:
        for query in self._framing.feed(data):
            self._engine.spawn(self._answer(query))

    def client_eof(self) -> None:
        self._connection.close()

    def aborted(self, side: str, error: FlowError) -> None:  # noqa: ARG002 (a layer's signature)
        self._connection.close()

    async def _answer(self, query: bytes) -> None:
        plan, owner = self._connection.plan, self._connection.owner
        reply = await self._engine.dns.answer(query, plan.namespace, plan.client, owner, tcp=True)
        if reply is None:
            self._connection.reset()
        else:
            self._connection.to_client(wire.frame(reply))


class _Answer(asyncio.DatagramProtocol):
    def __init__(self, identity: bytes) -> None:
        self._identity = identity
        self.future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 (asyncio's)
        if data[:2] == self._identity and not self.future.done():
            self.future.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(exc)


async def _ask_udp(server: str, query: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: _Answer(query[:2]), remote_addr=(server, 53)
    )
    try:
        transport.sendto(query)
        return await protocol.future
    finally:
        transport.close()


async def _ask_tcp(server: str, query: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(server, 53)
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        size = int.from_bytes(await reader.readexactly(2), "big")
        return await reader.readexactly(size)
    finally:
        writer.close()
