"""A recorded conversation of bytes, played: the server's side of it, as `Script` says.

1. What the client says is written down before it is answered, as on a live connection.
2. A client that says something else is reset, and its test fails; unless nothing was answered yet
   and the scope records: then the connection becomes a live one.
3. A connection that outlives its test goes on in the next one that speaks on it, with what is
   recorded there.
4. A client that stops in the middle of something, while the server has more to say, has `PATIENCE`
   seconds to go on: it may wait for an answer that would never come.
"""

from __future__ import annotations

from pytest_netcapture.cassettes.miss import Miss
from pytest_netcapture.cassettes.part import Speech
from pytest_netcapture.cassettes.script import Script
from pytest_netcapture.engine.layers.layer import Context, Ignoring
from pytest_netcapture.engine.layers.talk import Talk
from pytest_netcapture.flows import FlowError, Origin, TcpFlow

PATIENCE = 5.0
_WHOLE = 1 << 18


class RawReplayLayer(Ignoring):
    """Plays one connection; `begin` it once it is the connection's layer."""

    def __init__(self, context: Context, script: Script, reason: str = "") -> None:
        self._context = context
        self._script = script
        self._held = b""
        self._pieces = 0
        self._over = False
        endpoint = context.endpoint
        self.flow = TcpFlow(
            host=endpoint.host,
            port=endpoint.port,
            tls=endpoint.tls,
            reason=reason,
            started=context.now(),
            origin=Origin.PLAYED,
        )
        self._talk: Talk | None = None

    def begin(self) -> None:
        """Let the server speak, if it is to speak first."""
        if self._script.speaks_first:
            self._answer(self._script.begin())

    def client_data(self, data: bytes) -> None:
        if self._over:
            return
        if self._talk is not None and self._context.passed_on(self.flow):
            self._finish(None)
            self._context.become_raw(self.flow.reason, client_pending=data)
            return
        if not self._script.spoke:
            self._held += data
        answer = self._script.heard(data)
        if isinstance(answer, Miss):
            self._unlike(answer)
            return
        talk = self._opened()
        self.flow.sent += len(data)
        talk.said(data, sent=True)
        self._answer(answer)
        self._pieces += 1
        if self._script.stalled and not self._over:
            pieces = self._pieces
            self._context.after(PATIENCE, lambda: self._stopped(pieces))

    def client_eof(self) -> None:
        self._end("fin")

    def aborted(self, side: str, error: FlowError) -> None:  # noqa: ARG002 (a layer's signature)
        self._end("fin" if error.kind == "eof" else "reset")

    def _end(self, how: str) -> None:
        """Take the client's end; the connection ends when the server's side has, too."""
        if self._over:
            return
        if not (self._held or self._script.spoke):  # it only looked whether the port is open
            self._finish(None)
            self._context.close()
            return
        answer = self._script.client_ended()
        if isinstance(answer, Miss):
            self._unlike(answer)
            return
        self._opened().ended(how, sent=True)
        self._answer(answer)
        if not self._over and (self._script.over or how == "reset"):
            self._finish(None)
            self._context.close()

    def _answer(self, answer: Speech | Miss) -> None:
        if isinstance(answer, Miss):
            self._unlike(answer)
            return
        talk, size = self._opened(), 0
        for piece in answer.content():
            size += len(piece)
            talk.said(piece, sent=False)
        self.flow.received += size
        if size > _WHOLE:
            self._context.to_client_stream(answer.content())
        elif size:
            self._context.to_client(b"".join(answer.content()))
        if answer.end:
            self._server_ends(answer.end)

    def _server_ends(self, how: str) -> None:
        self._opened().ended(how, sent=False)
        if how == "reset":
            error = self._script.part.flow.error
            detail = error.detail if error else ""
            self._finish(FlowError("reset", detail, self.flow.received))
            self._context.when_free("client", self._context.reset)
        elif self._script.over:
            self._finish(None)
            self._context.close()
        else:
            self._context.eof_client()

    def _stopped(self, pieces: int) -> None:
        """Give up on a client that has said nothing since."""
        if pieces == self._pieces and not self._over and self._script.stalled:
            self._unlike(self._script.stopped())

    def _unlike(self, miss: Miss) -> None:
        self._over = True
        self._script.finish()
        if self._talk is not None:
            self._talk.finish()
        flow = self.flow if self._talk is not None else None
        held = None if self._script.spoke else self._held
        self._context.unplayed(self.flow.reason, miss, held, flow)

    def _opened(self) -> Talk:
        if self._talk is None:
            context = self._context
            self._talk = Talk(self.flow, context.growing(), context.growing(), context.now)
            context.begin(self.flow)
        return self._talk

    def _finish(self, error: FlowError | None) -> None:
        self._over = True
        self._script.finish()
        if self._talk is not None:
            self._talk.finish()
            self.flow.error = error
            self._context.record(self.flow)
