"""The server's side of an HTTP/1 connection: cut its bytes into the answers that are due.

1. Answers belong to the forwarded requests in their order (RFC 9112 §9.3.2).
2. A flow is recorded as soon as its answer is complete; the caller writes the bytes after that.
3. What cannot be read stays in `Taken.rest`, from the first byte of its head or piece on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from pytest_netcapture.engine.layers.http1_exchange import Exchange
from pytest_netcapture.engine.layers.http1_head import (
    Malformed,
    ResponseHead,
    head_end,
    parse_response,
    skip_blank,
)
from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.flows import Headers, WebSocketFlow

CONTINUE = 100
SWITCHING = 101


@dataclass(slots=True)
class Taken:
    """`out` is for the client; `raw`, if set, says why `rest` and what follows is not HTTP/1."""

    out: bytes
    rest: bytes = b""
    raw: str = ""
    websocket: WebSocketFlow | None = None
    """What it is now instead, if it was switched to one."""


class Answers:
    """The exchanges that wait for the server, and what it has sent of a head so far."""

    def __init__(self, context: Context) -> None:
        self.due: deque[Exchange] = deque()
        self.held = b""
        self._context = context
        self._raw = ""
        self._websocket: WebSocketFlow | None = None

    def take(self, data: bytes) -> Taken:
        """Read as much of `data` as there is."""
        if self.held:
            data = self.held + data
            self.held = b""
        out: list[bytes] = []
        position = 0
        try:
            while position < len(data) and not self._raw:
                end = self._piece(data, position, out)
                if end == position:
                    break
                position = end
        except Malformed as problem:
            self._raw = f"malformed response: {problem}"
        rest = data[position:] if position < len(data) else b""
        joined = out[0] if len(out) == 1 else b"".join(out)
        if self._raw:
            return Taken(joined, rest, self._raw, self._websocket)
        self.held = rest
        return Taken(joined)

    def ended(self) -> None:
        """Complete the answer that the end of the connection completes."""
        framing = self.due[0].framing_out
        if framing is not None and framing.until_close:
            self._complete(self.due[0])

    def _piece(self, data: bytes, start: int, out: list[bytes]) -> int:
        """Take one head, or one piece of a body; return its end."""
        if not self.due:
            self._raw = "the server spoke without being asked"
            return start
        exchange = self.due[0]
        framing = exchange.framing_out
        if framing is None:
            return self._head(exchange, data, start, out)
        end = framing.feed(data, start)
        exchange.received += end - start
        out.append(data[start:end])
        if framing.done:
            self._complete(exchange)
        return end

    def _head(self, exchange: Exchange, data: bytes, start: int, out: list[bytes]) -> int:
        begin = skip_blank(data, start) if data[start] in b"\r\n" else start
        end = head_end(data, begin)
        if end < 0:
            return start
        head = parse_response(data[begin:end])
        exchange.received += end - start
        if head.status < 200 and head.status != SWITCHING:
            self._interim(exchange, head, data[start:end], out)
            return end
        exchange.answered(head)
        framing = exchange.framing_out
        if framing is not None and len(data) > end:
            head_stop, end = end, framing.feed(data, end)
            exchange.received += end - head_stop
        out.append(data[start:end])
        if framing is None or framing.done:
            self._complete(exchange)
            if head.status == SWITCHING or (exchange.tunnels and head.status < 300):
                self._raw = switch_reason(head.fields)
        return end

    def _interim(
        self, exchange: Exchange, head: ResponseHead, data: bytes, out: list[bytes]
    ) -> None:
        exchange.interim.append((head.status, Headers(head.fields)))
        if head.status == CONTINUE and exchange.continued:
            exchange.continued = False
        else:
            out.append(data)

    def _complete(self, exchange: Exchange) -> None:
        self.due.popleft()
        flow = exchange.flow
        if isinstance(flow, WebSocketFlow) and flow.opened:
            self._websocket = flow  # its messages are to come
            return
        exchange.finish()
        self._context.record(flow)


def switch_reason(fields: list[tuple[str, str]]) -> str:
    """Name what a connection was switched to: "upgrade websocket", or "tunnel" after CONNECT."""
    protocol = Headers(fields).get("upgrade")
    return "tunnel" if protocol is None else f"upgrade {protocol}".strip().lower()
