"""Connections out of the engine.

1. A loopback destination falls outward: the session's namespace, then the host, then refused; from
   the session's namespace first to the running test's.
2. Loopback connects finish in the kernel before connect(2) returns to us, so they are answered
   without waiting: the client's own connect stays fast.
3. Nothing but loopback is dialled when the engine was told `upstream=loopback`: it is unreachable.
4. The handshake's last packet, which wakes the server, is held back until the client has its answer
   (TCP_QUICKACK, tcp(7)): that the server accepts is known before. The kernel sends it by itself
   after 0.2 s.
5. `left_machine` counts packets sent to other machines (tcpi_segs_out of tcp(7), and datagrams).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from pytest_netcapture.engine.namespaces import EngineNamespace, Hopper
from pytest_netcapture.flows import Address, FlowError
from pytest_netcapture.redirect.base import Verdict
from pytest_netcapture.redirect.kernel import ENGINE_MARK

_SEGS_OUT = struct.Struct("=136xI")
_STASH = 32
"""Sockets of each family to keep ready; made anew, all at once, when half are used up."""
_SPARE = 8
"""The same of the host's, which are cheaper to make."""

Listens = Callable[[int, Address], bool]
"""Whether a socket of a namespace listens at an address: asking is cheaper than trying."""

Done = Callable[["socket.socket | None", "FlowError | None"], None]

VERDICTS = {"refused": Verdict.REFUSE, "timeout": Verdict.DROP, "unreachable": Verdict.UNREACHABLE}


class Candidate(NamedTuple):
    """One place to try: an address, in a namespace or (None) on the host."""

    address: Address
    namespace: EngineNamespace | None = None


def is_loopback(address: str) -> bool:
    if address.startswith("127.") or address == "::1":
        return True
    return address.startswith("::ffff:127.")


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def error_of(number: int) -> FlowError:
    kind = {errno.ECONNREFUSED: "refused", errno.ETIMEDOUT: "timeout"}.get(number, "unreachable")
    return FlowError(kind, os.strerror(number))


def segments_sent(sock: socket.socket) -> int:
    """Return how many TCP segments left through `sock` (struct tcp_info, Linux 4.2)."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SEGS_OUT.size)
        return int(_SEGS_OUT.unpack(info)[0])
    except (OSError, struct.error):
        return 0


class Dialer:
    """Dials candidates in turn, on the loop's thread."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, hopper: Hopper, listens: Listens, upstream: str
    ) -> None:
        self._listens = listens
        self._loop = loop
        self._hopper = hopper
        self._upstream = upstream
        self._stash: dict[socket.AddressFamily, list[socket.socket]] = {
            socket.AF_INET: [],
            socket.AF_INET6: [],
        }
        self._stashed: EngineNamespace | None = None
        self._filling = False
        self._spare: dict[socket.AddressFamily, list[socket.socket]] | None = {
            socket.AF_INET: [],
            socket.AF_INET6: [],
        }
        """A host's sockets of each family, made while nobody waits; None once closed."""

    def permitted(self, address: str) -> bool:
        return self._upstream != "loopback" or is_loopback(address)

    def stash(self, namespace: EngineNamespace) -> None:
        """Keep sockets of `namespace` (the session's) ready: making one takes a hop."""
        self._stashed = namespace
        self._refill()

    def dial(self, candidates: list[Candidate], done: Done) -> None:
        """Try `candidates` in order; `done` gets a socket or the last error, perhaps at once."""
        self._try(candidates, 0, FlowError("refused"), done)

    def left_by(self, sock: socket.socket, peer: str) -> int:
        return 0 if is_loopback(peer) else segments_sent(sock)

    def close(self) -> None:
        self._stashed = None
        spare, self._spare = self._spare or {}, None
        for sockets in (*self._stash.values(), *spare.values()):
            while sockets:
                sockets.pop().close()

    def make_socket(
        self, namespace: EngineNamespace | None, address: str, kind: int = socket.SOCK_STREAM
    ) -> socket.socket:
        """Return a non-blocking socket born in `namespace`; one of the host when None."""
        family = family_of(address)
        if namespace is None:
            return self._of_host(family) if kind == socket.SOCK_STREAM else _socket(family, kind)
        if namespace is self._stashed and kind == socket.SOCK_STREAM and self._stash[family]:
            sock = self._stash[family].pop()
            self._loop.call_soon(self._refill)  # after this client has its answer
            return sock
        return namespace.run(lambda: _marked(family, kind))

    def _of_host(self, family: socket.AddressFamily) -> socket.socket:
        if self._spare is None:
            return _socket(family, socket.SOCK_STREAM)
        spare = self._spare[family]
        if len(spare) <= _SPARE // 2:
            self._loop.call_soon(self._make_spare, family)
        return spare.pop() if spare else _socket(family, socket.SOCK_STREAM)

    def _make_spare(self, family: socket.AddressFamily) -> None:
        while self._spare is not None and len(self._spare[family]) < _SPARE:
            try:
                self._spare[family].append(_socket(family, socket.SOCK_STREAM))
            except OSError:  # no descriptors: whoever needs one will say so
                return

    def _try(self, candidates: list[Candidate], index: int, last: FlowError, done: Done) -> None:
        while index < len(candidates):
            candidate = candidates[index]
            index += 1
            if candidate.namespace is None and not self.permitted(candidate.address[0]):
                last = FlowError("unreachable", "the engine may dial loopback only")
                continue
            if candidate.namespace and not self._listens(candidate.namespace.id, candidate.address):
                last = error_of(errno.ECONNREFUSED)
                continue
            sock = self.make_socket(candidate.namespace, candidate.address[0])
            number = _attempt(sock, candidate.address)
            if number == 0:
                _answer(done, sock)
                return
            if number == errno.EINPROGRESS:
                self._wait(sock, candidates, index, done)
                return
            sock.close()
            last = error_of(number)
        done(None, last)

    def _wait(
        self, sock: socket.socket, candidates: list[Candidate], index: int, done: Done
    ) -> None:
        def ready() -> None:
            self._loop.remove_writer(sock.fileno())
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number == 0:
                _answer(done, sock)
            else:
                sock.close()
                self._try(candidates, index, error_of(number), done)

        self._loop.add_writer(sock.fileno(), ready)

    def _refill(self) -> None:
        namespace = self._stashed
        lacking = {f: _STASH - len(s) for f, s in self._stash.items() if len(s) <= _STASH // 2}
        if namespace is None or self._filling or not lacking:
            return
        self._filling = True
        future = asyncio.wrap_future(
            self._hopper.submit(namespace.fd, lambda: _make_stash(lacking)), loop=self._loop
        )
        future.add_done_callback(self._refilled)

    def _refilled(self, future: asyncio.Future[list[socket.socket]]) -> None:
        self._filling = False
        if future.cancelled() or future.exception():
            return
        for sock in future.result():
            if self._stashed is None:
                sock.close()
            else:
                self._stash[sock.family].append(sock)


def _make_stash(numbers: dict[socket.AddressFamily, int]) -> list[socket.socket]:
    return [_marked(family, socket.SOCK_STREAM) for family, n in numbers.items() for _ in range(n)]


def _socket(family: int, kind: int) -> socket.socket:
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    return sock


def _answer(done: Done, sock: socket.socket) -> None:
    done(sock, None)
    with contextlib.suppress(OSError):  # closed already
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _marked(family: int, kind: int) -> socket.socket:
    sock = _socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, ENGINE_MARK)
    return sock


def _attempt(sock: socket.socket, address: Address) -> int:
    """Start to connect; return 0, EINPROGRESS or the error, as it stands without waiting."""
    number = sock.connect_ex(address)
    if number != errno.EINPROGRESS:
        return number
    try:
        sock.getpeername()
    except OSError:  # failed, or not connected yet
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.EINPROGRESS
    return 0


def resolve_now(host: str, port: int) -> list[Address]:
    """Resolve on the host, blocking. Raises `socket.gaierror`."""
    with contextlib.suppress(ValueError):
        return [(str(ipaddress.ip_address(host)), port)]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((str(entry[4][0]), port) for entry in found))
