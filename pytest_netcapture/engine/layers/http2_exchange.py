"""One HTTP/2 request and its response while they are on the wire.

An `Http2Exchange` fills its `HttpFlow`; it has no effects on the connections.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_netcapture.cassettes.dialogue import Dialogue
from pytest_netcapture.engine.layers.http1_exchange import split_authority
from pytest_netcapture.engine.layers.http2_channel import Channel, Fields
from pytest_netcapture.engine.layers.http2_fields import RequestFields, ResponseFields
from pytest_netcapture.engine.layers.layer import BodySink, Context, Play
from pytest_netcapture.engine.layers.websocket_frames import Tap
from pytest_netcapture.flows import (
    Body,
    FlowError,
    GrpcFlow,
    Headers,
    HttpFlow,
    HttpRequest,
    HttpResponse,
    WebSocketFlow,
    is_grpc,
)

if TYPE_CHECKING:
    from pytest_netcapture.engine.layers.http2_websocket import PlayedStream

_AT_ONCE = 1 << 14


class Content:
    """A body that is being received; a small one that comes at once needs no sink of its own.

    `length` is the declared one. Without it the boundaries of DATA frames are kept, for then they
    may mean something: events, messages of an RPC.
    """

    __slots__ = ("_data", "_length", "_open_sink", "_sink", "size")

    def __init__(self, open_sink: Callable[[], BodySink], length: int | None) -> None:
        self._open_sink = open_sink
        self._length = length
        self._sink: BodySink | None = None
        self._data = b""
        self.size = 0

    def write(self, data: bytes, *, end: bool) -> None:
        self.size += len(data)
        if self._sink is None:
            whole = self.size == len(data) <= _AT_ONCE and (end or self.size == self._length)
            if whole or not data:
                self._data = self._data or data
                return
            self._open()
        assert self._sink is not None
        self._sink.write(data)
        if self._length is None:
            self._sink.mark()

    def _open(self) -> BodySink:
        self._sink = self._open_sink()
        self._sink.write(self._data)
        return self._sink

    def finish(self, coding: str) -> Body:
        if self._sink is None:
            if not coding:
                return Body(len(self._data), self._data)
            self._open()
        assert self._sink is not None
        return self._sink.finish(coding)


class Http2Exchange:
    """A flow, its two channels, and what is still to come.

    `held` says that the decision waits for the request's body; `raw` then keeps the body as sent,
    unless the recorded body is just that. `continued` says that we sent the 100 Continue, so that
    the server's own must not reach the client; `decision` is an answer that waits for the body.
    `received` counts the bytes of the answer.
    """

    __slots__ = (
        "_context",
        "_expected",
        "coding_in",
        "coding_out",
        "complete",
        "continued",
        "decision",
        "dialogue",
        "down",
        "expects",
        "fields",
        "flow",
        "held",
        "interim",
        "moments",
        "played",
        "raw",
        "received",
        "request",
        "request_done",
        "response",
        "tap",
        "trailers",
        "up",
    )

    def __init__(
        self, context: Context, head: RequestFields, raw: Fields, down: Channel, *, end: bool
    ) -> None:
        special = head.special
        length = _length(special.get(b"content-length"))
        self._context = context
        self._expected = length
        self.down = down
        self.up: Channel | None = None
        self.fields = raw
        self.trailers: Fields | None = None
        self.coding_in = special.get(b"content-encoding", "")
        self.coding_out = ""
        self.held = self.continued = self.complete = False
        self.decision: Play | None = None
        self.dialogue: Dialogue | None = None
        self.played: PlayedStream | None = None
        self.tap: Tap | None = None
        """Reads what is said on a WebSocket, which is no body then."""
        # How much of the request had come at each step of the answer (`HttpResponse.after`).
        self.moments: list[int] = []
        self.expects = special.get(b"expect", "").lower() == "100-continue"
        self.request = Content(context.body_sink, length)
        self.raw: Content | None = None
        self.request_done = end
        self.response: Content | None = None
        self.received = 0
        self.interim: list[tuple[int, Headers]] = []
        scheme = head.scheme or ("https" if context.endpoint.tls else "http")
        endpoint = context.endpoint
        place = split_authority(head.authority.rpartition("@")[2], 443 if scheme == "https" else 80)
        host, port = place or (endpoint.host, endpoint.port)
        request = HttpRequest(
            http_version=down.peer.version,
            headers=Headers(head.fields),
            method=head.method,
            scheme=scheme,
            host=host,
            port=port,
            target=head.target,
        )
        kind = WebSocketFlow if head.protocol == "websocket" else HttpFlow
        kind = GrpcFlow if is_grpc(request.headers) else kind
        self.flow = kind(request=request, host=host, port=port, started=context.now())

    def hold(self) -> None:
        """Keep the body as sent, for it is sent on only once the decision is known."""
        self.held = True
        if self.coding_in:
            self.raw = Content(self._context.body_sink, self._expected)

    def take_body(self, data: bytes, *, end: bool) -> bool:
        """Take a piece of the request's body; False when it is not as long as declared."""
        if self.tap is not None:
            return True
        self.request.write(data, end=end)
        if self.raw is not None:
            self.raw.write(data, end=end)
        expected = self._expected
        return expected is None or (
            self.request.size == expected if end else self.request.size <= expected
        )

    def held_body(self) -> tuple[Body, bool]:
        """Return the body as it was sent, and whether its spool file has no other use; once."""
        if self.raw is None:
            return self.flow.request.body, False
        body = self.raw.finish("")
        self.raw = None
        return body, True

    def finish_request(self) -> None:
        """Move what has come of the request's body into the flow."""
        self.request_done = True
        if self.request.size:
            self.flow.request.body = self.request.finish(self.coding_in)

    def answered(self, head: ResponseFields) -> None:
        """Begin the final response."""
        self.coding_out = head.special.get(b"content-encoding", "")
        length = _length(head.special.get(b"content-length"))
        self._note_moment()
        self.response = Content(self._context.body_sink, length)
        self.flow.response = HttpResponse(
            http_version=self.down.peer.version,
            headers=Headers(head.fields),
            status=head.status,
            interim=self.interim,
        )

    def take_answer(self, data: bytes, *, end: bool) -> None:
        self.received += len(data)
        if data:
            self._note_moment()
        if self.response is not None and not self.complete and self.tap is None:
            self.response.write(data, end=end)

    def _note_moment(self) -> None:
        self.moments.append(self.request.size + self.request_done)

    def _after(self, body: Body) -> list[int]:
        """Return `moments` if the answer began early, and they can be told for each chunk."""
        moments = self.moments
        if self.coding_in or body.coding or moments[0] > self.request.size:
            return []
        pieces = len(body.chunks) or min(1, body.size)
        if pieces == 1:
            return [moments[0], moments[-2], moments[-1]]
        return moments if len(moments) == pieces + 2 else []

    def finish(self, error: FlowError | None = None) -> None:
        """Complete the flow with what has come, whether that is all of it or not."""
        self.complete = True
        self._note_moment()
        if self.raw is not None:
            body, _ = self.held_body()
            if body.path:
                os.unlink(body.path)
        if not self.request_done:
            self.finish_request()
        if self.response is not None and self.flow.response is not None:
            if self.response.size:
                self.flow.response.body = self.response.finish(self.coding_out)
            self.flow.response.after = self._after(self.flow.response.body)
        self.response = None
        if error is not None:
            self.flow.error = error
        self.flow.ended = self._context.now()


def _length(value: str | None) -> int | None:
    """Read Content-Length; one that is no number means nothing (RFC 9113 §8.1.1 is for servers)."""
    if value is None or not (value.isascii() and value.isdigit()) or len(value) > 18:
        return None
    return int(value)
