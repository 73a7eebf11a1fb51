"""The redirector for programs that run already, or that nobody can start in a sandbox: BPF.

1. Programs of the kernel (bpf/capture.bpf.c) divert what targets (ebpf_targets.py) connect and send
   to; where to is answered by ebpf_streams.py and ebpf_datagrams.py. There is no namespace, and
   nothing of the machine is changed but that; with this process it is gone.
2. It takes privilege (ebpf_programs.py), and the first process namespace: the kernel's half knows
   no other numbers.
3. As with seccomp, a *place* stands for a namespace, and which one a process belongs to is told by
   when it was started (seccomp_places.py).
4. Only what is diverted is seen. Loopback is, where `capture_loopback` asks for it; name servers
   on it always are.
5. Connections that were made before stay as they are.

Tests: test_ebpf.py.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import ebpf_privileged
from pytest_netcapture.redirect import ebpf_records as records
from pytest_netcapture.redirect.base import Address, Namespace, Sink
from pytest_netcapture.redirect.ebpf_datagrams import Datagrams
from pytest_netcapture.redirect.ebpf_following import Following, Members
from pytest_netcapture.redirect.ebpf_privileged import Privileged
from pytest_netcapture.redirect.ebpf_programs import SLUG, read_offsets
from pytest_netcapture.redirect.ebpf_ring import Ring
from pytest_netcapture.redirect.ebpf_streams import Streams
from pytest_netcapture.redirect.ebpf_targets import Rules
from pytest_netcapture.redirect.owners import Owners
from pytest_netcapture.redirect.poller import Poller
from pytest_netcapture.redirect.seccomp_routes import has_ipv6, source_for

_HOST = 0
_FIRST_PROCESSES = 0xEFFFFFFC
"""Inode of the first process namespace (PROC_PID_INIT_INO)."""

_SO_NETNS_COOKIE = 71
_ELSEWHERE = ("192.0.2.1", 9), ("2001:db8::1", 9)
"""Addresses that no machine has: the default route leads there (RFC 5737, RFC 3849)."""

_FIRST, _PLACE_SIZE = bytes(4), 4


class EbpfRedirector:
    """Captures chosen processes of this machine (`Redirector`)."""

    name = "ebpf"
    gates = True
    isolates = False

    def __init__(
        self,
        rules: Rules,
        cgroup: str,
        place_of: Callable[[int], int],
        *,
        capture_loopback: bool = False,
        made: Privileged | None = None,
    ) -> None:
        """Load everything. Raises `EnvironmentProblem`.

        `cgroup`: who is not in it, or below it, is left alone. `place_of` tells a process's place.
        `made`: what a helper has loaded, and attached there.
        """
        check_processes()
        self._rules = rules
        self._cgroup = cgroup
        self._place_of = place_of
        self._flags = rules.flags | (records.CAPTURE_LOOPBACK if capture_loopback else 0)
        self._owners = Owners()
        self._owners.attach_here(_HOST)
        ipv6 = has_ipv6()
        made = made or ebpf_privileged.make(ipv6=ipv6)
        self._programs = made.programs
        maps = self._programs.maps
        self._following = Following(Members(rules, maps["members"]), made.reports, made.lacking)
        self._ring = Ring(maps["arrivals"].fd, maps["arrivals"].entries)
        self._streams = Streams(made, place_of, ipv6=ipv6)
        self._datagrams = Datagrams(made, self._owners, place_of, ipv6=ipv6)
        self._loop: Any = None

    @property
    def note(self) -> str:
        """Return what does not work, if anything."""
        return self._following.note

    def start(self, loop: Any, sink: Sink, poller: Poller) -> None:
        """Begin to capture. Raises `EnvironmentProblem`."""
        del poller  # its own descriptors are few and stay
        self._loop = loop
        self._streams.watch(loop, sink)
        self._datagrams.watch(loop, sink)
        loop.add_reader(self._ring.fileno, self._read)
        maps = self._programs.maps
        for name, value in self._rules.names().items():
            maps["names"].set(name, records.encode_word(value))
        self._following.watch(loop)
        maps["configs"].set(_FIRST, self._config().encode())
        if not self._programs.attached:
            self._programs.attach(self._cgroup)

    def attach(self, namespace: Namespace) -> None:
        """Do nothing: a place is no namespace, and all is attached from the start."""

    def watch(self, namespace: Namespace) -> None:
        """Do nothing."""

    def drain(self, namespace: Namespace) -> None:
        del namespace
        if self._loop is not None:
            self._read()
            self._datagrams.drain()

    def renew(self, namespace: Namespace) -> None:
        """Do nothing: no place is used twice."""

    def detach(self, namespace: Namespace) -> None:
        """Do nothing."""

    def stop(self) -> None:
        if self._loop is None:
            return
        self._programs.detach()
        self._loop.remove_reader(self._ring.fileno)
        self._following.close()
        self._streams.close()
        self._datagrams.close()
        self._ring.close()
        self._programs.close()
        self._owners.detach(_HOST)
        self._loop = None

    def owner(self, protocol: int, client: Address) -> tuple[int, int]:
        """Return the inode and the process of a client's socket, (0, 0) when it is not known."""
        if protocol == socket.IPPROTO_UDP:
            return 0, self._datagrams.process(client)
        ours = self._streams.address(socket.AF_INET6 if ":" in client[0] else socket.AF_INET)
        inode = self._owners.inode(_HOST, protocol, client, ours)
        return inode, self._streams.process(client)

    def _config(self) -> records.Config:
        families = (socket.AF_INET, socket.AF_INET6)
        first, second = (self._streams.address(family)[1] for family in families)
        lost = [self._datagrams.lost_port(family) for family in families]
        sources = [source_for(address) or "" for address in _ELSEWHERE]
        return records.Config(
            network=_network(),
            engine=os.getpid(),
            flags=self._flags,
            stream_ports=(first, second),
            lost_ports=(lost[0], lost[1]),
            sources=(sources[0], sources[1]),
            offsets=read_offsets(),
        )

    def _read(self) -> None:
        for data in self._ring.take():
            if len(data) == _PLACE_SIZE:
                self._datagrams.taken(data)
            else:
                self._streams.arrive(records.read_arrival(data))


def check_processes() -> None:
    """Raise `EnvironmentProblem` in a process namespace other than the first."""
    if os.stat("/proc/self/ns/pid").st_ino != _FIRST_PROCESSES:
        raise EnvironmentProblem(
            "ebpf: this is a container: its numbers of processes are not those of the kernel",
            cure="run netcapture on the machine itself, or the container with --pid=host",
            slug=SLUG,
        )


def _network() -> int:
    """Return what the kernel's half knows this network namespace by; 0 before Linux 5.14."""
    with socket.socket() as sock:
        try:
            data = sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return 0
    return int(struct.unpack("=Q", data)[0])
