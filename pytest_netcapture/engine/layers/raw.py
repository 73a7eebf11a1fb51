"""A connection whose content is not read: bytes both ways, counted.

1. Nothing is held: what comes in goes out in the same call.
2. The flow begins with the layer and is recorded once: when both sides have ended, or one is reset.
"""

from __future__ import annotations

from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.flows import FlowError, TcpFlow


class RawLayer:
    """A relay; `reason` says why it is not decoded, `sni` names the server of opaque TLS."""

    def __init__(self, context: Context, reason: str = "", *, sni: str = "") -> None:
        self._context = context
        self._client_done = False
        self._server_done = False
        self._over = False
        endpoint = context.endpoint
        self.flow = TcpFlow(
            host=endpoint.host, port=endpoint.port, sni=sni, reason=reason, started=context.now()
        )
        context.begin(self.flow)

    def client_data(self, data: bytes) -> None:
        self.flow.sent += len(data)
        self._context.to_server(data)

    def client_eof(self) -> None:
        if self._client_done:
            return
        self._client_done = True
        if self._server_done:
            self._end()
        else:
            self._context.eof_server()

    def server_connected(self) -> None:
        """Nothing waits for it: what was sent before is queued by the context."""

    def server_failed(self, error: FlowError) -> None:
        self._record(error)
        self._context.reset()

    def server_data(self, data: bytes) -> None:
        self.flow.received += len(data)
        self._context.to_client(data)

    def server_eof(self) -> None:
        if self._server_done:
            return
        self._server_done = True
        if self._client_done:
            self._end()
        else:
            self._context.eof_client()

    def aborted(self, side: str, error: FlowError) -> None:
        self._record(FlowError(error.kind, error.detail, self.flow.received))
        if side == "server":
            self._context.reset()
        else:
            self._context.close()

    def _end(self) -> None:
        self._record(None)
        self._context.close()

    def _record(self, error: FlowError | None) -> None:
        if self._over:
            return
        self._over = True
        self.flow.error = error
        self.flow.ended = self._context.now()
        self._context.record(self.flow)
