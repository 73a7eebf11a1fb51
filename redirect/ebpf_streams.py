"""TCP: a diverted connect waits at a listener of ours until the engine has decided.

1. The listener's filter drops each SYN of a diverted connection and reports it, so the client is
   connecting, as it would be to a server far away: not writable, EALREADY when asked again.
2. ACCEPT completes the connection from our side (meeting.py). REFUSE is a reset, UNREACHABLE an
   ICMP error, as a server or a router would send them; DROP is silence, and the kernel's time-out.
3. A SYN that comes again is the same question: one that was answered gets its answer again.
4. Who connects to the listener without having been diverted is turned away.
5. Reports are lost when the ring is full; the client's kernel asks again after a second.

Tests: test_ebpf.py, test_resets.py.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pytest_netcapture.redirect.base import Address, Connecting, Sink, StreamOpened, Verdict
from pytest_netcapture.redirect.ebpf_privileged import Privileged
from pytest_netcapture.redirect.ebpf_records import Arrival
from pytest_netcapture.redirect.meeting import ended, meet, reusable
from pytest_netcapture.redirect.packets import Syn
from pytest_netcapture.redirect.resets import Resets
from pytest_netcapture.redirect.transparent import families
from pytest_netcapture.redirect.unreachable import Unreachable

_SO_ATTACH_BPF = 50
_BACKLOG = 16
_REMEMBERED = 4096
_LOOPBACK: dict[int, str] = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
Key = tuple[Address, int]
"""A client and its SYN's sequence number."""


class Streams:
    """The listeners, one a family, and the connections that wait."""

    def __init__(self, made: Privileged, place_of: Callable[[int], int], *, ipv6: bool) -> None:
        """`place_of` tells where a process is."""
        gate = made.programs.gate
        self._place_of = place_of
        self._waiting: OrderedDict[Key, Verdict | None] = OrderedDict()
        self._owners: OrderedDict[Address, int] = OrderedDict()
        self._listeners: dict[int, socket.socket] = {}
        self._unreachable = Unreachable(ipv6=ipv6, senders=made.icmp)
        self._resets = Resets(made.resets)
        self._loop: Any = None
        self._sink: Sink | None = None
        for family in families(ipv6=ipv6):
            self._listeners[family] = _listener(family, gate)

    def address(self, family: int) -> Address:
        """Return where connections of a family are diverted to; port 0 when nowhere."""
        listener = self._listeners.get(family)
        return listener.getsockname()[:2] if listener is not None else ("", 0)

    def watch(self, loop: Any, sink: Sink) -> None:
        self._loop, self._sink = loop, sink
        for listener in self._listeners.values():
            loop.add_reader(listener.fileno(), _turn_away, listener)

    def process(self, client: Address) -> int:
        """Return the process of a client's connection, 0 when it is not known."""
        return self._owners.get(client, 0)

    def arrive(self, arrival: Arrival) -> None:
        """Ask the engine about a SYN."""
        key = arrival.client, arrival.sequence
        if key in self._waiting:
            verdict = self._waiting[key]
            if verdict is not None:
                self._settle(arrival, verdict)
            return
        _remember(self._waiting, key, None)
        _remember(self._owners, arrival.client, arrival.process)
        place = self._place_of(arrival.process)

        def answer(verdict: Verdict) -> None:
            if self._waiting.get(key) is None:
                _remember(self._waiting, key, verdict)
                self._settle(arrival, verdict, place)

        assert self._sink is not None, "watch comes before arrive"
        self._sink.connecting(Connecting(place, arrival.client, arrival.server, answer))

    def close(self) -> None:
        for listener in self._listeners.values():
            if self._loop is not None:
                self._loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()
        self._unreachable.close()
        self._resets.close()

    def _settle(self, arrival: Arrival, verdict: Verdict, place: int = 0) -> None:
        client = arrival.client
        ours = self.address(socket.AF_INET6 if ":" in client[0] else socket.AF_INET)
        if verdict is Verdict.ACCEPT:
            if place:
                conn = meet(ours, client) or ended()
                assert self._sink is not None
                self._sink.stream_opened(StreamOpened(place, conn, client, arrival.server))
        elif verdict is Verdict.REFUSE:
            self._resets.send(Syn(client, ours, arrival.sequence))
        elif verdict is Verdict.UNREACHABLE:
            self._unreachable.host(Syn(client, ours, arrival.sequence))


def _remember(table: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    table[key] = value
    if len(table) > _REMEMBERED:
        table.popitem(last=False)


def _listener(family: int, gate: int) -> socket.socket:
    listener = reusable(family)
    try:
        listener.bind((_LOOPBACK[family], 0))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, gate)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _turn_away(listener: socket.socket) -> None:
    with suppress(OSError):
        conn, _ = listener.accept()
        conn.close()
