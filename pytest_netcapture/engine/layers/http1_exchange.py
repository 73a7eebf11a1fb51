"""One HTTP/1 request and its response while they are on the wire.

An `Exchange` fills its `HttpFlow`; it has no effects on the connection.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from pytest_netcapture.engine.layers.http1_framing import (
    Counted,
    Framing,
    request_framing,
    response_framing,
)
from pytest_netcapture.engine.layers.http1_head import (
    RequestHead,
    ResponseHead,
    offers_h2c,
)
from pytest_netcapture.engine.layers.layer import BodySink, Context, Play
from pytest_netcapture.flows import (
    Body,
    FlowError,
    Headers,
    HttpFlow,
    HttpRequest,
    HttpResponse,
    WebSocketFlow,
)

_DEFAULT_PORTS = {"http": 80, "https": 443}


class _Nowhere:
    """Where a request's body goes once its flow is complete."""

    def write(self, data: bytes) -> None: ...

    def mark(self) -> None: ...

    def finish(self, coding: str) -> Body:
        raise AssertionError(coding)


_NOWHERE = _Nowhere()


class Exchange:
    """A flow and what is still to come of it.

    `held` says that the decision waits for the request's body; `raw` then keeps the body as sent,
    unless the recorded body is just that. `continued` says that we sent the 100 Continue, so that
    the server's own must not reach the client; `decision` is an answer that waits for the body.
    """

    __slots__ = (
        "coding_in",
        "coding_out",
        "complete",
        "connection",
        "context",
        "continued",
        "decision",
        "expects",
        "flow",
        "framing_in",
        "framing_out",
        "head",
        "held",
        "interim",
        "raw",
        "received",
        "received_all",
        "switches",
        "tunnels",
        "verbatim",
    )

    def __init__(
        self, context: Context, head: RequestHead, raw_head: bytes, place: tuple[str, int]
    ) -> None:
        special = head.special
        self.context = context
        self.head = raw_head
        self.connection = special.get("connection", "").lower()
        self.coding_in = special.get("content-encoding", "")
        self.coding_out = ""
        self.framing_in = request_framing(head, context.body_sink)
        self.framing_out: Framing | None = None
        self.held = False
        self.complete = False
        self.decision: Play | None = None
        self.raw: BodySink | None = None
        self.verbatim = not self.coding_in and isinstance(self.framing_in, Counted)
        self.expects = special.get("expect", "").lower() == "100-continue"
        self.continued = False
        self.tunnels = head.method == "CONNECT"
        self.switches = self.tunnels or ("upgrade" in special and not offers_h2c(head))
        self.received = 0
        self.received_all = False
        self.interim: list[tuple[int, Headers]] = []
        host, port = place
        request = HttpRequest(
            http_version=head.version,
            headers=Headers(head.fields),
            method=head.method,
            scheme="https" if context.endpoint.tls else "http",
            host=host,
            port=port,
            target=head.target,
        )
        kind = WebSocketFlow if special.get("upgrade", "").lower() == "websocket" else HttpFlow
        self.flow = kind(request=request, host=host, port=port, started=context.now())

    def hold(self) -> None:
        """Keep the body as sent, for it is sent on only once the decision is known."""
        self.held = True
        if self.framing_in is not None and not self.verbatim:
            self.raw = self.context.body_sink()

    def take_body(self, data: bytes, start: int) -> int:
        """Consume the request's body from `start`; return the index after what was ours."""
        assert self.framing_in is not None
        end = self.framing_in.feed(data, start)
        if self.raw is not None:
            self.raw.write(data[start:end])
        return end

    def held_body(self) -> tuple[Body, bool]:
        """Return the body as it was sent, and whether its spool file has no other use; once."""
        self.finish_request()
        if self.raw is None:
            return self.flow.request.body, False
        body = self.raw.finish("")
        self.raw = None
        return body, True

    def finish_request(self) -> None:
        """Move what has come of the request's body into the flow."""
        framing = self.framing_in
        if framing is None or self.received_all:
            return
        self.received_all = True
        self.flow.request.body = framing.sink.finish(self.coding_in)
        framing.sink = _NOWHERE
        if framing.trailers is not None:
            self.flow.request.trailers = framing.trailers

    def answered(self, head: ResponseHead) -> None:
        """Begin the final response."""
        self.coding_out = head.special.get("content-encoding", "")
        request = self.flow.request
        self.framing_out = response_framing(head, request.method, self.context.body_sink)
        self.flow.response = HttpResponse(
            http_version=head.version,
            headers=Headers(head.fields),
            status=head.status,
            reason=head.reason,
            interim=self.interim,
            closes=self.framing_out is not None and self.framing_out.until_close,
        )

    def finish(self, error: FlowError | None = None) -> None:
        """Complete the flow with what has come, whether that is all of it or not."""
        self.complete = True
        if self.raw is not None:
            body, _ = self.held_body()
            if body.path:
                os.unlink(body.path)
        self.finish_request()
        framing = self.framing_out
        response = self.flow.response
        if framing is not None and response is not None:
            self.framing_out = None
            response.body = framing.sink.finish(self.coding_out)
            if framing.trailers is not None:
                response.trailers = framing.trailers
        if error is not None:
            self.flow.error = error
        self.flow.ended = self.context.now()


def spooled(body: Body, *, remove: bool) -> Iterator[bytes]:
    """Yield a body piece by piece; remove its spool file at the end if that has no other use."""
    try:
        yield from body.pieces()
    finally:
        if remove and body.path:
            os.unlink(body.path)


def locate(context: Context, head: RequestHead) -> tuple[str, int]:
    """Return the (host, port) that the request is for (RFC 9112 §3.3)."""
    target = head.target
    if target[0] != "/" and "://" in target:
        authority = target.partition("://")[2].partition("/")[0].partition("?")[0]
    elif head.method == "CONNECT":
        authority = target
    else:
        authority = head.special.get("host", "")
    endpoint = context.endpoint
    default = 443 if endpoint.tls else 80
    return split_authority(authority.rpartition("@")[2], default) or (endpoint.host, endpoint.port)


def split_authority(authority: str, default: int) -> tuple[str, int] | None:
    """Split "host:port" or "[v6]:port"; None when it is neither."""
    if authority.startswith("["):
        host, _, rest = authority[1:].partition("]")
        port_text = rest.removeprefix(":")
    else:
        host, _, port_text = authority.partition(":")
    if not host or (port_text and not (port_text.isascii() and port_text.isdigit())):
        return None
    if len(port_text) > 5:
        return None
    return host.lower(), int(port_text) if port_text else default
