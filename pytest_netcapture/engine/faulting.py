"""Make things go wrong: at the gate, in a handshake, in an answer to a question or to a request.

1. Faults come before mocks and recordings: what never arrives uses up neither. What spoils an
   answer is put on the connection, so it is the same for live, played and mocked ones.
2. Resets are TCP's own, sent when all before them has arrived (`Connection.cut`).
3. Each flow says what struck it, and is not recorded.

Proved by tests/engine/test_faults.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from pytest_netcapture.engine.attribution import TCP
from pytest_netcapture.engine.damage import Damage, Http1Body, Http2Data, everything
from pytest_netcapture.engine.dialer import is_loopback
from pytest_netcapture.engine.faults import LiveFault
from pytest_netcapture.engine.layers.http2 import Http2Layer
from pytest_netcapture.engine.layers.layer import Decision, Later, Play
from pytest_netcapture.engine.mocks import response_of
from pytest_netcapture.engine.scopes import Scope
from pytest_netcapture.fault_messages import FaultKind
from pytest_netcapture.flows import Flow, FlowError, Headers, HttpFlow, Origin, TcpFlow, UdpFlow

if TYPE_CHECKING:
    from pytest_netcapture.engine.connection import Connection, Plan
    from pytest_netcapture.engine.main import Engine

_ERRORS = {
    FaultKind.REFUSE: "refused",
    FaultKind.UNREACHABLE: "unreachable",
    FaultKind.BLACKHOLE: "timeout",
}
_SLOWING = frozenset((FaultKind.LATENCY, FaultKind.BANDWIDTH))
_OF_BYTES = frozenset((FaultKind.RESET, FaultKind.TRUNCATE, FaultKind.CORRUPT, FaultKind.BANDWIDTH))
_ENDING = frozenset((FaultKind.STATUS, FaultKind.BLACKHOLE))

Decided = Callable[[], "Decision | Later"]


class Faulting:
    """Applies the faults of scopes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def connecting(self, scope: Scope, plan: Plan) -> tuple[FlowError, str] | None:
        """Return how a connection fails, and the fault's name."""
        fault = scope.faults.connecting(self._attempt(plan)) if scope.faults else None
        return (FlowError(_ERRORS[fault.kind], "a fault"), _name(fault)) if fault else None

    def datagrams(self, scope: Scope, flow: UdpFlow) -> bool:
        """Tell whether datagrams are to fail like a connection; then `flow` says how."""
        fault = scope.faults.connecting(flow) if scope.faults else None
        if fault is None:
            return False
        flow.origin, flow.fault = Origin.FAULT, _name(fault)
        flow.error = FlowError(_ERRORS[fault.kind], "a fault")
        self._engine.recorded(flow, scope)
        return True

    def handshake(self, connection: Connection) -> str:
        """Return what is wrong with the certificate that the client is shown, "" for nothing."""
        faults = connection.scope.faults
        if not faults:
            return ""
        fault = faults.handshake(self._attempt(connection.plan, connection.tls_name))
        if fault is None:
            return ""
        connection.fault = f"tls_error {fault.message.detail}"
        return fault.message.detail

    def decide(
        self, connection: Connection, scope: Scope, flow: HttpFlow, go_on: Decided
    ) -> Decision | Later:
        """Strike an exchange, or let it go on."""
        connection.mend()
        if scope.faults.closes_after(flow):
            go_on = self._closing(go_on)
        delay, ending, spoilt = 0, None, False
        for fault in scope.faults:
            if not (fault.in_exchange and fault.criteria.matches(flow)):
                continue
            slows = fault.kind in _SLOWING
            if (spoilt and not slows) or not fault.strikes():
                continue
            spoilt = spoilt or not slows
            if fault.kind is FaultKind.LATENCY:
                delay += (this := fault.delay())
                _note(flow, f"latency {this / 1e6:.0f} ms")
            elif _ends(fault):
                ending = fault
                _note(flow, _name(fault))
            else:
                self._spoil(connection, flow, fault)
        act = go_on if ending is None else lambda: self._end(connection, flow, ending)
        return self._after(delay, connection, act) if delay else act()

    def raw(self, connection: Connection, flow: TcpFlow) -> None:
        """Strike a connection that is not decoded."""
        spoilt = False
        for fault in connection.scope.faults:
            if fault.kind not in _OF_BYTES or not fault.criteria.matches(flow):
                continue
            slows = fault.kind in _SLOWING
            if (spoilt and not slows) or not fault.strikes():
                continue
            spoilt = spoilt or not slows
            if _ends(fault):
                _note(flow, _name(fault))
                self._engine.loop.call_soon(connection.cut, fault.kind.value)
            else:
                self._spoil(connection, flow, fault)

    def _attempt(self, plan: Plan, name: str = "") -> TcpFlow:
        address, port = plan.address
        name = name or (plan.names[0] if plan.names else address)
        if name == address and is_loopback(address):
            name = "localhost"
        owner = self._engine.attribution.owner(plan.namespace, TCP, plan.client, plan.address)
        return TcpFlow(host=name, port=port, address=plan.address, process=owner.process())

    def _after(self, delay: int, connection: Connection, act: Decided) -> Later:
        later = Later()

        def due() -> None:
            if connection.over:
                return
            decision = act()
            if isinstance(decision, Later):
                decision.then(later.settle)
            else:
                later.settle(decision)

        self._engine.loop.call_later(delay / 1e9, due)
        return later

    @staticmethod
    def _closing(go_on: Decided) -> Decided:
        """Have an answer that is played be the last on its connection (HTTP/1.1)."""

        def act() -> Decision | Later:
            decision = go_on()
            if isinstance(decision, Play) and decision.response is not None:
                fields = [*decision.response.headers.fields, ("Connection", "close")]
                response = msgspec.structs.replace(decision.response, headers=Headers(fields))
                decision = dataclasses.replace(decision, response=response)
            return decision

        return act

    def _end(self, connection: Connection, flow: HttpFlow, fault: LiveFault) -> Decision | Later:
        if fault.kind is FaultKind.STATUS:
            assert fault.message.answer is not None
            return Play(response_of(fault.message.answer), origin=Origin.FAULT)
        flow.origin = Origin.FAULT
        if fault.kind is FaultKind.RESET:
            if flow.request.http_version == "3":
                return Play(error=FlowError("reset", "a fault"), origin=Origin.FAULT)
            self._engine.loop.call_soon(connection.cut, fault.kind.value)
        return Later()  # which is never settled

    @staticmethod
    def _spoil(connection: Connection, flow: Flow, fault: LiveFault) -> None:
        """Have the connection spoil what the client is told next."""
        message = fault.message
        if isinstance(flow, HttpFlow) and flow.request.http_version == "3":
            return
        _note(flow, _name(fault))
        if fault.kind is FaultKind.BANDWIDTH:
            connection.pace(message.rate)
            return
        layer = connection.layer
        if isinstance(flow, HttpFlow) and isinstance(layer, Http2Layer):
            damage = Damage(Http2Data(layer.stream_of(flow)))
        else:
            damage = Damage(Http1Body() if isinstance(flow, HttpFlow) else everything)
        if fault.kind is FaultKind.CORRUPT:
            damage.flip = message.size
        else:
            damage.end = message.size
        connection.damage(damage, fault.kind.value)


def _ends(fault: LiveFault) -> bool:
    before = fault.kind is FaultKind.RESET and fault.message.size is None
    return before or fault.kind in _ENDING


def _name(fault: LiveFault) -> str:
    message = fault.message
    if message.rate:
        return f"bandwidth {message.rate} B/s"
    after = f" after {message.size} bytes" if message.size is not None else ""
    return f"{fault.kind.value} {message.detail}".rstrip() + after


def _note(flow: Flow, what: str) -> None:
    flow.fault = f"{flow.fault}, {what}" if flow.fault else what
