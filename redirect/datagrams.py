"""UDP: datagrams become flows, replies come from the address that the client wrote to.

1. One transparent socket a family receives every captured datagram of the namespace, in order, with
   its original destination (IP_RECVORIGDSTADDR). A flow is (client, destination); sockets are not
   made per flow, so there is no race at its start, nothing is reordered, and no port is taken from
   the test's own servers.
2. One raw socket a family sends replies. Ours is the UDP header only: the kernel adds the IP header
   with the source address from IP_PKTINFO, fragments, and for IPv6 fills the checksum in. For IPv4
   the checksum is left out (RFC 768: zero). It is bound to the listener's address, so that it
   receives no copies.
3. What nobody takes is answered by "port unreachable" (unreachable.py).
4. A flow ends when the sink closes it, when it is idle (`IDLE`; DNS: `DNS_IDLE` after a reply), or
   when there are too many (the one idle the longest). The last two tell the sink (`on_end`), and
   the next datagram opens a new flow. A late reply still goes out, except after `close`.
5. Datagrams that come before the sink listens wait for it, up to `BACKLOG` of them; more are lost,
   as they would be in a socket's buffer.
6. `FlowTable` decides and takes the time as an argument; `Datagrams` is its edge
   for tproxy, that of the other redirectors is theirs.

Tests: test_datagrams.py (pure), test_kernel_facts.py, test_tproxy_datagrams.py.
"""

from __future__ import annotations

import socket
import struct
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import Any

from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect.base import Address, DatagramFlow
from pytest_netcapture.redirect.transparent import (
    datagram_receiver,
    datagram_sender,
    families,
    send_as,
)
from pytest_netcapture.redirect.unreachable import Unreachable

IDLE = 60_000_000_000
DNS_IDLE = 5_000_000_000
"""Nanoseconds."""

MAX_FLOWS = 1024
BACKLOG = 256
MAX_DATAGRAM = 65507
_DNS_PORT = 53
_READ_ROUNDS = 256
_UDP_HEADER = struct.Struct("!HHHH")

Ancillary = list[tuple[int, int, bytes]]


def original_destination(ancillary: Ancillary) -> Address | None:
    """Read the `sockaddr_in` or `sockaddr_in6` that came with a datagram."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, k.IP_RECVORIGDSTADDR) and len(data) >= 8:
            return socket.inet_ntop(socket.AF_INET, data[4:8]), int.from_bytes(data[2:4], "big")
        if (level, kind) == (socket.IPPROTO_IPV6, k.IPV6_RECVORIGDSTADDR) and len(data) >= 24:
            return socket.inet_ntop(socket.AF_INET6, data[8:24]), int.from_bytes(data[2:4], "big")
    return None


def encode_datagram(source: int, target: int, payload: bytes) -> bytes:
    """Prepend a UDP header without checksum to `payload`; the arguments are ports."""
    return _UDP_HEADER.pack(source, target, _UDP_HEADER.size + len(payload), 0) + payload


@dataclass(eq=False)
class Flow:
    """One flow's state; `deadline` is when it will have been idle for too long."""

    client: Address
    server: Address
    deadline: int
    listener: Callable[[bytes], None] | None = None
    ended: Callable[[], None] | None = None
    closed: bool = False
    forgotten: bool = False
    backlog: deque[bytes] = field(default_factory=deque)

    def deliver(self, payload: bytes) -> None:
        if self.listener is not None:
            self.listener(payload)
        elif len(self.backlog) < BACKLOG:
            self.backlog.append(payload)

    def listen(self, listener: Callable[[bytes], None]) -> None:
        """Hand over what has come so far, then each datagram as it comes."""
        while self.backlog:
            listener(self.backlog.popleft())
        self.listener = listener

    def end(self) -> None:
        """Tell the sink that the flow is forgotten, or would be told if it had asked."""
        self.forgotten = True
        if self.ended is not None and not self.closed:
            self.ended()

    def on_end(self, callback: Callable[[], None]) -> None:
        self.ended = callback
        if self.forgotten:
            self.end()


def as_event(
    table: FlowTable,
    flow: Flow,
    *,
    namespace: int,
    first: bytes,
    send: Callable[[bytes], None],
    refuse: Callable[[], None],
) -> DatagramFlow:
    """Return what the sink is told of a flow; `send` and `refuse` are for the client's side."""

    def reply(payload: bytes) -> None:
        if len(payload) > MAX_DATAGRAM:
            raise ValueError(f"a UDP datagram holds {MAX_DATAGRAM} bytes, not {len(payload)}")
        if not flow.closed:
            table.replied(flow, monotonic_ns())
            send(payload)

    def turn_away() -> None:
        if not flow.closed:
            table.close(flow)
            refuse()

    return DatagramFlow(
        namespace=namespace,
        client=flow.client,
        original_dst=flow.server,
        first=first,
        reply=reply,
        listen=flow.listen,
        close=lambda: table.close(flow),
        on_end=flow.on_end,
        refuse=turn_away,
    )


class FlowTable:
    """The flows of one namespace. Times are nanoseconds of any one clock."""

    def __init__(self, limit: int = MAX_FLOWS, idle: int = IDLE) -> None:
        self._limit = limit
        self._idle = idle
        self._flows: OrderedDict[tuple[Address, Address], Flow] = OrderedDict()

    def __len__(self) -> int:
        return len(self._flows)

    def arrive(self, client: Address, server: Address, payload: bytes, now: int) -> Flow | None:
        """Deliver a datagram to its flow; return the flow when it is new (`payload` its first)."""
        flow = self._flows.get((client, server))
        if flow is not None:
            self._touch(flow, now + self._idle)
            flow.deliver(payload)
            return None
        if len(self._flows) >= self._limit:
            self._flows.popitem(last=False)[1].end()
        flow = Flow(client, server, now + self._idle)
        self._flows[client, server] = flow
        return flow

    def replied(self, flow: Flow, now: int) -> None:
        dns = flow.server[1] == _DNS_PORT
        self._touch(flow, now + (min(DNS_IDLE, self._idle) if dns else self._idle))

    def close(self, flow: Flow) -> None:
        flow.closed = True
        if self._flows.get((flow.client, flow.server)) is flow:
            del self._flows[flow.client, flow.server]

    def expire(self, now: int) -> None:
        """End the flows whose time has come."""
        for flow in [f for f in self._flows.values() if f.deadline <= now]:
            del self._flows[flow.client, flow.server]
            flow.end()

    def clear(self) -> None:
        """End all flows: the next client's are its own, though it may have the same port."""
        self.expire(max((f.deadline for f in self._flows.values()), default=0))

    def clients(self) -> set[Address]:
        return {client for client, _ in self._flows}

    def next_deadline(self) -> int | None:
        return min((f.deadline for f in self._flows.values()), default=None)

    def _touch(self, flow: Flow, deadline: int) -> None:
        if self._flows.get((flow.client, flow.server)) is flow:
            flow.deadline = deadline
            self._flows.move_to_end((flow.client, flow.server))


class DatagramFlows:
    """The flows of one namespace, with timer and sink; how datagrams leave is the redirector's."""

    def __init__(self, namespace: int, *, idle: int = IDLE) -> None:
        self.namespace = namespace
        self.flows = FlowTable(idle=idle)
        self._timer: Any = None
        self._loop: Any = None
        self._opened: Callable[[DatagramFlow], None] = lambda _flow: None

    def send(self, flow: Flow, payload: bytes) -> None:
        """Send a datagram to the flow's client."""
        raise NotImplementedError

    def say_unreachable(self, flow: Flow) -> None:
        """Tell the flow's client that nobody listens there."""
        raise NotImplementedError

    def watch(self, loop: Any, opened: Callable[[DatagramFlow], None]) -> None:
        self._loop, self._opened = loop, opened

    def arrive(self, client: Address, server: Address, payload: bytes) -> None:
        flow = self.flows.arrive(client, server, payload, monotonic_ns())
        if flow is not None:
            self._arm()
            self._opened(self._public(flow, payload))

    def close(self) -> None:
        """Stop the timer; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _public(self, flow: Flow, first: bytes) -> DatagramFlow:
        return as_event(
            self.flows,
            flow,
            namespace=self.namespace,
            first=first,
            send=lambda payload: self.send(flow, payload),
            refuse=lambda: self.say_unreachable(flow),
        )

    def _arm(self) -> None:
        """Look for idle flows when the first of them may be."""
        deadline = self.flows.next_deadline()
        if self._timer is None and deadline is not None and self._loop is not None:
            wait = max(deadline - monotonic_ns(), 0) / 1e9
            self._timer = self._loop.call_later(min(wait, DNS_IDLE / 1e9), self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        self.flows.expire(monotonic_ns())
        self._arm()


class Datagrams(DatagramFlows):
    """The UDP sockets of one namespace. Made inside it, used on the loop's thread."""

    def __init__(
        self, namespace: int, unreachable: Unreachable, *, ipv6: bool, idle: int = IDLE
    ) -> None:
        super().__init__(namespace, idle=idle)
        self._unreachable = unreachable
        self._receivers: list[socket.socket] = []
        self._senders: dict[int, socket.socket] = {}
        try:
            for family in families(ipv6=ipv6):
                self._receivers.append(datagram_receiver(family))
                self._senders[family] = datagram_sender(family)
        except BaseException:
            self.close()
            raise

    def watch(self, loop: Any, opened: Callable[[DatagramFlow], None]) -> None:
        super().watch(loop, opened)
        for conn in self._receivers:
            loop.add_reader(conn.fileno(), self._read, conn)

    def drain(self) -> None:
        """Read what has arrived, if anybody watches."""
        if self._loop is not None:
            for conn in list(self._receivers):
                self._read(conn)

    def close(self) -> None:
        """Close the sockets; idempotent. Replies after that go nowhere."""
        super().close()
        for conn in self._receivers:
            if self._loop is not None and conn.fileno() >= 0:
                self._loop.remove_reader(conn.fileno())
            conn.close()
        for conn in self._senders.values():
            conn.close()
        self._receivers.clear()
        self._senders.clear()

    def send(self, flow: Flow, payload: bytes) -> None:
        data = encode_datagram(flow.server[1], flow.client[1], payload)
        send_as(self._senders, flow.server, flow.client, data)

    def say_unreachable(self, flow: Flow) -> None:
        self._unreachable.port(flow.client, flow.server)

    def _read(self, conn: socket.socket) -> None:
        for _ in range(_READ_ROUNDS):
            try:
                payload, ancillary, _, peer = conn.recvmsg(65536, 128)
            except OSError:
                return
            server = original_destination(ancillary)
            if server is None:
                continue
            self.arrive(peer[:2], server, payload)
            if conn.fileno() < 0:
                return  # the sink has detached this namespace
