"""What a protocol layer is, and what it may ask of the connection that it runs on.

1. A layer does no I/O. It is told what happened (`client_data`, `server_eof`, ...) and calls
   effects on its `Context`; in the engine that is a live connection, in tests a playbook.
2. Bytes that a layer passes on are the bytes that came in: framing, case and order survive.
3. Record before forward: a layer calls `Context.record` before the `to_client` of the bytes that
   complete the flow.
4. A layer that does not understand what it sees calls `Context.become_raw`: the rest is relayed
   as it is and recorded as bytes; on replay, it begins a recorded conversation of bytes. Nothing is
   broken because we could not read it.
5. `server_*` effects queue until there is an upstream; `Context.connect` asks for one. Where the
   gate has dialled already, it is there from the start.
6. A callback may be called again from within an effect (a played answer, a closed socket); layers
   finish changing their own state before they call effects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, overload

from pytest_netcapture.cassettes.conversation import Conversation
from pytest_netcapture.cassettes.dialogue import Dialogue
from pytest_netcapture.cassettes.miss import Miss
from pytest_netcapture.engine.layers.talk import Growing
from pytest_netcapture.flows import (
    AnyFlow,
    Body,
    FlowError,
    HttpFlow,
    HttpRequest,
    HttpResponse,
    Origin,
    ServiceFlow,
    TcpFlow,
)


@dataclass(slots=True)
class Forward:
    """Send the request to the upstream server."""


@dataclass(slots=True)
class Play:
    """Answer from here with `response`; or, when `error` is set, fail as recorded."""

    response: HttpResponse | None = None
    error: FlowError | None = None
    origin: Origin = Origin.PLAYED
    conversation: Conversation | None = None
    """What follows on a WebSocket."""
    dialogue: Dialogue | None = None
    """Says the answer while the request comes; then there is no `response`."""
    exchange: ServiceFlow | None = None
    """What a database or broker answered."""
    compare: Callable[[ServiceFlow], Miss | None] | None = None
    """Tells how what the client sent when told to go on differs from what was recorded."""
    paced: bool = False
    """Chunks come as slowly as when they were recorded."""


@dataclass(slots=True)
class Deny:
    """Reset the client: the request is blocked or unmatched; the problem is already noted."""

    origin: Origin = Origin.BLOCKED


Decision = Forward | Play | Deny


class Later:
    """A decision that is still to be made: after a while, or by somebody who is asked."""

    __slots__ = ("_decision", "_then")

    def __init__(self) -> None:
        self._decision: Decision | None = None
        self._then: Callable[[Decision], None] | None = None

    def settle(self, decision: Decision) -> None:
        self._decision = decision
        if self._then is not None:
            self._then(decision)

    def then(self, function: Callable[[Decision], None]) -> None:
        """Call `function` with the decision, at once if it has been made."""
        self._then = function
        if self._decision is not None:
            function(self._decision)


class BodySink(Protocol):
    """Where a body that is being received is kept: memory first, a spool file past a window."""

    def write(self, data: bytes) -> None: ...

    def mark(self) -> None:
        """Note that a chunk of the sender's own framing ends here."""

    def finish(self, coding: str) -> Body:
        """Return the body with content coding `coding` removed (kept, when it cannot be)."""


@dataclass
class Endpoint:
    """What is known about the server before a byte of content was read."""

    host: str
    port: int
    tls: bool = False
    alpn: str = ""
    names: tuple[str, ...] = field(default_factory=tuple)


class Context(Protocol):
    """The effects that a layer may have."""

    endpoint: Endpoint
    layer: Layer
    """The layer that is told what happens; assigned when another one takes over."""

    @property
    def has_server(self) -> bool:
        """Tell whether there is an upstream connection, or one being made."""

    def now(self) -> int:
        """Monotonic nanoseconds: time is an argument, so tests choose it."""

    def to_client(self, data: bytes) -> None: ...

    def to_client_stream(self, pieces: Iterable[bytes]) -> None:
        """Write `pieces` in order as fast as the client reads, without holding them in memory."""

    def to_server(self, data: bytes) -> None: ...

    def to_server_stream(self, pieces: Iterable[bytes]) -> None:
        """Write `pieces` as fast as the server reads; run them to the end or close them."""

    def full(self, side: str) -> bool:
        """Tell whether the socket of `side` ("client" or "server") takes no more for now."""

    def when_free(self, side: str, function: Callable[[], None]) -> None:
        """Run `function` when the socket of `side` takes more, at once if it does."""

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        """Run `function` later, unless the connection is over by then."""

    def eof_client(self) -> None:
        """Half-close towards the client (all pending writes first)."""

    def eof_server(self) -> None: ...

    def close(self) -> None:
        """Close both sides, after pending writes."""

    def reset(self) -> None:
        """Reset the client's connection (RST), drop the server's."""

    def connect(self) -> None:
        """Ask for the upstream connection; `server_connected` or `server_failed` follows."""

    def drop_server(self) -> None:
        """Close the upstream connection; a later `connect` makes a new one."""

    def decides_late(self) -> bool:
        """Tell whether `decide` needs the request's body (a cassette or a mock may answer)."""

    @overload
    def decide(self, flow: HttpFlow) -> Decision | Later: ...
    @overload
    def decide(self, flow: ServiceFlow) -> Decision: ...

    def decide_early(self, flow: AnyFlow) -> Decision | None:
        """Decide before the body has come; None when it is the body that decides."""

    def passwords(self) -> Iterable[bytes]:
        """Return the secrets that are known here, for logins in which a server proves itself."""

    def body_sink(self) -> BodySink: ...

    def growing(self) -> Growing:
        """Return where one direction of a conversation is kept as bytes."""

    def begin(self, flow: AnyFlow) -> None:
        """Make `flow` visible to its test before it is complete; gives it id, scope and process."""

    def changed(self) -> None:
        """Tell whoever waits that there is more of a flow that has begun."""

    def unlike(self, flow: AnyFlow, miss: Miss) -> None:
        """Fail the test: what the client said is not what was recorded."""

    def record(self, flow: AnyFlow) -> None:
        """Make `flow`, which is complete, final; put it on the cassette if one records."""

    def unplayed(
        self, reason: str, miss: Miss, held: bytes | None, flow: TcpFlow | None = None
    ) -> None:
        """Go live with a conversation that cannot be played, `held` being all that was said so far.

        Where that cannot be, for `held` is None or the scope does not record, fail the test and
        reset the client. `flow` is the conversation's if it has begun; `reason` is for a new one.
        """

    def passed_on(self, flow: AnyFlow) -> bool:
        """Tell whether the test of `flow` has ended, and what is said now is another one's."""

    def become_raw(
        self, reason: str, *, client_pending: bytes = b"", server_pending: bytes = b""
    ) -> None:
        """Replace the layer by a raw relay; pending bytes were received and not yet passed on."""


class Layer(Protocol):
    """One protocol on one connection."""

    def client_data(self, data: bytes) -> None: ...

    def client_eof(self) -> None: ...

    def server_connected(self) -> None: ...

    def server_failed(self, error: FlowError) -> None: ...

    def server_data(self, data: bytes) -> None: ...

    def server_eof(self) -> None: ...

    def aborted(self, side: str, error: FlowError) -> None:
        """Take note that the connection of `side` ("client" or "server") was reset."""


class Ignoring:
    """A layer that ignores what arrives, on a connection where nothing more can happen.

    Layers with one side only inherit the other one from it.
    """

    def client_data(self, data: bytes) -> None: ...

    def client_eof(self) -> None: ...

    def server_connected(self) -> None: ...

    def server_failed(self, error: FlowError) -> None: ...

    def server_data(self, data: bytes) -> None: ...

    def server_eof(self) -> None: ...

    def aborted(self, side: str, error: FlowError) -> None: ...


__all__ = [
    "AnyFlow",
    "BodySink",
    "Context",
    "Decision",
    "Deny",
    "Endpoint",
    "Forward",
    "HttpRequest",
    "Later",
    "Layer",
    "Play",
]
