"""A scope's faults: at which of their chances they strike, and what is told of it.

1. Chances are counted for each fault by itself, and in their order. Where it throws a die it does
   so at each chance, so that `times` and `after` do not move the schedule.
2. The two questions of one look-up (A, AAAA) are one chance, and so are connections to the
   addresses of one name, which clients try in turn: the n-th of each.

Pure: no I/O, no clock; the seed is an argument. Proved by tests/engine/test_faults.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from pytest_netcapture.engine.mocks import Reach, Target
from pytest_netcapture.fault_messages import FaultKind, SetFault
from pytest_netcapture.flows import DnsFlow, Flow, TcpFlow, UdpFlow
from pytest_netcapture.matching import Criteria
from pytest_netcapture.portable import unpack

_NEEDS_NO_SERVER = frozenset(
    (
        FaultKind.REFUSE,
        FaultKind.UNREACHABLE,
        FaultKind.BLACKHOLE,
        FaultKind.TLS,
        FaultKind.STATUS,
    )
)
_MOST_TOLD = 20


class LiveFault:
    """One fault, and the schedule so far."""

    def __init__(self, message: SetFault) -> None:
        self.message = message
        self.kind = message.kind
        self.criteria: Criteria = unpack(message.criteria, Flow)
        self.target = Target(self.criteria)
        self._random = random.Random(message.seed)
        self._drawn: list[bool] = []
        self._struck = 0
        self._turns: dict[str, dict[object, int]] = {}
        self._of_name: dict[str, list[bool]] = {}
        self._exchanges = 0

    @property
    def in_exchange(self) -> bool:
        """Tell whether exchanges, or connections that are not decoded, are its chances."""
        return not self.message.at_connect and self.kind not in (FaultKind.TLS, FaultKind.DNS)

    @property
    def needs_no_server(self) -> bool:
        before = self.kind is FaultKind.RESET and self.message.size is None
        return before or self.kind in _NEEDS_NO_SERVER

    @property
    def waits(self) -> bool:
        """Tell whether exchanges that are to go first have not been made yet."""
        return self._exchanges < self.message.after_exchanges

    def is_last_before(self, flow: Flow) -> bool:
        """Count an exchange that goes first; tell whether it was the last such."""
        if not self.waits or self.target.reaches((flow.host,), flow.port) is Reach.NO:
            return False
        self._exchanges += 1
        return not self.waits

    def strikes(self) -> bool:
        """Take the next chance."""
        return self._draw(len(self._drawn))

    def strikes_one_of(self, name: str, variant: object) -> bool:
        """Take the next chance, or the one that another variant of the same has had (rule 2)."""
        turns = self._turns.setdefault(name, {})
        turn = turns[variant] = turns.get(variant, 0) + 1
        drawn = self._of_name.setdefault(name, [])
        if turn > len(drawn):
            drawn.append(self.strikes())
        return drawn[turn - 1]

    def delay(self) -> int:
        """Return how long it delays this time, in nanoseconds."""
        spread = self.message.jitter
        return self.message.time + (round(self._random.uniform(-spread, spread)) if spread else 0)

    def schedule(self) -> str:
        """Tell at which chances it has struck."""
        message = self.message
        what = f"{self.kind.value} {message.detail}".rstrip()
        chance = f", probability {message.probability:g}" if message.probability < 1 else ""
        seed = f", seed {message.seed!r}" if message.seed else ""
        struck = [str(n) for n, one in enumerate(self._drawn, 1) if one]
        told = ", ".join(struck[:_MOST_TOLD]) + (", …" if len(struck) > _MOST_TOLD else "")
        when = f"at {told} of {len(self._drawn)}" if struck else f"at none of {len(self._drawn)}"
        return f"{what} on {message.text}{chance}{seed}: struck {when}"

    def _draw(self, index: int) -> bool:
        message = self.message
        lucky = message.probability >= 1 or self._random.random() < message.probability
        left = message.times is None or self._struck < message.times
        strikes = lucky and left and index >= message.after
        self._struck += strikes
        self._drawn.append(strikes)
        return strikes


class Faults:
    """The faults of one scope, in their order."""

    def __init__(self) -> None:
        self._all: list[LiveFault] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    def __iter__(self) -> Iterator[LiveFault]:
        return iter(self._all)

    def add(self, message: SetFault) -> None:
        self._all.append(LiveFault(message))

    def _ready(self) -> Iterator[LiveFault]:
        return (fault for fault in self if not fault.waits)

    def closes_after(self, flow: Flow) -> bool:
        """Count an exchange; tell whether a fault strikes the connection after its own."""
        return sum(fault.is_last_before(flow) for fault in self) > 0

    @property
    def in_exchanges(self) -> bool:
        return any(fault.in_exchange for fault in self)

    def may_match(self, flow: Flow) -> bool:
        """Tell whether an exchange may be struck as far as can be told before its body."""
        return any(fault.in_exchange and fault.target.may_match(flow) for fault in self)

    def connecting(self, flow: TcpFlow | UdpFlow) -> LiveFault | None:
        """Return the fault that a new connection meets."""
        may = (f for f in self._ready() if f.message.at_connect and f.criteria.matches(flow))
        name = f"{flow.host}:{flow.port}"
        return next((f for f in may if f.strikes_one_of(name, flow.address)), None)

    def handshake(self, flow: TcpFlow) -> LiveFault | None:
        """Return the fault that TLS meets."""
        may = (f for f in self._ready() if f.kind is FaultKind.TLS and f.criteria.matches(flow))
        return next((fault for fault in may if fault.strikes()), None)

    def question(self, flow: DnsFlow) -> LiveFault | None:
        may = (f for f in self._ready() if f.kind is FaultKind.DNS and f.criteria.matches(flow))
        return next((fault for fault in may if fault.strikes_one_of(flow.name, flow.type)), None)

    def reach(self, hosts: tuple[str, ...], port: int) -> Reach:
        """Tell whether a connection may be accepted without a server: there a fault may answer."""
        if any(f.needs_no_server and f.target.reaches(hosts, port) is Reach.YES for f in self):
            return Reach.PERHAPS
        return Reach.NO

    def names(self, name: str) -> Reach:
        if any(f.needs_no_server and f.target.names(name) is Reach.YES for f in self):
            return Reach.PERHAPS
        return Reach.NO
