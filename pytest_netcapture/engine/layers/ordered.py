"""Protocols that answer what a client asks in order: a dialect says how to read one.

1. An exchange begins when the client has asked, and is recorded when it is answered, before the
   last of the answer is passed on. Live, bytes pass as they came.
2. A connection is live or played as a whole: its first exchange decides, if no server is there.
3. What is asked and not recorded is answered with an error of the protocol, and fails the test.
4. What cannot be read makes the connection a raw one; what was asked is recorded as malformed.
5. What a server says by itself is given out on replay by notices.py.

A new protocol of this kind is a `Dialect`; redis.py is one. Tests: test_redis.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.engine.layers import notices
from pytest_netcapture.engine.layers.ends import Ends
from pytest_netcapture.engine.layers.layer import Context, Deny, Forward, Play
from pytest_netcapture.flows import FlowError, Origin, ServiceFlow
from pytest_netcapture.unreadable import LIMIT, Unreadable

REFUSAL = "netcapture: no recording answers this"
_LIVE = "asked on a connection that was made live, and this test is on replay"
_PLAYED = "asked on a connection that was on replay, and this test is not"


class Part(Enum):
    """What a piece of the server's is to the exchange that is to be answered first."""

    MORE = "more of its answer"
    LAST = "the end of its answer"
    APART = "not for it"


@dataclass(eq=False)
class Asked:
    """Something that a client asked; `left` answers are to come, none for what is not answered."""

    flow: ServiceFlow
    left: int = 1
    parts: list[bytes] = field(default_factory=list)
    size: int = 0


class Dialect:
    """One connection's protocol: it reads both sides, and remembers what they agreed on."""

    def asked(self, data: bytes) -> Iterator[Asked]:
        """Yield what the client has asked with `data`. Raises `Unreadable`."""
        raise NotImplementedError

    def units(self, data: bytes) -> Iterator[bytes]:
        """Yield the pieces of the server's that `data` completes. Raises `Unreadable`."""
        raise NotImplementedError

    def part(self, unit: bytes, head: Asked | None) -> Part:
        """Tell what a piece is. Raises `Unreadable` when nothing was asked."""
        raise NotImplementedError

    def refusal(self, flow: ServiceFlow, text: str) -> bytes:
        """Return the protocol's error for what is not answered."""
        raise NotImplementedError

    def unrecorded(self, _flow: ServiceFlow) -> bytes | None:
        """Return how to answer on replay what needs no recording; None for what does."""
        return None

    def pause(self, _flow: ServiceFlow) -> float:
        """Return after how many seconds that is said, as a server would that waits for news."""
        return 0.0

    def greeting(self) -> Asked | None:
        """Return what is answered before a client asks: that it has connected."""
        return None

    def told(self, flow: ServiceFlow) -> None:
        """Take note of an answer, live or played."""

    def answer(self, _flow: ServiceFlow, recorded: ServiceFlow) -> bytes:
        """Return a recorded answer as it is to be played on this connection."""
        return recorded.answer

    def apart(self, _unit: bytes) -> ServiceFlow | None:
        """Return an exchange for what the server said by itself; None for what is not kept."""
        return None

    def given(self, recorded: ServiceFlow) -> bytes:
        """Return what the server had said by itself as it is to be given out on this connection."""
        return recorded.answer

    def listens(self, _flow: ServiceFlow) -> list[ServiceFlow]:
        """Return what is waited for after an exchange was answered, to be looked up."""
        return []


class OrderedLayer(Ends):
    """A connection."""

    def __init__(self, context: Context, dialect: Dialect) -> None:
        super().__init__(context)
        self._dialect = dialect
        self._live = context.has_server
        self._begun = self._live
        self._pending: deque[Asked] = deque()
        self._waiting: list[ServiceFlow] = []
        self._out: list[bytes] = []
        self._over = self._paused = False
        self.place = notices.place_of(context)

    def begin(self) -> None:
        """Begin, if it is the server that speaks first."""
        greeting = self._dialect.greeting()
        if greeting is not None:
            self._ask(greeting)
            self._flush()

    # ── the client ───────────────────────────────────────────────────────────────────────────

    def client_data(self, data: bytes) -> None:
        try:
            for asked in self._dialect.asked(data):
                self._ask(asked)
                if self._over:
                    return
        except Unreadable as problem:
            self._unreadable(problem, client_pending=data)
            return
        if self._live:
            self._context.to_server(data)
        self._flush()

    def _ask(self, asked: Asked) -> None:
        context, flow = self._context, asked.flow
        context.begin(flow)
        decision = context.decide(flow)
        if not self._begun:
            self._begun, self._live = True, isinstance(decision, Forward)
            if self._live:
                context.connect()
        if not self._live:
            self._play(flow, decision)
        elif isinstance(decision, Forward):
            notices.asked(context, flow)
            if asked.left:
                self._pending.append(asked)
            else:
                context.record(flow)
        else:
            self._refuse_live(flow, decision)

    def _refuse_live(self, flow: ServiceFlow, decision: object) -> None:
        if not isinstance(decision, Deny):
            self._context.unlike(flow, Miss(MissKind.NEVER, _LIVE))
        self._over = True
        flow.error = FlowError("reset", REFUSAL)
        self._context.record(flow)
        self._context.to_client(self._dialect.refusal(flow, REFUSAL))
        self._abandon(FlowError("reset", REFUSAL))
        self._context.close()

    # ── replay ───────────────────────────────────────────────────────────────────────────────

    def _play(self, flow: ServiceFlow, decision: object) -> None:
        recorded = decision.exchange if isinstance(decision, Play) else None
        ready = None
        if recorded is None or (recorded.error is not None and self._dialect.pause(flow)):
            ready = self._dialect.unrecorded(flow)
        if ready is not None:
            flow.answer, flow.origin = ready, Origin.PLAYED
            self._context.record(flow)
            self._pause(self._dialect.pause(flow))
            self._out.append(ready)
            return
        if not isinstance(decision, Play) or recorded is None:
            if not isinstance(decision, Deny):
                flow.origin = Origin.UNMATCHED
                self._context.unlike(flow, Miss(MissKind.NEVER, _PLAYED))
            self._context.record(flow)
            self._out.append(self._dialect.refusal(flow, f"{REFUSAL}: {flow.asked[:100]}"))
            return
        flow.answer = self._dialect.answer(flow, recorded)
        flow.notes = {**recorded.notes, **flow.notes}
        miss = decision.compare(flow) if decision.compare and flow.sent else None
        if miss is not None:
            flow.origin = Origin.UNMATCHED
            self._context.unlike(flow, miss)
            self._context.record(flow)
            self._out.append(self._dialect.refusal(flow, miss.reason))
            return
        self._context.record(flow)
        self._out.append(flow.answer)
        self._dialect.told(flow)
        if decision.error is not None:
            self._fail(decision.error)
            return
        for wanted in self._dialect.listens(flow):
            self._listen(wanted, flow.scope)
        notices.played(self._context, flow)

    def _fail(self, error: FlowError) -> None:
        """End as the server did."""
        self._flush()
        self._over = True
        if error.kind == "eof":
            self._context.close()
        else:
            self._context.reset()

    def _listen(self, wanted: ServiceFlow, scope: int) -> None:
        """Keep what the server said by itself, to be given out when it is its time."""
        wanted.notes["quiet"], wanted.scope = b"1", scope
        while True:
            decision = self._context.decide(wanted)
            if not isinstance(decision, Play) or decision.exchange is None:
                break
            self._waiting.append(decision.exchange)
        notices.listeners.add(self)

    def notify(self, after: bytes) -> None:
        """Give out what came after the exchange with this digest."""
        due = [one for one in self._waiting if one.notes.get("after") == after]
        for recorded in due:
            self._waiting.remove(recorded)
            unit = self._dialect.given(recorded)
            flow = self._dialect.apart(unit)
            if flow is not None:
                flow.origin = Origin.PLAYED
                self._context.begin(flow)
                self._context.record(flow)
            if self._out or self._paused:
                self._out.append(unit)
            else:
                self._context.to_client(unit)

    def _pause(self, seconds: float) -> None:
        """Let what comes next wait, and all that is said after it."""
        if seconds and not self._paused:
            self._flush()
            self._paused = True
            self._context.after(seconds, self._go_on)

    def _go_on(self) -> None:
        self._paused = False
        self._flush()

    def _flush(self) -> None:
        if self._paused:
            return
        out, self._out = b"".join(self._out), []
        if out:
            self._context.to_client(out)

    # ── the server ───────────────────────────────────────────────────────────────────────────

    def server_data(self, data: bytes) -> None:
        try:
            for unit in self._dialect.units(data):
                self._hear(unit)
        except Unreadable as problem:
            self._unreadable(problem, server_pending=data)
            return
        self._context.to_client(data)

    def _hear(self, unit: bytes) -> None:
        head = self._pending[0] if self._pending else None
        part = self._dialect.part(unit, head)
        if part is Part.APART:
            flow = self._dialect.apart(unit)
            if flow is not None:
                notices.heard(self._context, flow)
            return
        assert head is not None
        head.parts.append(unit)
        head.size += len(unit)
        if head.size > LIMIT:
            raise Unreadable(f"more than {LIMIT} bytes in one exchange")
        if part is Part.LAST:
            head.left -= 1
            if not head.left:
                self._pending.popleft()
                head.flow.answer = b"".join(head.parts)
                self._context.record(head.flow)
                self._dialect.told(head.flow)

    # ── ends ─────────────────────────────────────────────────────────────────────────────────

    def _unreadable(
        self, problem: Unreadable, *, client_pending: bytes = b"", server_pending: bytes = b""
    ) -> None:
        self._abandon(FlowError("malformed", str(problem)))
        self._flush()
        self._context.become_raw(
            str(problem), client_pending=client_pending, server_pending=server_pending
        )

    def _abandon(self, error: FlowError) -> None:
        pending, self._pending = self._pending, deque()
        for asked in pending:
            asked.flow.answer = b"".join(asked.parts)
            asked.flow.error = FlowError(error.kind, error.detail, len(asked.flow.answer))
            self._context.record(asked.flow)

    def client_eof(self) -> None:
        notices.listeners.discard(self)
        if self._live:
            super().client_eof()
        else:
            self._context.close()
