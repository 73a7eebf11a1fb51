"""UDP: a port of ours on loopback stands for each destination; whoever writes there is answered.

1. Free ports are made ahead and given to the kernel's half, which takes one for a destination that
   it does not know and says so. When none is left, datagrams are lost, as on a full network.
2. Flows are those of datagrams.py. A reply is sent from the destination's port, and the kernel's
   half shows the destination in its place.
3. "Nobody listens there" is an ICMP error from that port, as the kernel itself would send it.
4. A port is taken back when it was idle for `IDLE` and no socket is connected to it.
5. Whose a datagram is, its socket's cookie tells; when that is gone, who asked for the port.

Tests: test_ebpf_datagrams.py.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic_ns
from typing import Any

from pytest_netcapture.redirect import ebpf_records as records
from pytest_netcapture.redirect.base import Address, DatagramFlow, Sink
from pytest_netcapture.redirect.datagrams import IDLE, Flow, FlowTable, as_event
from pytest_netcapture.redirect.ebpf_calls import BpfError
from pytest_netcapture.redirect.ebpf_privileged import Privileged
from pytest_netcapture.redirect.owners import Owners
from pytest_netcapture.redirect.transparent import families
from pytest_netcapture.redirect.unreachable import Unreachable

FREE = 64
"""Ports to keep ready in each family."""

_SWEEP = 10.0
_READ_ROUNDS = 64
_HOST = 0
_FLAGS = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_LOOPBACK: dict[int, str] = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_QUEUES: dict[int, str] = {socket.AF_INET: "free_ports_v4", socket.AF_INET6: "free_ports_v6"}


class _Port:
    """One socket, and what it stands for once it is taken."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.socket = socket.socket(family, _FLAGS)
        try:
            self.socket.bind((_LOOPBACK[family], 0))
        except BaseException:
            self.socket.close()
            raise
        self.address: Address = self.socket.getsockname()[:2]
        self.place = records.encode_place(self.address[1], six=family == socket.AF_INET6)
        self.path: records.Path | None = None


class Datagrams:
    """All UDP of targets."""

    def __init__(
        self,
        made: Privileged,
        owners: Owners,
        place_of: Callable[[int], int],
        *,
        ipv6: bool,
    ) -> None:
        """`owners` has the host attached as namespace 0."""
        self._maps = made.programs.maps
        self._owners = owners
        self._place_of = place_of
        self._families = families(ipv6=ipv6)
        self._free: dict[int, int] = dict.fromkeys(self._families, 0)
        self._ports: dict[bytes, _Port] = {}
        self._flows = FlowTable()
        self._processes: dict[Address, int] = {}
        self._unreachable = Unreachable(ipv6=ipv6, senders=made.icmp)
        self._lost = {family: _Port(family) for family in self._families}
        self._loop: Any = None
        self._sink: Sink | None = None
        self._timer: Any = None

    def lost_port(self, family: int) -> int:
        """Return where datagrams go when no port is free."""
        return self._lost[family].address[1] if family in self._lost else 0

    def watch(self, loop: Any, sink: Sink) -> None:
        self._loop, self._sink = loop, sink
        for family in self._families:
            self._fill(family)
        self._timer = loop.call_later(_SWEEP, self._sweep)

    def taken(self, place: bytes) -> None:
        """Learn that the kernel's half has taken a port."""
        port = self._ports.get(place)
        if port is None or port.path is not None:
            return
        value = self._maps["servers"].get(place)
        port.path = records.read_path(value) if value is not None else None
        self._free[port.family] -= 1
        if self._free[port.family] <= FREE // 2:
            self._fill(port.family)

    def process(self, client: Address) -> int:
        """Return the process of a client's socket, 0 when it is not known."""
        return self._processes.get(client, 0)

    def drain(self) -> None:
        """Deliver the datagrams that have arrived by now."""
        for port in list(self._ports.values()):
            if port.path is not None:
                self._read(port)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for port in list(self._ports.values()):
            self._close(port)
        for lost in self._lost.values():
            lost.socket.close()
        self._unreachable.close()

    def _fill(self, family: int) -> None:
        """Make ports until enough are free; without descriptors or room, fewer."""
        with suppress(OSError, BpfError):
            while self._free[family] < FREE:
                port = _Port(family)
                self._ports[port.place] = port
                self._loop.add_reader(port.socket.fileno(), self._read, port)
                self._maps[_QUEUES[family]].push(records.encode_port(port.address[1]))
                self._free[family] += 1

    def _read(self, port: _Port) -> None:
        for _ in range(_READ_ROUNDS):
            try:
                payload, client = port.socket.recvfrom(1 << 16)
            except OSError:  # nothing more, or what we sent found nobody
                return
            if port.path is None:
                self.taken(port.place)
            if port.path is not None:
                self._arrive(port, port.path, client[:2], payload)
            if port.socket.fileno() < 0:
                return

    def _arrive(self, port: _Port, path: records.Path, client: Address, payload: bytes) -> None:
        flow = self._flows.arrive(client, path.server, payload, monotonic_ns())
        if flow is not None:
            process = self._whose(client, port.address) or path.process
            self._processes[client] = process
            assert self._sink is not None, "watch comes before datagrams"
            self._sink.datagram_flow(self._public(port, flow, self._place_of(process), payload))

    def _whose(self, client: Address, ours: Address) -> int:
        _, cookie = self._owners.identity(_HOST, socket.IPPROTO_UDP, client, ours)
        route = self._maps["routes"].get(cookie.to_bytes(8, "little")) if cookie else None
        return records.read_route(route)[1] if route is not None else 0

    def _public(self, port: _Port, flow: Flow, place: int, first: bytes) -> DatagramFlow:
        def send(payload: bytes) -> None:
            with suppress(OSError):  # lost, as datagrams may be
                port.socket.sendto(payload, flow.client)

        return as_event(
            self._flows,
            flow,
            namespace=place,
            first=first,
            send=send,
            refuse=lambda: self._unreachable.port(flow.client, port.address),
        )

    def _sweep(self) -> None:
        """End idle flows, and take back ports that nobody needs."""
        now = monotonic_ns()
        self._flows.expire(now)
        clients = self._flows.clients()
        self._processes = {c: p for c, p in self._processes.items() if c in clients}
        connected = {f: self._owners.peer_ports(_HOST, f) for f in self._families}
        if socket.AF_INET6 in connected:  # an IPv6 socket may be connected to an IPv4 port
            connected[socket.AF_INET] |= connected[socket.AF_INET6]
        for port in list(self._ports.values()):
            if port.path is None:
                if self._maps["servers"].get(port.place) is not None:
                    self.taken(port.place)  # its report was lost
            elif port.address[1] not in connected[port.family] and self._is_idle(port, now):
                self._close(port)
        self._timer = self._loop.call_later(_SWEEP, self._sweep)

    def _is_idle(self, port: _Port, now: int) -> bool:
        value = self._maps["servers"].get(port.place)
        return value is None or now - records.read_path(value).used > IDLE

    def _close(self, port: _Port) -> None:
        del self._ports[port.place]
        self._loop.remove_reader(port.socket.fileno())
        if port.path is not None:
            key = records.encode_address(port.path.server, socket.IPPROTO_UDP)
            self._maps["paths"].discard(key)
            self._maps["servers"].discard(port.place)
        port.socket.close()
