"""What the server sends on an HTTP/2 connection, passed on to the client's side.

1. A flow is recorded when its answer is complete, before the bytes that complete it go out.
2. A response that makes no sense ends its stream on both sides.
3. A reset goes out behind what was received before it.
"""

from __future__ import annotations

from pytest_netcapture.engine.layers.http2_channel import Channel, Fields
from pytest_netcapture.engine.layers.http2_exchange import Http2Exchange
from pytest_netcapture.engine.layers.http2_fields import (
    MalformedFields,
    ResponseFields,
    fields_of,
    read_response,
)
from pytest_netcapture.engine.layers.http2_frames import (
    LARGEST_WINDOW,
    Code,
    StreamFailure,
    code_name,
)
from pytest_netcapture.engine.layers.http2_replay import CONTINUE
from pytest_netcapture.engine.layers.http2_sender import Sender
from pytest_netcapture.engine.layers.http2_websocket import Finish, watch, watched
from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.flows import FlowError, Headers, WebSocketFlow


class Answers:
    """The `Handler` of the server's side; `finish` completes an exchange and records it."""

    def __init__(self, context: Context, client: Sender, finish: Finish) -> None:
        self._context = context
        self._client = client
        self._finish = finish

    def opened(self, channel: Channel, fields: Fields, end: bool) -> None:
        """Never called: a server opens streams to push only, which is refused."""

    def headers(self, channel: Channel, fields: Fields, end: bool) -> None:
        exchange: Http2Exchange = channel.owner
        response = exchange.flow.response
        if response is None:
            head = _read(channel, fields)
            if head.status < 200:
                self._interim(channel, head, fields, end)
                return
            exchange.answered(head)
            if isinstance(exchange.flow, WebSocketFlow) and exchange.flow.opened and not end:
                watch(self._context, exchange, self._finish)
        elif end:
            response.trailers = Headers(fields_of(fields))
        else:
            raise StreamFailure(channel.id, Code.PROTOCOL_ERROR, "two responses")
        if end:
            self._finish(exchange, None)
        self._client.send_headers(exchange.down, fields, end=end)

    def _interim(self, channel: Channel, head: ResponseFields, fields: Fields, end: bool) -> None:
        if end:
            raise StreamFailure(channel.id, Code.PROTOCOL_ERROR, "an interim response at the end")
        exchange: Http2Exchange = channel.owner
        exchange.interim.append((head.status, Headers(head.fields)))
        if head.status == CONTINUE and exchange.continued:
            exchange.continued = False
        else:
            self._client.send_headers(exchange.down, fields)

    def data(self, channel: Channel, data: bytes, end: bool) -> None:
        exchange: Http2Exchange = channel.owner
        if exchange.flow.response is None:
            raise StreamFailure(channel.id, Code.PROTOCOL_ERROR, "data before the response")
        exchange.take_answer(data, end=end)
        watched(exchange, data, self._finish, sent=False)
        if end:
            self._finish(exchange, None)
        if exchange.down.ended_out:
            channel.peer.grant(channel, len(data))
        else:
            self._client.send_data(exchange.down, data, end=end)

    def was_reset(self, channel: Channel, code: int, reason: str) -> None:
        exchange: Http2Exchange = channel.owner
        kind, detail = ("malformed", reason) if reason else ("reset", code_name(code))
        self._finish(exchange, FlowError(kind, detail, exchange.received, code))
        self._client.reset_behind(exchange.down, code)

    def went_away(self, last: int, code: int, debug: bytes) -> None:
        """Tell the client so; what it sent so far is looked at, or is reset as refused."""
        self._client.go_away(code, debug, last if last == LARGEST_WINDOW else None)

    def settled(self) -> None:
        """Nothing to do: the layer looks at the settings when it greets the client."""


def _read(channel: Channel, fields: Fields) -> ResponseFields:
    try:
        return read_response(fields)
    except MalformedFields as problem:
        raise StreamFailure(channel.id, Code.PROTOCOL_ERROR, str(problem)) from problem
