"""UDP: what a program sends goes to the engine, what it receives seems to come from the server.

1. A *path* is a socket of ours on loopback for each (program's socket, server). A connected
   program's socket is connected to it. Of an unconnected one, what it sends is read from its
   memory and handed on; the path's socket only sends back.
2. The kernel tells a receiver the path's address; `server_at` tells which server that stands for
   (seccomp_receiving.py puts it in its place).
3. Flows are those of datagrams.py: idle ones end, too many end the oldest.
4. A path goes when the program's socket is gone, which sock_diag(7) tells: nothing announces it. An
   unconnected one also goes when nothing came through for `IDLE`.
5. "Nobody listens there" reaches a connected program as the kernel's own port unreachable: the
   path's socket turns away for the moment in which something is sent to it from theirs.

Tests: test_seccomp_datagrams.py.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic_ns
from typing import Any

from pytest_netcapture.redirect.base import Address, DatagramFlow, Sink
from pytest_netcapture.redirect.datagrams import IDLE, Flow, FlowTable, as_event
from pytest_netcapture.redirect.owners import Owners
from pytest_netcapture.redirect.seccomp_sockets import Sockets
from pytest_netcapture.redirect.seccomp_streams import Caller

_SWEEP = 5.0
_FLAGS = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_READ_ROUNDS = 64
_HOST = 0
"""The engine's own network namespace, for `Owners`."""


@dataclass(eq=False)
class Path:
    """From a program's socket (`inode`) to a server; `ours` is the engine's end."""

    caller: Caller
    inode: int
    client: Address
    server: Address
    ours: socket.socket
    connected: bool
    used: int

    @property
    def address(self) -> Address:
        name: Address = self.ours.getsockname()[:2]
        return name


class Datagrams:
    """All UDP of captured programs."""

    def __init__(self, loop: Any, sink: Sink, sockets: Sockets) -> None:
        self._loop = loop
        self._sink = sink
        self._sockets = sockets
        self._flows = FlowTable()
        self._paths: dict[tuple[int, Address], Path] = {}
        self._inodes: dict[int, dict[Address, Path]] = {}
        self._owners = Owners()
        self._owners.attach_here(_HOST)
        self._timer: Any = None

    def connect(
        self,
        caller: Caller,
        theirs: socket.socket,
        server: Address,
        know: Callable[[Address], None],
    ) -> int:
        """Connect a program's socket to the engine; return 0, as `connect` does. Raises OSError."""
        inode = os.fstat(theirs.fileno()).st_ino
        self.forget(inode)
        ours = _made(server)
        try:
            theirs.connect((_as_seen_by(theirs, ours), ours.getsockname()[1]))
            client = _reached_at(theirs, ours)
            ours.connect(client)
        except OSError:
            ours.close()
            raise
        know(client)
        self._watch(Path(caller, inode, client, server, ours, True, monotonic_ns()))
        return 0

    def send(
        self,
        caller: Caller,
        theirs: socket.socket,
        server: Address,
        payload: bytes,
        know: Callable[[Address], None],
    ) -> None:
        """Take a datagram that an unconnected socket sends. Raises OSError."""
        inode = os.fstat(theirs.fileno()).st_ino
        path = self._paths.get((inode, server))
        if path is None:
            if theirs.getsockname()[1] == 0:
                theirs.bind(("::" if theirs.family == socket.AF_INET6 else "0.0.0.0", 0))
            ours = _made(server)
            client = _reached_at(theirs, ours)
            ours.connect(client)
            path = Path(caller, inode, client, server, ours, False, monotonic_ns())
            self._watch(path)
        know(path.client)
        self._arrive(path, payload)

    def knows(self, inode: int) -> bool:
        return inode in self._inodes

    @property
    def idle(self) -> bool:
        """Tell whether no program's socket is diverted."""
        return not self._inodes

    def server_at(self, inode: int, address: Address) -> Address | None:
        """Return which server a path's address stands for."""
        path = self._inodes.get(inode, {}).get(address)
        return path.server if path is not None else None

    def peer(self, inode: int) -> Address | None:
        """Return the server that a program has connected its socket to."""
        connected = (p.server for p in self._inodes.get(inode, {}).values() if p.connected)
        return next(connected, None)

    def drain(self) -> None:
        """Deliver the datagrams that have arrived by now."""
        for path in list(self._paths.values()):
            self._read(path)

    def forget(self, inode: int) -> None:
        for path in list(self._inodes.get(inode, {}).values()):
            self._close(path)

    def close(self) -> None:
        for inode in list(self._inodes):
            self.forget(inode)
        self._owners.detach(_HOST)

    def _watch(self, path: Path) -> None:
        self._paths[path.inode, path.server] = path
        self._inodes.setdefault(path.inode, {})[path.address] = path
        self._loop.add_reader(path.ours.fileno(), self._read, path)
        if self._timer is None:
            self._timer = self._loop.call_later(_SWEEP, self._sweep)

    def _close(self, path: Path) -> None:
        self._loop.remove_reader(path.ours.fileno())
        if self._paths.get((path.inode, path.server)) is path:
            del self._paths[path.inode, path.server]
        paths = self._inodes.get(path.inode, {})
        paths.pop(path.address, None)
        if not paths:
            self._inodes.pop(path.inode, None)
        path.ours.close()

    def _read(self, path: Path) -> None:
        for _ in range(_READ_ROUNDS):
            try:
                payload = path.ours.recv(1 << 16)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # what we sent found nobody: the program has closed its socket
                return
            self._arrive(path, payload)
            if path.ours.fileno() < 0:
                return

    def _arrive(self, path: Path, payload: bytes) -> None:
        path.used = monotonic_ns()
        flow = self._flows.arrive(path.client, path.server, payload, path.used)
        if flow is not None:
            self._sink.datagram_flow(self._public(path, flow, payload))

    def _public(self, path: Path, flow: Flow, first: bytes) -> DatagramFlow:
        def send(payload: bytes) -> None:
            path.used = monotonic_ns()
            with suppress(OSError):  # lost, as datagrams may be
                path.ours.send(payload)

        return as_event(
            self._flows,
            flow,
            namespace=path.caller.place,
            first=first,
            send=send,
            refuse=lambda: self._refuse(path),
        )

    def _refuse(self, path: Path) -> None:
        if not path.connected or path.ours.fileno() < 0:
            return  # the kernel tells unconnected sockets nothing
        with suppress(OSError):
            caller = path.caller
            theirs = self._sockets.find(caller.process, caller.note.descriptor, path.inode)
            if theirs is not None:
                with theirs:
                    self._tell_refused(path, theirs)

    @staticmethod
    def _tell_refused(path: Path, theirs: socket.socket) -> None:
        path.ours.connect(path.address)  # to itself: it takes nothing from theirs now
        with suppress(OSError):
            theirs.send(b"", socket.MSG_DONTWAIT)
        path.ours.connect(path.client)

    def _sweep(self) -> None:
        now = monotonic_ns()
        self._flows.expire(now)
        for path in list(self._paths.values()):
            left = self._owners.inode(_HOST, socket.IPPROTO_UDP, path.client, path.address)
            if left != path.inode or (not path.connected and now - path.used > IDLE):
                self._close(path)
        self._timer = self._loop.call_later(_SWEEP, self._sweep) if self._paths else None


def _made(server: Address) -> socket.socket:
    """Return a socket of ours, in the family of the server."""
    family, loopback = (
        (socket.AF_INET6, "::1") if ":" in server[0] else (socket.AF_INET, "127.0.0.1")
    )
    ours = socket.socket(family, _FLAGS)
    try:
        ours.bind((loopback, 0))
    except OSError:
        ours.close()
        raise
    return ours


def _as_seen_by(theirs: socket.socket, ours: socket.socket) -> str:
    """Return the address of ours in the form that their socket's family has."""
    host: str = ours.getsockname()[0]
    return f"::ffff:{host}" if theirs.family != ours.family else host


def _reached_at(theirs: socket.socket, ours: socket.socket) -> Address:
    """Return where ours reaches theirs, which is bound."""
    host, port = theirs.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:
        host = ours.getsockname()[0]
    return host.removeprefix("::ffff:"), port
