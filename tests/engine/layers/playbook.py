"""A fake connection whose script reads like the wire.

    play = Playbook(Http1Layer)
    play.client(b"GET / HTTP/1.1\\r\\n\\r\\n").expect_server(b"GET / HTTP/1.1\\r\\n\\r\\n")
    play.server(b"HTTP/1.1 204 \\r\\n\\r\\n").expect_client(b"HTTP/1.1 204 \\r\\n\\r\\n").expect_done()

1. `events` has every effect in order; `expect_*` take what was written since the last look.
2. Writing to the client notes how many flows were recorded by then: `recorded_by`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pytest_netcapture.cassettes.miss import Miss
from pytest_netcapture.engine.bodies import SpoolingBody
from pytest_netcapture.engine.growing import GrowingBody
from pytest_netcapture.engine.layers.layer import BodySink, Decision, Endpoint, Forward, Layer
from pytest_netcapture.engine.layers.raw import RawLayer
from pytest_netcapture.flows import AnyFlow, FlowError, TcpFlow


class Playbook:
    """A `Context` that records, and the hands that move it."""

    def __init__(
        self,
        make: Callable[[Any], Layer],
        *,
        tls: bool = False,
        late: bool = False,
        decide: Callable[[AnyFlow], Decision] = lambda _flow: Forward(),
        early: Callable[[AnyFlow], Decision | None] = lambda _flow: None,
        spool: Path = Path("/nonexistent"),
        window: int = 1 << 20,
        port: int = 80,
        has_server: bool = False,
    ) -> None:
        self.endpoint = Endpoint("192.0.2.7", port, tls=tls)
        self.events: list[tuple[Any, ...]] = []
        self.began: list[AnyFlow] = []
        self.recorded: list[AnyFlow] = []
        self.recorded_by: list[tuple[int, int]] = []
        self.all_client = b""
        self.all_server = b""
        self._client = b""
        self._server = b""
        self._seen = 0
        self._late = late
        self._decide = decide
        self._early = early
        self._spool = str(spool)
        self._window = window
        self._time = 0
        self.raw_reason = ""
        self.known: list[bytes] = []
        """Passwords that are known here."""
        self.has_server = has_server
        self.stuffed: set[str] = set()
        """Sides whose socket is full."""
        self.another_test = False
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.waiting_for_room: list[tuple[str, Callable[[], None]]] = []
        self.layer: Layer = make(self)

    # Hands

    def client(self, data: bytes) -> Playbook:
        self.layer.client_data(data)
        return self

    def server(self, data: bytes) -> Playbook:
        self.layer.server_data(data)
        return self

    def client_eof(self) -> Playbook:
        self.layer.client_eof()
        return self

    def server_eof(self) -> Playbook:
        self.layer.server_eof()
        return self

    def server_reset(self) -> Playbook:
        self.layer.aborted("server", FlowError("reset", "by the server"))
        return self

    def client_reset(self) -> Playbook:
        self.layer.aborted("client", FlowError("reset", "by the client"))
        return self

    def free(self, side: str) -> Playbook:
        """Let the socket of `side` take what was waiting."""
        self.stuffed.discard(side)
        waiting, self.waiting_for_room = self.waiting_for_room, []
        for _, function in waiting:
            function()
        return self

    # Eyes

    def expect_client(self, data: bytes) -> Playbook:
        assert self._client == data
        self._client = b""
        return self

    def expect_server(self, data: bytes) -> Playbook:
        assert self._server == data
        self._server = b""
        return self

    def take_client(self) -> bytes:
        """Return what was written to the client since the last look."""
        data, self._client = self._client, b""
        return data

    def take_server(self) -> bytes:
        data, self._server = self._server, b""
        return data

    def expect(self, *names: str) -> Playbook:
        """Expect these effects, data aside, since the last look."""
        seen = [event[0] for event in self.events[self._seen :]]
        self._seen = len(self.events)
        assert seen == list(names)
        return self

    def expect_recorded(self, count: int) -> Playbook:
        assert len(self.recorded) == count
        return self

    @property
    def names(self) -> list[str]:
        return [event[0] for event in self.events]

    @property
    def flow(self) -> Any:
        """The last recorded flow."""
        return self.recorded[-1]

    # Context

    def now(self) -> int:
        self._time += 1000
        return self._time

    def to_client(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        self._client += data
        self.all_client += data
        self.recorded_by.append((len(self.all_client), len(self.recorded)))

    def to_client_stream(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.to_client(piece)

    def to_server(self, data: bytes) -> None:
        self._server += data
        self.all_server += data

    def to_server_stream(self, pieces: Iterable[bytes]) -> None:
        self.events.append(("to_server_stream",))
        for piece in pieces:
            self.to_server(piece)

    def full(self, side: str) -> bool:
        return side in self.stuffed

    def when_free(self, side: str, function: Callable[[], None]) -> None:
        if side in self.stuffed:
            self.waiting_for_room.append((side, function))
        else:
            function()

    def eof_client(self) -> None:
        self.events.append(("eof_client",))

    def eof_server(self) -> None:
        self.events.append(("eof_server",))

    def close(self) -> None:
        self.events.append(("close",))

    def reset(self) -> None:
        self.events.append(("reset",))

    def connect(self) -> None:
        self.events.append(("connect",))

    def drop_server(self) -> None:
        self.events.append(("drop_server",))

    def decides_late(self) -> bool:
        return self._late

    def decide(self, flow: AnyFlow) -> Decision:
        return self._decide(flow)

    def decide_early(self, flow: AnyFlow) -> Decision | None:
        return self._early(flow)

    def passwords(self) -> Iterable[bytes]:
        return self.known

    def body_sink(self) -> BodySink:
        return SpoolingBody(self._spool, self._window)

    def growing(self) -> GrowingBody:
        return GrowingBody(lambda: self._spool, self._window)

    def unplayed(
        self, reason: str, miss: Miss, held: bytes | None, flow: TcpFlow | None = None
    ) -> None:
        self.events.append(("unplayed", reason, miss, held, flow))

    def passed_on(self, flow: AnyFlow) -> bool:
        return self.another_test

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        self.timers.append((seconds, function))

    def begin(self, flow: AnyFlow) -> None:
        assert not any(flow is each for each in self.began)
        self.began.append(flow)

    def changed(self) -> None:
        self.events.append(("changed",))

    def unlike(self, flow: AnyFlow, miss: Miss) -> None:
        self.events.append(("unlike", flow, miss))

    def record(self, flow: AnyFlow) -> None:
        assert any(flow is each for each in self.began), "recorded before it began"
        assert not any(flow is each for each in self.recorded), "recorded twice"
        self.recorded.append(flow)

    def become_raw(
        self, reason: str, *, client_pending: bytes = b"", server_pending: bytes = b""
    ) -> None:
        self.events.append(("become_raw", reason))
        self.raw_reason = reason
        self.layer = RawLayer(self, reason)
        if client_pending:
            self.layer.client_data(client_pending)
        if server_pending:
            self.layer.server_data(server_pending)


def talk_unchanged(play: Playbook, said: Iterable[tuple[str, Iterable[bytes]]]) -> None:
    """Let sides ("client", "server") talk and end: each has heard the other as it spoke."""
    expected = {"client": play.all_server, "server": play.all_client}
    for side, parts in said:
        for part in parts:
            getattr(play, side)(part)
            expected[side] += part
    play.server_eof()
    play.client_eof()
    assert play.all_server == expected["client"]
    assert play.all_client == expected["server"]
