"""A live PostgreSQL connection: bytes pass as they came, what they say is noted.

1. Each message of the client is a step that the server answers, in order. After an error it skips
   all up to the next Sync (its manual, "Extended Query").
2. A statement's flow begins with it, and is recorded at the ReadyForQuery after it, before that is
   passed on: only then it is known what it did to the transaction.
3. How a statement was prepared is an exchange if it was described, or not executed with it.
4. What cannot be read makes the connection a raw one; what was noted so far is recorded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.engine.layers import notices
from pytest_netcapture.engine.layers.ends import Ends
from pytest_netcapture.engine.layers.layer import Context, Deny, Forward
from pytest_netcapture.engine.layers.postgresql_play import refuse
from pytest_netcapture.engine.layers.postgresql_session import (
    Portal,
    Session,
    Start,
    Statement,
    query_text,
)
from pytest_netcapture.flows import FlowError, SqlFlow
from pytest_netcapture.postgresql_answers import packed
from pytest_netcapture.postgresql_messages import Content, Splitter, message
from pytest_netcapture.unreadable import LIMIT, Unreadable

_ENDS = {b"P": b"1", b"B": b"2", b"C": b"3", b"D": b"Tn", b"E": b"CIs", b"S": b"Z"}
"""The server's messages that complete a step."""
_PASSING = b"NSA"
_LIVE = "asked on a connection that was made live, and this test is on replay"


@dataclass(eq=False)
class Step:
    """A message of the client that awaits its answer."""

    kind: bytes
    flow: SqlFlow | None = None
    statement: Statement | None = None
    portal: Portal | None = None


class WatchedPostgresql(Ends):
    """Who watches."""

    def __init__(self, context: Context, session: Session) -> None:
        super().__init__(context)
        self._session = session
        self._client, self._server = Splitter(), Splitter()
        self._steps: deque[Step] = deque()
        self._done: list[SqlFlow] = []
        """Flows that are answered, and await the ReadyForQuery."""
        self._prepared: dict[int, tuple[Statement, SqlFlow | None]] = {}
        self._failed = False
        self._copying: SqlFlow | None = None
        self._kept = 0
        self._parts: dict[int, list[bytes]] = {}
        """What of an answer has come, by the flow's id(); joined when it is complete."""
        self._rows: list[bytes] = []

    def begin(self, flow: SqlFlow, start: Start) -> None:
        self._steps.append(Step(b"", flow))
        self._context.to_server(start.packet)

    # ── the client ───────────────────────────────────────────────────────────────────────────

    def client_data(self, data: bytes) -> None:
        try:
            for kind, content in self._client.feed(data):
                self._said(kind, content)
                if self._context.layer is not self:
                    return
        except Unreadable as problem:
            self._give_up(problem)
            self._context.become_raw(str(problem), client_pending=data)
            return
        self._context.to_server(data)

    def _said(self, kind: bytes, content: bytes) -> None:
        if kind == b"d":
            self._keep(len(content))
            self._rows.append(content)
        elif kind in (b"c", b"f"):
            self._sent(kind)
        elif self._copying is not None and kind in (b"S", b"H"):
            pass  # ignored by a server that awaits rows
        elif kind == b"Q":
            flow = self._session.flow(self._context, "query", query_text(content))
            self._ask(Step(kind, flow))
        elif kind == b"F":
            self._ask(Step(kind, self._session.function(self._context, content)))
        elif kind == b"S":
            self._steps.append(Step(kind))
        elif kind == b"P":
            statement = self._session.parse(content)
            self._prepared[id(statement)] = statement, None
            self._add(Step(kind, statement=statement))
        elif kind == b"B":
            self._add(Step(kind, portal=self._session.bind(content)))
        elif kind == b"D":
            self._describe(content)
        elif kind == b"E":
            portal = self._session.executed(content)
            self._prepared.pop(id(portal.statement), None)
            self._ask(Step(kind, self._session.execution(self._context, portal), portal=portal))
        elif kind == b"C":
            self._session.close(content)
            self._add(Step(kind))
        elif kind not in (b"H", b"X", b"p"):
            raise Unreadable(f"the client's message {kind!r} is not known")

    def _describe(self, content: bytes) -> None:
        target = self._session.target(content)
        if isinstance(target, Portal):
            self._add(Step(b"D", portal=target))
            return
        flow = self._session.flow(self._context, "prepare", target.text)
        self._prepared[id(target)] = target, flow
        self._ask(Step(b"D", flow, statement=target))

    def _ask(self, step: Step) -> None:
        """Add a step that is an exchange, if it may be live."""
        if self._skips():
            return
        flow = step.flow
        assert flow is not None
        self._context.begin(flow)
        decision = self._context.decide(flow)
        if not isinstance(decision, Forward):
            if not isinstance(decision, Deny):
                self._context.unlike(flow, Miss(MissKind.NEVER, _LIVE))
            refuse(self._context, flow)
            return
        notices.asked(self._context, flow)
        self._steps.append(step)

    def _add(self, step: Step) -> None:
        if not self._skips():
            self._steps.append(step)

    def _skips(self) -> bool:
        """Tell whether the server skips what comes now, since there was an error."""
        return self._failed and not any(step.kind == b"S" for step in self._steps)

    def _sent(self, kind: bytes) -> None:
        """Take note that all rows of a COPY are sent, maybe before the server has asked."""
        flow, self._copying = self._copying, None
        if flow is None:
            self._steps.append(Step(kind))
        else:
            flow.sent, self._rows = b"".join(self._rows), []

    def _go_on(self, step: Step) -> None:
        """Take note that the server asks for the rows of a COPY."""
        later = list(self._steps)[1:]
        done = next((i for i, one in enumerate(later) if one.kind in (b"c", b"f")), None)
        self._copying = step.flow
        self._steps = deque([step])
        if done is not None:
            self._sent(later[done].kind)
            self._steps += later[done + 1 :]

    # ── the server ───────────────────────────────────────────────────────────────────────────

    def server_data(self, data: bytes) -> None:
        try:
            for kind, content in self._server.feed(data):
                self._heard(kind, content)
        except Unreadable as problem:
            self._give_up(problem)
            self._context.become_raw(str(problem), server_pending=data)
            return
        self._context.to_client(data)

    def _heard(self, kind: bytes, content: bytes) -> None:
        step = self._steps[0] if self._steps else None
        if kind == b"A" and (step is None or step.flow is None):
            notices.heard(self._context, self._session.notification(self._context, content))
        elif kind in (b"N", b"S", b"A"):
            if step is not None:
                self._note(step.flow, kind, content)
        elif step is None:
            _check_unasked(kind)
        elif step.kind == b"":
            self._starting(step, kind, content)
        elif kind == b"Z":
            self._ready(content)
        elif kind == b"E" and step.kind not in (b"Q", b"F"):
            self._error(step, content)
        elif kind == b"W":
            raise Unreadable("a replication stream")
        else:
            self._answer(step, kind, content)

    def _starting(self, step: Step, kind: bytes, content: bytes) -> None:
        flow = step.flow
        assert flow is not None
        if kind not in (b"R", b"K", b"Z"):
            self._note(flow, kind, content)
        if kind in (b"Z", b"E"):
            self._steps.popleft()
            self._record(flow)

    def _answer(self, step: Step, kind: bytes, content: bytes) -> None:
        if step.kind == b"D" and kind == b"T":
            self._columns(step, content)
        elif step.statement is not None and kind == b"t":
            step.statement.types = Content(content).numbers(4)
        if step.kind in (b"Q", b"F", b"E") or (step.statement and step.kind == b"D"):
            self._note(step.flow, kind, content)
        if kind == b"G":
            self._go_on(step)
        if kind in _ENDS.get(step.kind, b"") and kind:
            self._steps.popleft()
            if step.flow is not None:
                self._finish(step)

    def _columns(self, step: Step, content: bytes) -> None:
        if step.portal is not None:
            step.portal.columns = step.portal.statement.columns = content
        elif step.statement is not None:
            step.statement.columns = content

    def _finish(self, step: Step) -> None:
        flow = step.flow
        assert flow is not None
        if step.portal is not None and step.portal.columns:
            flow.notes["columns"] = step.portal.columns
        if flow.step == "prepare" and step.statement is not None and step.statement.types:
            flow.notes["types"] = packed(step.statement.types)
        self._done.append(flow)

    def _error(self, step: Step, content: bytes) -> None:
        """Give an error to the exchange that it is about: this step's, or the next one's."""
        self._copying = None
        if step.kind == b"S":  # what is put off to the end of a transaction has failed
            self._note(self._done[-1] if self._done else None, b"E", content)
            return
        self._failed = True
        skipped = [step]
        self._steps.popleft()
        while self._steps and self._steps[0].kind != b"S":
            skipped.append(self._steps.popleft())
        flows = [one.flow for one in skipped if one.flow is not None]
        if not flows and step.statement is not None:
            flow = self._session.flow(self._context, "prepare", step.statement.text)
            self._context.begin(flow)
            flows = [flow]
            self._prepared.pop(id(step.statement), None)
        if flows:
            self._note(flows[0], b"E", content)
        for flow in flows[1:]:
            flow.notes["skipped"] = b"1"
        self._done += flows

    def _ready(self, content: bytes) -> None:
        if self._steps[0].kind not in (b"S", b"Q", b"F"):
            raise Unreadable("the server is ready before it has answered")
        step = self._steps.popleft()
        if step.flow is not None:
            self._done.append(step.flow)
        self._failed, self._copying = False, None
        while self._steps and self._steps[0].kind in (b"c", b"f"):
            self._steps.popleft()
        if not self._steps:
            self._rows = []
        done, self._done = self._done, []
        if not any(one.kind in (b"P", b"D", b"E") for one in self._steps):
            done += self._only_prepared()
        for flow in done:
            flow.notes["status"] = content
            self._record(flow)

    def _only_prepared(self) -> list[SqlFlow]:
        """Return flows for statements that were neither described nor executed since."""
        prepared, self._prepared = self._prepared, {}
        flows = []
        for statement, described in prepared.values():
            if described is None:
                flow = self._session.flow(self._context, "prepare", statement.text)
                self._context.begin(flow)
                flows.append(flow)
        return flows

    def _note(self, flow: SqlFlow | None, kind: bytes, content: bytes) -> None:
        if flow is not None:
            self._keep(len(content))
            self._parts.setdefault(id(flow), []).append(message(kind, content))

    def _keep(self, size: int) -> None:
        self._kept += size
        if self._kept > LIMIT:
            raise Unreadable(f"more than {LIMIT} bytes in one exchange")

    def _record(self, flow: SqlFlow) -> None:
        self._kept = 0
        flow.answer = b"".join(self._parts.pop(id(flow), []))
        self._context.record(flow)

    # ── ends ─────────────────────────────────────────────────────────────────────────────────

    def _give_up(self, problem: Exception) -> None:
        self._abandon(FlowError("malformed", str(problem)))

    def _abandon(self, error: FlowError) -> None:
        flows = self._done + [step.flow for step in self._steps if step.flow is not None]
        self._steps.clear()
        self._done = []
        for flow in flows:
            after = sum(map(len, self._parts.get(id(flow), [])))
            flow.error = FlowError(error.kind, error.detail, after)
            self._record(flow)


def _check_unasked(kind: bytes) -> None:
    """Accept what the server says by itself, as that it shuts down. Raises `Unreadable`."""
    if kind not in (b"E", b"Z", b"1", b"2", b"3", b"n", b"t", b"T"):
        raise Unreadable(f"the server's message {kind!r} answers nothing")
