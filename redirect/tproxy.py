"""The default redirector on Linux: every address is local, and nftables' tproxy does the rest.

1. `attach` makes, inside the namespace, in this order: addresses and routes (plumbing.py), ICMP
   sockets (unreachable.py), the gate's queue (gate.py), transparent listeners, UDP sockets
   (datagrams.py), a diagnostic socket (owners.py), and last the rules (ruleset.py). So nothing is
   captured before somebody is there.
2. The namespace needs nothing else from us: sockets made inside are served by the loop from
   outside.
3. Between `attach` and `watch`, and while the loop is busy, clients wait in the kernel.
4. With the engine dead its sockets are closed, and the rules that stay refuse TCP and name queries
   at once; other datagrams to IPv4 addresses vanish (icmp.py, rule 3).
5. Without a queue in the kernel `gates` is False: connections are accepted before they are dialled.

Kernel: Documentation/networking/tproxy.rst. Tests: test_tproxy.py, test_kernel_facts.py.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, field
from typing import Any

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect import netlink, plumbing, ruleset
from pytest_netcapture.redirect.base import Namespace, Sink, StreamOpened
from pytest_netcapture.redirect.datagrams import IDLE, Datagrams
from pytest_netcapture.redirect.gate import Gate
from pytest_netcapture.redirect.owners import Owners
from pytest_netcapture.redirect.poller import Poller
from pytest_netcapture.redirect.probing import probe
from pytest_netcapture.redirect.transparent import families, stream_listener
from pytest_netcapture.redirect.unreachable import Unreachable

__all__ = ["TproxyRedirector", "probe"]

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE = 0.05


@dataclass
class _Attached:
    """What was made for one namespace."""

    listeners: list[socket.socket] = field(default_factory=list)
    gate: Gate | None = None
    datagrams: Datagrams | None = None
    unreachable: Unreachable | None = None

    def close(self, poller: Poller | None) -> None:
        for listener in self.listeners:
            if poller is not None:
                poller.remove_reader(listener.fileno())
            listener.close()
        if self.gate is not None:
            if poller is not None:
                poller.remove_urgent(self.gate.fileno())
            self.gate.close()
        if self.datagrams is not None:
            self.datagrams.close()
        if self.unreachable is not None:
            self.unreachable.close()


class TproxyRedirector:
    """Captures all TCP and UDP of a namespace (`Redirector`).

    `owners` answers whose a socket is, for the same namespaces.
    """

    name = "tproxy"
    isolates = True

    def __init__(self, *, addresses: tuple[str, ...] = (), udp_idle: int = IDLE) -> None:
        """Forget a UDP flow after `udp_idle` nanoseconds of silence.

        `addresses` are the machine's own, which are there in each namespace, too.
        """
        self.gates = True
        self._addresses = addresses
        self._links: tuple[str, ...] = plumbing.LINKS
        self._first_port = plumbing.first_unprivileged_port()
        self._udp_idle = udp_idle
        self.owners = Owners()
        self._way = ruleset.NATIVE
        self._attached: dict[int, _Attached] = {}
        self._loop: Any = None
        self._poller: Poller | None = None
        self._sink: Sink | None = None

    def start(self, loop: Any, sink: Sink, poller: Poller) -> None:
        self._loop, self._sink, self._poller = loop, sink, poller

    def attach(self, namespace: Namespace) -> None:
        namespace.run(lambda: self._attach_here(namespace.id))

    def watch(self, namespace: Namespace) -> None:
        attached = self._attached[namespace.id]
        loop, sink, poller = self._loop, self._sink, self._poller
        assert sink is not None, "start comes before watch"
        assert poller is not None
        for listener in attached.listeners:
            poller.add_reader(listener.fileno(), self._accept, namespace.id, listener, sink)
        if attached.datagrams is not None:
            attached.datagrams.watch(loop, sink.datagram_flow)
        if attached.gate is not None:
            gate = attached.gate
            poller.add_urgent(gate.fileno(), gate.read, sink.connecting)

    def drain(self, namespace: Namespace) -> None:
        attached = self._attached.get(namespace.id)
        if attached is not None and attached.datagrams is not None:
            attached.datagrams.drain()

    def renew(self, namespace: Namespace) -> None:
        attached = self._attached.get(namespace.id)
        if attached is not None and attached.datagrams is not None:
            attached.datagrams.flows.clear()

    def detach(self, namespace: Namespace) -> None:
        self._detach(namespace.id)

    def stop(self) -> None:
        for number in list(self._attached):
            self._detach(number)

    def _detach(self, number: int) -> None:
        attached = self._attached.pop(number, None)
        if attached is not None:
            attached.close(self._poller)
        self.owners.detach(number)

    def _attach_here(self, number: int) -> None:
        attached = _Attached()
        try:
            ipv6, link = plumbing.lay(self._addresses, self._links, self._first_port)
            self._links = (link,) if link else ()  # of the first namespace: no need to try others
            self._make_sockets(number, attached, ipv6=ipv6)
            self._way = install(self._way, ipv6=ipv6)
        except BaseException:
            attached.close(None)
            self.owners.detach(number)
            raise
        self.gates = self._way != ruleset.NO_GATE
        if not self.gates and attached.gate is not None:
            attached.gate.close()
            attached.gate = None
        self._attached[number] = attached

    def _make_sockets(self, number: int, attached: _Attached, *, ipv6: bool) -> None:
        unreachable = attached.unreachable = Unreachable(ipv6=ipv6)
        if self._way != ruleset.NO_GATE:
            attached.gate = _gate(number, unreachable)
            if attached.gate is None:
                self._way = ruleset.NO_GATE
        for family in families(ipv6=ipv6):
            attached.listeners.append(stream_listener(family))
        attached.datagrams = Datagrams(number, unreachable, ipv6=ipv6, idle=self._udp_idle)
        self.owners.attach_here(number)

    def _accept(self, number: int, listener: socket.socket, sink: Sink) -> None:
        try:
            conn, client = listener.accept()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._pause(number, listener, sink)
            return  # the client has gone, perhaps; we are called again
        conn.setblocking(False)
        sink.stream_opened(StreamOpened(number, conn, client[:2], conn.getsockname()[:2]))

    def _pause(self, number: int, listener: socket.socket, sink: Sink) -> None:
        """Let clients wait in the kernel while there are no descriptors, rather than spin."""
        poller = self._poller
        assert poller is not None

        def resume() -> None:
            if listener.fileno() >= 0:
                poller.add_reader(listener.fileno(), self._accept, number, listener, sink)

        poller.remove_reader(listener.fileno())
        self._loop.call_later(_PAUSE, resume)


def install(way: str, *, ipv6: bool) -> str:
    """Install the rules in the calling thread's namespace; return the way that the gate has.

    Tries `way`, then the next ones while it is only the queue that the kernel lacks.
    """
    ways = (ruleset.NATIVE, ruleset.COMPAT, ruleset.NO_GATE)
    for attempt in ways[ways.index(way) :]:
        batch = ruleset.batch(attempt, ipv6=ipv6)
        try:
            failed = netlink.transact(k.NETLINK_NETFILTER, batch.data)
        except OSError as error:
            raise EnvironmentProblem(
                f"tproxy: the kernel has no nftables: {error.strerror}",
                cure="modprobe nfnetlink nf_tables (as root, once); a kernel without it needs "
                "another redirector",
                slug="docs/limits.md#tproxy",
            ) from error
        if not failed:
            return attempt
        lacking = [(batch.parts.get(step, ("the batch", "nf_tables")), n) for step, n in failed]
        if any(module != ruleset.QUEUE_MODULES.get(attempt) for (_, module), _ in lacking):
            break
    (what, module), number = lacking[0]
    raise EnvironmentProblem(
        f"tproxy: the kernel refuses the nftables {what}: {netlink.reason(number)}",
        cure=f"modprobe {module} (as root, once); a kernel without it needs another redirector",
        slug="docs/limits.md#tproxy",
    )


def _gate(number: int, unreachable: Unreachable) -> Gate | None:
    try:
        return Gate(number, unreachable.host)
    except (EnvironmentProblem, OSError):
        return None
