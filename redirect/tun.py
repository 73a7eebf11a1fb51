"""The redirector on a TUN device: a TCP/IP stack of our own answers for every address.

1. In each namespace all TCP and UDP leaves by a TUN device (tun_plumbing.py) to a stack in a thread
   of the engine (stack/, tun_stack.py). It needs no nftables.
2. A SYN is held until the verdict, so every refusal is exact. An accepted connection comes as one
   end of a socket pair, a datagram as a record on the stack's channel.
3. What somebody in the namespace listens for, on loopback or an own address, the stack gives back
   to the kernel as it came: such connections pass it, and are neither gated nor captured.
4. Between `attach` and `watch` clients wait; with the engine dead the device is gone, what is not
   local is unreachable at once, and connections are ended by tun_guard.py.

Tests: test_tun.py, tests/conformance.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakValueDictionary

from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect import tun_device, tun_plumbing
from pytest_netcapture.redirect.base import (
    Connecting,
    Namespace,
    Sink,
    StreamOpened,
    Verdict,
)
from pytest_netcapture.redirect.datagrams import IDLE, DatagramFlows, Flow
from pytest_netcapture.redirect.owners import Owners
from pytest_netcapture.redirect.plumbing import first_unprivileged_port
from pytest_netcapture.redirect.poller import Poller
from pytest_netcapture.redirect.tun_guard import Guard
from pytest_netcapture.redirect.tun_probing import probe
from pytest_netcapture.redirect.tun_stack import (
    Command,
    Descriptors,
    Event,
    Happened,
    PacketFaults,
    Stack,
    library,
)

__all__ = ["PacketFaults", "TunRedirector", "probe"]

_COMMANDS = {
    Verdict.ACCEPT: Command.ACCEPT,
    Verdict.REFUSE: Command.REFUSE,
    Verdict.DROP: Command.DROP,
    Verdict.UNREACHABLE: Command.UNREACHABLE,
}
_OWN = (k.OWN_V4, k.OWN_V6)


class StackSocket(socket.socket):
    """One end of a connection's socket pair, which behaves as a TCP socket where it matters."""

    reset_by_client = False
    """The client has reset the connection, and it is known by now."""

    def bind_to_stack(self, catch_up: Callable[[], None], abort: Callable[[], None]) -> None:
        self._catch_up, self._abort = catch_up, abort

    @property
    def was_reset(self) -> bool:
        if not self.reset_by_client:
            self._catch_up()
        return self.reset_by_client

    def setsockopt(self, level: int, option: int, value: Any, *length: Any) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            if struct.unpack("ii", value) == (1, 0):
                self._abort()
            return
        super().setsockopt(level, option, value, *length)

    def recv(self, size: int, flags: int = 0) -> bytes:
        return super().recv(size, flags) or self._end(b"", wanted=size)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        wanted = nbytes or len(buffer)
        return super().recv_into(buffer, nbytes, flags) or self._end(0, wanted=wanted)

    def _end(self, ended: Any, *, wanted: int) -> Any:
        if wanted and self.was_reset:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return ended


class TunRedirector:
    """Captures all TCP and UDP of a namespace (`Redirector`).

    `owners` answers whose a socket is, for the same namespaces.
    """

    name = "tun"
    gates = True
    isolates = True

    def __init__(self, *, addresses: tuple[str, ...] = (), udp_idle: int = IDLE) -> None:
        """Forget a UDP flow after `udp_idle` nanoseconds of silence.

        `addresses` are the machine's own, which are there in each namespace, too. Raises
        `EnvironmentProblem` when the library is not there.
        """
        library()
        self._addresses = addresses
        self._udp_idle = udp_idle
        self._first_port = first_unprivileged_port()
        self.owners = Owners()
        self._attached: dict[int, _Attached] = {}
        self._guard: Guard | None = None
        self._loop: Any = None
        self._sink: Sink | None = None

    def start(self, loop: Any, sink: Sink, poller: Poller) -> None:
        del poller  # its own descriptors are few and stay
        self._loop, self._sink = loop, sink

    def attach(self, namespace: Namespace) -> None:
        namespace.run(lambda: self._attach_here(namespace.id))

    def watch(self, namespace: Namespace) -> None:
        assert self._sink is not None, "start comes before watch"
        self._attached[namespace.id].watch(self._loop, self._sink)

    def drain(self, namespace: Namespace) -> None:
        attached = self._attached.get(namespace.id)
        if attached is not None:
            attached.drain()

    def renew(self, namespace: Namespace) -> None:
        attached = self._attached.get(namespace.id)
        if attached is not None:
            attached.flows.clear()

    def detach(self, namespace: Namespace) -> None:
        self._detach(namespace.id)

    def stop(self) -> None:
        for number in list(self._attached):
            self._detach(number)
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def disturb(
        self,
        namespace: Namespace,
        *,
        up: PacketFaults | None = None,
        down: PacketFaults | None = None,
    ) -> None:
        """Do to packets from the namespace's clients (`up`) and to them what is asked, from now on.

        None leaves that direction alone. Traffic inside the namespace is spared. The stack sends
        again after a second at the earliest, so packets lost on the way down are for tests of
        recovery, not of throughput.
        """
        stack = self._attached[namespace.id].stack
        stack.tell(Command.FAULTS_UP, payload=(up or PacketFaults()).encode())
        stack.tell(Command.FAULTS_DOWN, payload=(down or PacketFaults()).encode())

    def _detach(self, number: int) -> None:
        attached = self._attached.pop(number, None)
        if attached is not None:
            attached.close()
            if self._guard is not None:
                self._guard.forget(number)
        self.owners.detach(number)

    def _attach_here(self, number: int) -> None:
        ipv6 = tun_plumbing.prepare(self._first_port)
        tun = tun_device.open_tun()
        stack = _start(tun, self._addresses)
        try:
            tun_plumbing.lay(tun, self._addresses, ipv6=ipv6)
            self.owners.attach_here(number)
            self._guard = self._guard or Guard()
            self._guard.watch(number)
        except BaseException:
            stack.close()
            raise
        self._attached[number] = _Attached(number, stack, self._udp_idle)


def _start(tun: tun_device.Tun, addresses: tuple[str, ...]) -> Stack:
    try:
        loopback = tun_device.open_loopback(offload=tun.offload)
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        diag = socket.socket(socket.AF_NETLINK, kind, k.NETLINK_SOCK_DIAG)
    except BaseException:
        os.close(tun.fd)
        raise
    given = Descriptors(tun.fd, loopback.detach(), diag.detach())
    seed = int.from_bytes(os.urandom(8), "big")
    return Stack(given, mtu=tun.mtu, offload=tun.offload, own=_OWN, addresses=addresses, seed=seed)


class _Attached(DatagramFlows):
    """What was made for one namespace: its stack, the sockets that are open, its datagrams."""

    def __init__(self, number: int, stack: Stack, udp_idle: int) -> None:
        super().__init__(number, idle=udp_idle)
        self.stack = stack
        self._sockets: WeakValueDictionary[int, StackSocket] = WeakValueDictionary()
        self._taking = threading.RLock()  # a sink's method may ask, too
        self._sink: Sink | None = None

    def watch(self, loop: Any, sink: Sink) -> None:  # type: ignore[override]
        super().watch(loop, sink.datagram_flow)
        self._sink = sink
        loop.add_reader(self.stack.fileno(), self._catch_up)

    def drain(self) -> None:
        if self._sink is not None:
            self._take(self.stack.synced())

    def close(self) -> None:
        super().close()
        if self._loop is not None and self.stack.fileno() >= 0:
            self._loop.remove_reader(self.stack.fileno())
        self.stack.close()

    def send(self, flow: Flow, payload: bytes) -> None:
        self.stack.tell(Command.DATAGRAM, key=(flow.server, flow.client), payload=payload)

    def say_unreachable(self, flow: Flow) -> None:
        self.stack.tell(Command.PORT_UNREACHABLE, key=(flow.client, flow.server))

    def _catch_up(self) -> None:
        # Who reads the end of a socket in another thread is to know what this one has just read.
        with self._taking:
            self._take(self.stack.events())

    def _take(self, events: Iterable[Happened]) -> None:
        sink = self._sink
        assert sink is not None
        for event in events:
            if event.kind == Event.CONNECTING:
                sink.connecting(self._connecting(event))
            elif event.kind == Event.OPENED:
                sink.stream_opened(self._stream(event))
            elif event.kind == Event.CLOSED:
                self._closed(event)
            elif event.kind == Event.DATAGRAM:
                self.arrive(event.source, event.target, event.payload)
            elif event.kind == Event.FATAL:
                print(
                    "netcapture: the stack of `tun` has failed: its namespace is cut off",
                    file=sys.stderr,
                )
                self.close()

    def _connecting(self, event: Happened) -> Connecting:
        def answer(verdict: Verdict) -> None:
            self.stack.tell(_COMMANDS[verdict], event.flow)

        return Connecting(self.namespace, event.source, event.target, answer)

    def _stream(self, event: Happened) -> StreamOpened:
        conn = StackSocket(fileno=event.number)
        flow = event.flow
        conn.bind_to_stack(self._catch_up, lambda: self.stack.tell(Command.ABORT, flow))
        self._sockets[flow] = conn
        return StreamOpened(self.namespace, conn, event.source, event.target)

    def _closed(self, event: Happened) -> None:
        conn = self._sockets.pop(event.flow, None)
        if conn is not None and event.number:
            conn.reset_by_client = True
