"""A real HTTP/2 implementation (the h2 library) on both sides of the layer, bytes moved by hand.

talk = Conversation()
talk.request()                      # the client asks; everything moves until it is quiet
talk.answer(1, body=b"hi")          # so does the server, on its own stream 1
assert talk.seen(1) == ("200", b"hi", "ended")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events as ev
import h2.settings
from hyperframe.frame import Frame
from playbook import Playbook

from pytest_netcapture.engine.layers.http2 import Http2Layer

GET = [(":method", "GET"), (":scheme", "https"), (":authority", "example.com"), (":path", "/a?b=1")]
POST = [(":method", "POST"), *GET[1:]]


class Side:
    """One h2 connection and what it has seen, by stream."""

    def __init__(self, *, client: bool, settings: dict[int, int] | None = None) -> None:
        config = h2.config.H2Configuration(
            client_side=client,
            header_encoding="latin-1",
            validate_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        values = {number: self.h2.local_settings[number] for number in self.h2.local_settings}
        self.h2.local_settings = h2.settings.Settings(client, {**values, **(settings or {})})
        self.events: list[ev.Event] = []
        self.reads = True
        """Whether what was received is acknowledged, so that the window opens again."""

    def of(self, stream: int) -> list[ev.Event]:
        return [e for e in self.events if getattr(e, "stream_id", None) == stream]

    def body(self, stream: int) -> bytes:
        return b"".join(e.data for e in self.of(stream) if isinstance(e, ev.DataReceived))

    def frames(self, stream: int) -> list[bytes]:
        return [e.data for e in self.of(stream) if isinstance(e, ev.DataReceived)]

    def fields(self, stream: int, kind: type = ev.ResponseReceived) -> list[tuple[str, str]]:
        (found,) = [e for e in self.of(stream) if isinstance(e, kind)]
        return [tuple(pair) for pair in found.headers]

    def end(self, stream: int) -> Any:
        """Return "ended", the error code of a reset, or None."""
        resets = [e for e in self.of(stream) if isinstance(e, ev.StreamReset)]
        if resets:
            return int(resets[0].error_code)
        return "ended" if any(isinstance(e, ev.StreamEnded) for e in self.of(stream)) else None

    def of_kind(self, kind: type) -> list[Any]:
        return [e for e in self.events if isinstance(e, kind)]

    def take(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self.events.append(event)
            if self.reads and isinstance(event, ev.DataReceived) and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)


def frames_of(data: bytes) -> list[Frame]:
    """Cut what was written into frames."""
    out = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        out.append(frame)
        data = data[9 + length :]
    return out


class Conversation:
    """A client, the layer, a server; `cut` moves so many bytes at a time."""

    def __init__(
        self,
        *,
        cut: int = 1 << 20,
        server_settings: dict[int, int] | None = None,
        client_settings: dict[int, int] | None = None,
        **options: Any,
    ) -> None:
        options.setdefault("tls", True)
        options.setdefault("port", 443)
        options.setdefault("window", 1 << 24)
        self.play = Playbook(Http2Layer, **options)
        self.cut = cut
        self.client = Side(client=True, settings=client_settings)
        self.server = Side(client=False, settings=server_settings)
        self.client.h2.initiate_connection()
        self._greeted = False
        self.move()

    def move(self) -> None:
        """Move bytes until nobody has any more to say."""
        moved = True
        while moved:
            moved = self._step(self.client.h2.data_to_send(), self.play.layer.client_data)
            moved |= self._step(self.play.take_server(), self._to_server)
            moved |= self._step(self.server.h2.data_to_send(), self.play.layer.server_data)
            moved |= self._step(self.play.take_client(), self.client.take)

    def _step(self, data: bytes, to: Callable[[bytes], None]) -> bool:
        for start in range(0, len(data), self.cut):
            to(data[start : start + self.cut])
        return bool(data)

    def _to_server(self, data: bytes) -> None:
        if not self._greeted:
            self._greeted = True
            self.server.h2.initiate_connection()
        self.server.take(data)

    def request(
        self,
        headers: list[tuple[str, str]] | None = None,
        body: bytes | None = None,
        *,
        end: bool = True,
    ) -> int:
        """Send a request; return its number on the client's side."""
        stream = self.client.h2.get_next_available_stream_id()
        fields = headers or (GET if body is None else POST)
        self.client.h2.send_headers(stream, fields, end_stream=end and body is None)
        if body is not None:
            self.send(self.client, stream, body, end=end)
        self.move()
        return stream

    def answer(
        self,
        stream: int,
        *,
        status: int = 200,
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes = b"",
        end: bool = True,
    ) -> None:
        """Let the server answer on `stream`, its own number."""
        fields = [(":status", str(status)), *headers]
        self.server.h2.send_headers(stream, fields, end_stream=end and not body)
        if body:
            self.send(self.server, stream, body, end=end)
        self.move()

    def send(self, side: Side, stream: int, body: bytes, *, end: bool = True) -> None:
        """Send all of `body`, as the window opens."""
        while body:
            room = min(
                side.h2.local_flow_control_window(stream),
                side.h2.max_outbound_frame_size,
                len(body),
            )
            if room <= 0:
                self.move()
                assert side.h2.local_flow_control_window(stream) > 0, "the window stays closed"
                continue
            side.h2.send_data(stream, body[:room], end_stream=end and room == len(body))
            body = body[room:]
        self.move()

    def seen(self, stream: int) -> tuple[str, bytes, Any]:
        """Return status, body and end of an answer as the client got them."""
        return (
            dict(self.client.fields(stream))[":status"],
            self.client.body(stream),
            self.client.end(stream),
        )
