"""TCP: a program's own socket is connected to the engine instead of to where it was going.

1. What the engine can answer at once (replayed, blocked, served on this machine) is done at once:
   the socket is connected to a listener of ours on loopback, or the call gets the errno.
2. Otherwise the socket is *parked* first: it connects to a listener that takes no more (`Closet`),
   so that it is what a program expects of a connect under way: not writable, EALREADY when asked
   again, interrupted by a signal and gone on with. A blocking call then waits in the kernel itself.
   Proof: test_a_signal_interrupts_a_connect.
   One with a time-out of its own (SO_SNDTIMEO) is held for so long instead.
3. When the real server has accepted, the closet opens: a socket of ours with the closet's address
   connects to the program's (simultaneous open, RFC 9293 §3.5), which completes its connect.
   Proof: test_a_parked_connection_is_completed_at_once.
4. When the server refuses while the call is held (`HOLD`, `HOLD_BLOCKING`) the call gets the errno.
   Later, the closet goes away, and the refusal comes with the program's next SYN, within a second.
   Proof: test_a_late_refusal_arrives.
5. Silence leaves it parked: the kernel's own time-out ends it.
6. A socket that is not fresh (connecting, connected, listening) is the kernel's to judge.
7. A program that has gone in the meantime leaves the engine a closed connection to deal with.

Tests: test_seccomp.py, test_seccomp_facts.py.
"""

from __future__ import annotations

import ctypes
import errno
import select
import socket
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from pytest_netcapture.redirect.base import Address, Connecting, Sink, StreamOpened, Verdict
from pytest_netcapture.redirect.meeting import FLAGS, ended, is_ready, meet, reusable
from pytest_netcapture.redirect.seccomp_listener import Listener, Notification
from pytest_netcapture.redirect.seccomp_sockets import (
    Sockets,
    is_blocking,
    is_fresh,
    send_timeout,
    unblocked,
)

HOLD = 0.003
HOLD_BLOCKING = 0.9
"""Seconds that a call is kept waiting for an answer: event loops must not notice."""

_FORGET_CLOSET = 140.0
"""Seconds: longer than a kernel tries to connect (tcp_syn_retries)."""

_LOOPBACK: dict[int, str] = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_ERRNO = {Verdict.REFUSE: errno.ECONNREFUSED, Verdict.UNREACHABLE: errno.EHOSTUNREACH}
_libc = ctypes.CDLL(None, use_errno=True)


class Caller(NamedTuple):
    """Who waits: the call, its process, and the place that it belongs to."""

    note: Notification
    process: int
    place: int


class Observer(Protocol):
    """Who wants to know of one connection; `client` is its own address."""

    def asks(self, client: Address) -> None:
        """Learn that the engine is about to be asked."""

    def connects(self, client: Address) -> None:
        """Learn that the program is about to see that it is connected."""


class Door:
    """A listener of ours on loopback, for connections that are accepted at once."""

    def __init__(self, family: int) -> None:
        self._listener = socket.socket(family, FLAGS)
        try:
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._listener.bind((_LOOPBACK[family], 0))
            self._listener.listen(4096)
        except BaseException:
            self._listener.close()
            raise
        self.port: int = self._listener.getsockname()[1]

    def connect(self, theirs: socket.socket, mapped: str) -> socket.socket | None:
        """Connect a program's socket to us and return our end; None if it cannot be."""
        with unblocked(theirs):
            number = theirs.connect_ex((mapped, self.port))
        if number not in {0, errno.EINPROGRESS}:
            return None
        port = theirs.getsockname()[1]
        while is_ready(self._listener, select.POLLIN):
            try:
                ours, client = self._listener.accept()
            except OSError:
                return None
            if client[1] == port:
                ours.setblocking(False)
                return ours
            ours.close()  # of a program that has no business here
        return None

    def close(self) -> None:
        self._listener.close()


class Closet:
    """A listener whose only place is taken: who connects to it stays under way."""

    def __init__(self, family: int) -> None:
        self._family = family
        self._listener = reusable(family)
        self._guest = socket.socket(family, FLAGS)
        try:
            self._listener.bind((_LOOPBACK[family], 0))
            self._listener.listen(0)
            self.address: Address = self._listener.getsockname()[:2]
            self._guest.connect_ex(self.address)
        except BaseException:
            self.close()
            raise

    def open(self, client: Address) -> socket.socket | None:
        """Complete the connect of `client`, and return our end; None if it is not there now."""
        return meet(self.address, client)

    def close(self) -> None:
        """Whoever still is under way is refused at its next attempt."""
        self._listener.close()
        self._guest.close()


class Streams:
    """Deals with `connect` on TCP sockets."""

    def __init__(self, loop: Any, sink: Sink, listener: Listener, sockets: Sockets) -> None:
        self.loop = loop
        self.sink = sink
        self.listener = listener
        self.sockets = sockets
        self.doors: dict[int, Door] = {}
        self.closets: dict[Closet, Any] = {}
        """Each with the timer that ends it."""
        for family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):  # without IPv6 in the kernel, or on loopback
                self.doors[family] = Door(family)

    def connect(
        self, caller: Caller, theirs: socket.socket, server: Address, observer: Observer
    ) -> None:
        """Ask the engine where this goes."""
        family = _family_of(server)
        if not is_fresh(theirs):
            self._leave(caller, theirs)
            return
        if family not in self.doors:
            self.refuse(caller, theirs, errno.ENETUNREACH)
            return
        try:
            attempt = _Attempt(self, caller, theirs, server, observer)
        except OSError as error:  # no port is left, or an IPv6-only socket goes to IPv4
            self.refuse(caller, theirs, error.errno or errno.ENETUNREACH)
            return
        observer.asks(attempt.client)
        attempt.ask()

    def refuse(self, caller: Caller, theirs: socket.socket, number: int) -> None:
        self.listener.fail(caller.note, number)
        self.sockets.release(theirs, unused=True)

    def closet(self, family: int) -> Closet:
        closet = Closet(family)
        self.closets[closet] = self.loop.call_later(_FORGET_CLOSET, self.forget, closet)
        return closet

    def forget(self, closet: Closet) -> None:
        self.closets.pop(closet).cancel()
        closet.close()

    def close(self) -> None:
        for door in self.doors.values():
            door.close()
        for closet in list(self.closets):
            self.forget(closet)

    def _leave(self, caller: Caller, theirs: socket.socket) -> None:
        self.listener.go_on(caller.note)
        self.sockets.release(theirs)


class _Attempt:
    """One connect, from its call until the program's socket is connected, or is not to be."""

    def __init__(
        self,
        streams: Streams,
        caller: Caller,
        theirs: socket.socket,
        server: Address,
        observer: Observer,
    ) -> None:
        self._streams = streams
        self._observer = observer
        self._caller = caller
        self._theirs: socket.socket | None = theirs
        self._family = family = _family_of(server)
        self._server = server
        self._blocking = is_blocking(theirs)
        self._time_limit = send_timeout(theirs) if self._blocking else 0.0
        self._closet: Closet | None = None
        self._answered = False
        loopback = _LOOPBACK[family]
        self._mapped = loopback
        if theirs.family == socket.AF_INET6 and family == socket.AF_INET:
            self._mapped = f"::ffff:{loopback}"
        if theirs.getsockname()[1] == 0:
            theirs.bind((self._mapped, 0))
        name = theirs.getsockname()
        host = name[0].removeprefix("::ffff:") if name[0] not in {"0.0.0.0", "::"} else loopback
        self.client: Address = host, name[1]

    def ask(self) -> None:
        place = self._caller.place
        self._streams.sink.connecting(Connecting(place, self.client, self._server, self.answer))
        if not self._answered:
            self._park()

    def answer(self, verdict: Verdict) -> None:
        if self._answered:
            return
        self._answered = True
        if verdict is Verdict.ACCEPT:
            self._accept()
        elif verdict is Verdict.DROP:
            if self._closet is None:
                self._park()
        else:
            self._refuse(_ERRNO.get(verdict, errno.ECONNREFUSED))

    def _accept(self) -> None:
        self._observer.connects(self.client)
        if self._closet is not None:
            ours = self._closet.open(self.client)
            self._forget_closet()
        else:
            assert self._theirs is not None
            ours = self._streams.doors[self._family].connect(self._theirs, self._mapped)
        opened = StreamOpened(self._caller.place, ours or ended(), self.client, self._server)
        self._streams.sink.stream_opened(opened)
        self._release(connected=True)

    def _refuse(self, number: int) -> None:
        held = self._theirs is not None and self._streams.listener.valid(self._caller.note)
        if held:
            assert self._theirs is not None
            if self._closet is not None:
                _disconnect(self._theirs)
            self._streams.refuse(self._caller, self._theirs, number)
            self._theirs = None
        else:
            self._release()
        self._forget_closet()

    def _forget_closet(self) -> None:
        if self._closet in self._streams.closets:
            self._streams.forget(self._closet)

    def _park(self) -> None:
        assert self._theirs is not None
        self._closet = closet = self._streams.closet(self._family)
        with unblocked(self._theirs):
            self._theirs.connect_ex((self._mapped, closet.address[1]))
        hold = 0.0 if self._answered else HOLD_BLOCKING if self._blocking else HOLD
        self._streams.loop.call_later(self._time_limit or hold, self._release)

    def _release(self, *, connected: bool = False) -> None:
        """Let the program see how far its connect is."""
        if self._theirs is None:
            return
        theirs, self._theirs = self._theirs, None
        listener, note = self._streams.listener, self._caller.note
        if self._blocking and (connected or not self._time_limit):
            listener.go_on(note)  # its socket is connecting or connected: the kernel waits
        else:
            listener.fail(note, errno.EINPROGRESS)
        self._streams.sockets.release(theirs)


def _family_of(server: Address) -> int:
    return socket.AF_INET6 if ":" in server[0] else socket.AF_INET


def _disconnect(sock: socket.socket) -> None:
    """Make a connecting socket a fresh one again (connect(2), AF_UNSPEC)."""
    _libc.connect(sock.fileno(), bytes(16), 16)
    sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
