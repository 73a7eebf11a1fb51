"""What a redirector promises: whatever its kind, the engine sees sockets, not packets.

1. `probe` never changes the machine and never raises: it says available, or why not and the cure.
2. A redirector that can gate asks before the client's connect returns; the answer is what the
   client gets (accepted, ECONNREFUSED, silence, EHOSTUNREACH), exactly.
3. `StreamOpened.socket` is a connected, non-blocking kernel socket; bytes written to it reach the
   client as from `original_dst`. It may be one end of a socket pair: then its addresses say
   nothing, and a client's reset shows as an end about which `was_reset` knows more. SO_LINGER 0
   set on the object itself resets the client, as with any other.
4. Callbacks of `Sink` run on the event loop's thread and never block.
5. `detach` and `stop` close every socket that the redirector made for a namespace; nothing stays.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, TypeVar

from pytest_netcapture.redirect.poller import Poller

Address = tuple[str, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Support:
    """What `probe` found. `reason` and `cure` are for people; `notes` are limits when available."""

    name: str
    available: bool
    reason: str = ""
    cure: str = ""
    notes: tuple[str, ...] = ()


class Verdict(IntEnum):
    """What a client's connect gets. REFUSE and DROP are the packet marks that the gate uses."""

    ACCEPT = 0
    REFUSE = 1
    DROP = 2
    UNREACHABLE = 3


class Namespace(Protocol):
    """A network namespace that the engine owns.

    `run` executes a function in a thread that is inside the namespace and returns its result;
    sockets made there stay in it. It blocks the caller, so it is called from worker threads only.
    """

    @property
    def id(self) -> int: ...

    def run(self, function: Callable[[], T]) -> T: ...


class Connecting(NamedTuple):
    """A client's SYN, waiting. `answer` may be called at once or later, on the loop's thread."""

    namespace: int
    client: Address
    original_dst: Address
    answer: Callable[[Verdict], None]


class StreamOpened(NamedTuple):
    """A client's connection, accepted."""

    namespace: int
    socket: socket.socket
    client: Address
    original_dst: Address


def _never_ends(callback: Callable[[], None]) -> None:
    del callback


def _cannot_refuse() -> None:
    pass


@dataclass(frozen=True)
class DatagramFlow:
    """Datagrams from one client socket to one destination.

    `first` is the datagram that opened the flow. `reply` sends one datagram to the client as from
    `original_dst`; the sink's argument to `listen` gets each further one; `close` ends the flow.
    """

    namespace: int
    client: Address
    original_dst: Address
    first: bytes
    reply: Callable[[bytes], None]
    listen: Callable[[Callable[[bytes], None]], None]
    close: Callable[[], None]
    on_end: Callable[[Callable[[], None]], None] = _never_ends
    """Sets what is called when the redirector forgets the flow: idle, or one too many."""

    refuse: Callable[[], None] = _cannot_refuse
    """Tells the client that nobody listens there (ECONNREFUSED) and ends the flow, if it can."""


def was_reset(conn: socket.socket | None) -> bool:
    """Tell whether the end that was read of a `StreamOpened.socket` was a reset (rule 3)."""
    return bool(getattr(conn, "was_reset", False))


class Sink(Protocol):
    """The engine's side."""

    def connecting(self, syn: Connecting) -> None: ...

    def stream_opened(self, stream: StreamOpened) -> None: ...

    def datagram_flow(self, flow: DatagramFlow) -> None: ...

    def left_alone(self, syn: Connecting) -> bool:
        """Tell whether a connection within this machine goes on by itself; then list it.

        Asked by redirectors that do not isolate. `answer` is not to be called.
        """

    def unreadable(self, namespace: int, process: int) -> None:
        """Learn that a program's connection was refused, since it cannot be looked into."""


class Redirector(Protocol):
    """One way in which packets reach the engine."""

    name: str
    gates: bool
    isolates: bool
    """Whether its namespaces are networks of their own, loopback included."""

    def start(self, loop: Any, sink: Sink, poller: Poller) -> None:
        """Remember the loop, the sink, and what watches descriptors. Called once."""

    def attach(self, namespace: Namespace) -> None:
        """Set up capture in `namespace`. Raises `EnvironmentProblem`.

        Blocking: called from a worker thread.
        """

    def watch(self, namespace: Namespace) -> None:
        """Begin to deliver events of an attached namespace. Called on the loop's thread."""

    def drain(self, namespace: Namespace) -> None:
        """Deliver the datagrams that have arrived by now. Called on the loop's thread."""

    def renew(self, namespace: Namespace) -> None:
        """Forget the flows of who had `namespace` so far. Called on the loop's thread."""

    def detach(self, namespace: Namespace) -> None:
        """Close everything made for `namespace`. Called on the loop's thread; idempotent."""

    def stop(self) -> None:
        """Detach everything."""
