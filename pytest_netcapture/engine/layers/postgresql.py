"""PostgreSQL's protocol 3, from the client's first packet (its manual, "Message Flow").

1. An exchange is one statement: what the client sent for it, and the server's answer as it came. A
   start-up is one as well, without what the two said to authenticate.
2. A connection is live from beginning to end, or played from beginning to end: a session that was
   not begun cannot be gone on with. What begins it decides.
3. Three layers, one after the other: this one reads the start-up; then one watches, or one plays.
4. TLS is the opener's: an SSLRequest that comes here is one whose server does without, or none is
   there, and is refused as by such a server.

tests/engine/layers/test_postgresql.py has playbooks for each.
"""

from __future__ import annotations

from pytest_netcapture.engine.layers.layer import Context, Deny, Ignoring, Play
from pytest_netcapture.engine.layers.postgresql_play import PlayedPostgresql
from pytest_netcapture.engine.layers.postgresql_session import (
    CANCEL,
    GSS,
    SSL,
    Session,
    Start,
    start_in,
)
from pytest_netcapture.engine.layers.postgresql_watch import WatchedPostgresql
from pytest_netcapture.flows import FlowError, Origin
from pytest_netcapture.postgresql_messages import error_response
from pytest_netcapture.unreadable import Unreadable

_REFUSED = b"N"


class PostgresqlLayer(Ignoring):
    """The start-up, until it is known who is asked for what."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._held = b""
        self._asked = False
        """Whether the server is to say if it encrypts."""

    def client_data(self, data: bytes) -> None:
        self._held += data
        if self._asked:
            return
        try:
            start = start_in(self._held)
        except Unreadable as problem:
            held, self._held = self._held, b""
            self._context.become_raw(str(problem), client_pending=held)
            return
        if start is not None:
            self._held = self._held[len(start.packet) :]
            self._started(start)

    def _started(self, start: Start) -> None:
        context = self._context
        if start.code in (SSL, GSS):
            if context.has_server:
                self._asked = True
                context.to_server(start.packet)
            else:
                context.to_client(_REFUSED)
                self._go_on()
        elif start.code == CANCEL:
            self._cancel(start)
        elif "replication" in start.parameters:
            self._raw("a replication connection", start)
        else:
            self._connect(start)

    def server_data(self, data: bytes) -> None:
        if self._asked and data == _REFUSED:
            self._asked = False
            self._context.to_client(data)
            self._go_on()
            return
        held, self._held = self._held, b""
        reason = "encryption that is not decoded" if self._asked else "the server spoke first"
        self._context.become_raw(reason, client_pending=held, server_pending=data)

    def _go_on(self) -> None:
        if self._held:
            self.client_data(b"")

    def _raw(self, reason: str, start: Start) -> None:
        held, self._held = self._held, b""
        self._context.become_raw(reason, client_pending=start.packet + held)

    def _connect(self, start: Start) -> None:
        context, session = self._context, Session(start)
        flow = session.flow(context, "connect")
        if context.endpoint.tls:
            flow.notes["tls"] = b"1"
        context.begin(flow)
        decision = context.decide(flow)
        held, self._held = self._held, b""
        if isinstance(decision, Deny):
            flow.origin = decision.origin
            flow.error = FlowError("reset", "blocked or unmatched")
            context.record(flow)
            context.layer = Ignoring()
            context.to_client(error_response("refused by netcapture", severity="FATAL"))
            context.close()
        elif isinstance(decision, Play):
            played = PlayedPostgresql(context, session)
            context.layer = played
            played.begin(flow, decision)
            if held:
                context.layer.client_data(held)
        else:
            watched = WatchedPostgresql(context, session)
            context.layer = watched
            if not context.has_server:
                context.connect()
            watched.begin(flow, start)
            if held:
                context.layer.client_data(held)

    def _cancel(self, start: Start) -> None:
        """Pass on a request to cancel; on replay what was cancelled says so by itself."""
        context = self._context
        flow = Session(start).flow(context, "cancel")
        flow.session = ""
        context.begin(flow)
        if not context.has_server:
            flow.origin = Origin.PLAYED
            context.record(flow)
            context.layer = Ignoring()
            context.close()
            return
        context.layer = WatchedCancel(context)
        context.record(flow)
        context.to_server(start.packet)

    def client_eof(self) -> None:
        if self._context.has_server:
            self._context.become_raw("the client ended in the start-up", client_pending=self._held)
            self._context.layer.client_eof()
        else:
            self._context.close()

    def server_eof(self) -> None:
        self._context.become_raw("the server ended in the start-up", client_pending=self._held)
        self._context.layer.server_eof()

    def server_failed(self, error: FlowError) -> None:
        self.aborted("server", error)

    def aborted(self, side: str, _error: FlowError) -> None:
        if side == "server":
            self._context.reset()
        else:
            self._context.close()


class WatchedCancel(Ignoring):
    """A request to cancel under way: the server answers by hanging up."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def server_data(self, data: bytes) -> None:
        self._context.to_client(data)

    def server_eof(self) -> None:
        self._context.close()

    def client_eof(self) -> None:
        self._context.eof_server()

    def aborted(self, _side: str, _error: FlowError) -> None:
        self._context.reset()
