"""A connection whose content is not decoded: bytes both ways, written down.

1. Nothing is held: what comes in goes out in the same call.
2. The flow begins with the layer and is recorded once: when both sides have ended, or one is reset.
3. What turns into TLS on the way (STARTTLS) is no longer written down: it cannot be played.
4. A connection that outlives its test (a pool's) is another flow in the next one that speaks on it.
"""

from __future__ import annotations

from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.engine.layers.sniff import begins_tls
from pytest_netcapture.engine.layers.talk import Talk
from pytest_netcapture.flows import FlowError, TcpFlow

CHANGES_TO_TLS = "it changes to TLS in the middle, which is not decoded"


class RawLayer:
    """A relay; `reason` says why it is not decoded, `sni` names the server of opaque TLS."""

    def __init__(
        self,
        context: Context,
        reason: str = "",
        *,
        sni: str = "",
        opaque: bool = False,
        flow: TcpFlow | None = None,
    ) -> None:
        self._context = context
        self._client_done = False
        self._server_done = False
        self._over = False
        self.flow = flow or self._new(reason, sni)
        self._talk = None if opaque else self._new_talk()
        if flow is None:
            context.begin(self.flow)

    def client_data(self, data: bytes) -> None:
        if self._talk is not None and self._context.passed_on(self.flow):
            self._go_on_in_another_test(self._talk)
        if self._talk is not None and begins_tls(data):
            first = not (self.flow.sent or self.flow.received)
            self._forget(self.flow.reason if first else CHANGES_TO_TLS)
        self.flow.sent += len(data)
        if self._talk is not None:
            self._talk.said(data, sent=True)
        self._context.to_server(data)

    def client_eof(self) -> None:
        if self._client_done:
            return
        self._client_done = True
        self._ended("fin", sent=True)
        if self._server_done:
            self._end()
        else:
            self._context.eof_server()

    def server_connected(self) -> None:
        """Nothing waits for it: what was sent before is queued by the context."""

    def server_failed(self, error: FlowError) -> None:
        self._forget(self.flow.reason)
        self._record(error)
        self._context.reset()

    def server_data(self, data: bytes) -> None:
        self.flow.received += len(data)
        if self._talk is not None:
            self._talk.said(data, sent=False)
        self._context.to_client(data)

    def server_eof(self) -> None:
        if self._server_done:
            return
        self._server_done = True
        self._ended("fin", sent=False)
        if self._client_done:
            self._end()
        else:
            self._context.eof_client()

    def aborted(self, side: str, error: FlowError) -> None:
        self._ended("reset" if error.kind == "reset" else "fin", sent=side == "client")
        self._record(FlowError(error.kind, error.detail, self.flow.received))
        if side == "server":
            self._context.reset()
        else:
            self._context.close()

    def _new(self, reason: str, sni: str = "") -> TcpFlow:
        endpoint = self._context.endpoint
        return TcpFlow(
            host=endpoint.host,
            port=endpoint.port,
            sni=sni,
            tls=endpoint.tls,
            reason=reason,
            started=self._context.now(),
        )

    def _new_talk(self) -> Talk:
        context = self._context
        return Talk(self.flow, context.growing(), context.growing(), context.now)

    def _go_on_in_another_test(self, talk: Talk) -> None:
        talk.finish()
        self._context.record(self.flow)
        self.flow = self._new(self.flow.reason)
        self._talk = self._new_talk()
        self._context.begin(self.flow)

    def _end(self) -> None:
        self._record(None)
        self._context.close()

    def _ended(self, how: str, *, sent: bool) -> None:
        if self._talk is not None and not self._over:
            self._talk.ended(how, sent=sent)

    def _forget(self, reason: str) -> None:
        """Keep counts only of what cannot be played."""
        if self._talk is not None:
            self._talk.forget(reason)
            self._talk = None

    def _record(self, error: FlowError | None) -> None:
        if self._over:
            return
        self._over = True
        if self._talk is not None:
            self._talk.finish()
        self.flow.error = error
        self.flow.ended = self._context.now()
        self._context.record(self.flow)
