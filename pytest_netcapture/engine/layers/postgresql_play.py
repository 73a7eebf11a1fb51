"""A PostgreSQL connection on replay: the engine is the server.

1. The client is let in without a password (AuthenticationOk at once): none is known, and none is
   kept. A client that insists on being asked (`require_auth`, `channel_binding=require`) refuses.
2. What the client says is answered at its next Sync or Flush, so that it is known then whether a
   statement that is prepared is also executed: errors of a statement are kept with its execution.
3. An answer is the recorded messages; around it come the acknowledgements that this client's own
   way of asking calls for.
4. A statement that no recording answers is an error for the client, and fails the test. But a
   ROLLBACK more does not count: pools say it when garbage is collected, in this test or the next.
"""

from __future__ import annotations

import itertools
import re

from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.engine.layers import notices
from pytest_netcapture.engine.layers.layer import Context, Deny, Ignoring, Play
from pytest_netcapture.engine.layers.postgresql_session import (
    Portal,
    Session,
    Statement,
    channel_of,
    query_text,
)
from pytest_netcapture.flows import FlowError, Origin, ServiceFlow, SqlFlow
from pytest_netcapture.postgresql_messages import Splitter, error_response, message, split
from pytest_netcapture.unreadable import Unreadable

_IDLE, _IN_TRANSACTION, _FAILED = b"I", b"T", b"E"
_AUTHENTICATED = message(b"R", bytes(4))
_TIDIES = re.compile(r"(?i)\s*ROLLBACK\s*;?\s*")
_LIVE = "asked on a connection that was on replay, and this test is not"
_REFUSAL = "netcapture: no recording answers this"
_processes = itertools.count(1)


def refuse(context: Context, flow: SqlFlow) -> None:
    """End a connection on which something must not be answered, saying so."""
    flow.error = FlowError("reset", _REFUSAL)
    context.record(flow)
    context.layer = Ignoring()
    context.to_client(error_response(_REFUSAL, severity="FATAL"))
    context.close()


class PlayedPostgresql(Ignoring):
    """Who plays."""

    def __init__(self, context: Context, session: Session) -> None:
        self._context = context
        self._session = session
        self._splitter = Splitter()
        self._batch: list[tuple[bytes, bytes]] = []
        self._out: list[bytes] = []
        self._status = _IDLE
        self._skipping = False
        self._described: dict[int, tuple[SqlFlow, Play | None]] = {}
        """Executions that were looked up when their portal was described."""
        self._copy: tuple[SqlFlow, Play, list[tuple[bytes, bytes]]] | None = None
        self._sent: list[bytes] = []
        self._channels: dict[str, list[ServiceFlow]] = {}
        self._over = False
        self.place = notices.place_of(context)

    def begin(self, flow: SqlFlow, play: Play) -> None:
        """Let the client in, or turn it away as it was."""
        recorded = play.exchange
        assert recorded is not None
        flow.answer = recorded.answer
        self._context.record(flow)
        said = split(recorded.answer)
        self._out += [message(*one) for one in said if one[0] == b"v"]
        refused = any(kind == b"E" for kind, _ in said)
        if not refused and play.error is None:
            self._out.append(_AUTHENTICATED)
        self._out += [message(*one) for one in said if one[0] != b"v"]
        if play.error is not None or refused:
            self._flush()
            self._fail(play.error or FlowError("eof"))
            return
        process = next(_processes)
        self._out.append(message(b"K", process.to_bytes(4, "big") + bytes(4)))
        self._out.append(message(b"Z", _IDLE))
        self._flush()

    # ── what the client says ─────────────────────────────────────────────────────────────────

    def client_data(self, data: bytes) -> None:
        try:
            for kind, content in self._splitter.feed(data):
                if self._over:
                    return
                self._said(kind, content)
        except Unreadable as problem:
            self._over = True
            flow = self._session.flow(self._context, "query", "")
            self._context.begin(flow)
            flow.error = FlowError("malformed", str(problem))
            self._context.unlike(flow, Miss(MissKind.NEVER, str(problem)))
            self._context.record(flow)
            self._context.reset()
            return
        self._flush()

    def _said(self, kind: bytes, content: bytes) -> None:
        if self._copy is not None:
            self._copied(kind, content)
        elif kind == b"Q":
            self._ask(self._session.flow(self._context, "query", query_text(content)))
            self._ready()
        elif kind == b"F":
            self._ask(self._session.function(self._context, content))
            self._ready()
        elif kind == b"X":
            self._over = True
            self._context.close()
        elif kind in b"PBDEC":
            self._batch.append((kind, content))
        elif kind in b"SHdcf":
            self._process()
            if self._copy is not None:
                self._copied(kind, content)
            elif kind == b"S":
                self._ready()
        elif kind != b"p":
            raise Unreadable(f"the client's message {kind!r} is not known")

    def _process(self) -> None:
        batch, self._batch = self._batch, []
        for index, (kind, content) in enumerate(batch):
            if not self._skipping:
                self._step(kind, content, batch[index + 1 :])

    def _step(self, kind: bytes, content: bytes, later: list[tuple[bytes, bytes]]) -> None:
        session = self._session
        if kind == b"P":
            self._parse(session.parse(content), later)
        elif kind == b"B":
            session.bind(content)
            self._out.append(message(b"2"))
        elif kind == b"C":
            session.close(content)
            self._out.append(message(b"3"))
        elif kind == b"D":
            target = session.target(content)
            if isinstance(target, Portal):
                self._describe(target)
            else:
                self._ask(session.flow(self._context, "prepare", target.text))
        else:
            portal = session.executed(content)
            found = self._described.pop(id(portal), None) or self._look_up(portal)
            self._play(*found)

    def _parse(self, statement: Statement, later: list[tuple[bytes, bytes]]) -> None:
        """Acknowledge a statement; if nothing else is said of it, it may have been an error."""
        if not any(kind in b"DE" for kind, _ in later):
            flow = self._session.flow(self._context, "prepare", statement.text)
            self._context.begin(flow)
            play = self._decide(flow, quiet=True)
            if play is not None and play.exchange is not None and b"E" in _kinds(play.exchange):
                self._play(flow, play)
                return
            flow.origin = Origin.PLAYED
            self._context.record(flow)
        self._out.append(message(b"1"))

    def _describe(self, portal: Portal) -> None:
        flow, play = self._look_up(portal)
        recorded = play.exchange if play else None
        if recorded is None or (b"E" in _kinds(recorded) and "columns" not in recorded.notes):
            self._play(flow, play)
            return
        self._described[id(portal)] = flow, play
        columns = recorded.notes.get("columns")
        self._out.append(message(b"T", columns) if columns else message(b"n"))

    def _look_up(self, portal: Portal) -> tuple[SqlFlow, Play | None]:
        flow = self._session.execution(self._context, portal)
        self._context.begin(flow)
        return flow, self._decide(flow)

    def _ask(self, flow: SqlFlow) -> None:
        self._context.begin(flow)
        tidies = _TIDIES.fullmatch(flow.question) is not None
        play = self._decide(flow, quiet=tidies)
        if play is None and tidies:
            self._tidied(flow)
        else:
            self._play(flow, play)

    def _tidied(self, flow: SqlFlow) -> None:
        """Agree to what a pool says when it gets round to a connection that was left."""
        self._status, flow.origin = _IDLE, Origin.PLAYED
        flow.answer = message(b"C", b"ROLLBACK\0")
        self._out.append(flow.answer)
        self._context.record(flow)

    def _decide(self, flow: SqlFlow, *, quiet: bool = False) -> Play | None:
        """Return what is to be played; None for a problem, which has been noted."""
        if quiet:
            flow.notes["quiet"] = b"1"
        decision = self._context.decide(flow)
        if isinstance(decision, Play):
            return decision
        if not isinstance(decision, Deny) and not quiet:
            flow.origin = Origin.UNMATCHED
            self._context.unlike(flow, Miss(MissKind.NEVER, _LIVE))
        return None

    # ── what the server said ─────────────────────────────────────────────────────────────────

    def _play(self, flow: SqlFlow, play: Play | None) -> None:
        recorded = play.exchange if play else None
        if play is None or recorded is None:
            self._refuse(flow)
            return
        said = split(recorded.answer)
        self._status = recorded.notes.get("status", self._status)
        flow.notes = recorded.notes
        self._go_on(flow, play, said)

    def _go_on(self, flow: SqlFlow, play: Play, said: list[tuple[bytes, bytes]]) -> None:
        """Send the answer up to where the client is to send the rows of a COPY."""
        for index, (kind, content) in enumerate(said):
            self._out.append(message(kind, content))
            flow.answer += self._out[-1]
            if kind == b"G":
                self._copy = flow, play, said[index + 1 :]
                return
            self._skipping = self._skipping or kind == b"E"
        self._finish(flow, play)

    def _finish(self, flow: SqlFlow, play: Play) -> None:
        self._context.record(flow)
        if play.error is not None:
            self._flush()
            self._fail(play.error)
            return
        channel = channel_of(flow.question)
        if channel and b"C" in _kinds(flow):
            self._listen(channel, flow.scope)
        notices.played(self._context, flow)

    def _refuse(self, flow: SqlFlow, text: str = _REFUSAL) -> None:
        self._context.record(flow)
        self._out.append(error_response(f"{text}: {flow.question[:200]}"))
        self._skipping = True
        if self._status != _IDLE:
            self._status = _FAILED

    def _copied(self, kind: bytes, content: bytes) -> None:
        assert self._copy is not None
        if kind == b"d":
            self._sent.append(content)
        elif kind in (b"c", b"f"):
            flow, play, left = self._copy
            self._copy = None
            flow.sent, self._sent = b"".join(self._sent), []
            miss = play.compare(flow) if play.compare else None
            if miss is not None:
                flow.origin = Origin.UNMATCHED
                self._context.unlike(flow, miss)
                self._refuse(flow, "netcapture: these rows are not the recorded ones")
            else:
                self._go_on(flow, play, left)
            if flow.step == "query":
                self._ready()

    def _ready(self) -> None:
        if self._copy is None and not self._over:
            self._out.append(message(b"Z", self._status))
            self._skipping = False

    def _flush(self) -> None:
        out, self._out = b"".join(self._out), []
        if out:
            self._context.to_client(out)

    def _fail(self, error: FlowError) -> None:
        """End as the server did."""
        self._over = True
        if error.kind == "eof":
            self._context.close()
        else:
            self._context.reset()

    # ── notifications ────────────────────────────────────────────────────────────────────────

    def _listen(self, channel: str, scope: int) -> None:
        waiting = self._channels.setdefault(channel, [])
        while True:
            flow = self._session.flow(self._context, "notification", channel)
            flow.notes["quiet"], flow.scope = b"1", scope
            decision = self._context.decide(flow)
            if not isinstance(decision, Play) or decision.exchange is None:
                break
            waiting.append(decision.exchange)
        notices.listeners.add(self)

    def notify(self, after: bytes) -> None:
        """Give out what came after the exchange with this digest."""
        for channel, waiting in self._channels.items():
            while waiting and waiting[0].notes.get("after") == after:
                recorded = waiting.pop(0)
                flow = self._session.flow(self._context, "notification", channel)
                flow.answer, flow.origin = recorded.answer, Origin.PLAYED
                self._context.begin(flow)
                self._context.record(flow)
                self._after_answer(recorded.answer)

    def _after_answer(self, data: bytes) -> None:
        """Send what belongs to no answer: after the one that is being put together."""
        if self._out:
            self._out.append(data)
        else:
            self._context.to_client(data)

    # ── ends ─────────────────────────────────────────────────────────────────────────────────

    def client_eof(self) -> None:
        self._over = True
        notices.listeners.discard(self)
        self._context.close()

    def aborted(self, side: str, _error: FlowError) -> None:
        if side == "client":
            self.client_eof()


def _kinds(flow: ServiceFlow) -> bytes:
    return b"".join(kind for kind, _ in split(flow.answer))
