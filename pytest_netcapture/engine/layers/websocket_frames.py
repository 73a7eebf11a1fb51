"""Read the messages of a WebSocket, and write those of a played one (RFC 6455, RFC 7692).

1. Live, a `Tap` watches both directions; the bytes themselves pass unchanged.
2. On replay a `Player` is the server: it answers pings itself, and closes as the server did.
3. Messages are bounded (`unreadable.LIMIT`): a longer conversation is not kept.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_netcapture.cassettes.conversation import Conversation
from pytest_netcapture.cassettes.miss import Miss
from pytest_netcapture.engine.layers.played_body import NANOSECONDS, pause
from pytest_netcapture.flows import FlowError, WebSocketFlow, WebSocketMessage

NO_CODE = 1005


class Tap:
    """Watches a live conversation and puts its messages into the flow."""

    def __init__(self, flow: WebSocketFlow, now: Callable[[], int]) -> None:
        from pytest_netcapture.engine.layers.websocket_reader import Reader

        extensions = agreed(flow)
        self._flow = flow
        self._now = now
        self._readers = {sent: Reader(extensions, sent=sent) for sent in (True, False)}

    def feed(self, data: bytes, *, sent: bool) -> bool:
        """Take what one side said; tell whether a message was completed. Raises `Unreadable`."""
        before = len(self._flow.messages)
        for message in self._readers[sent].feed(data):
            message.time = self._now()
            self._flow.messages.append(message)
        return len(self._flow.messages) > before

    @property
    def over(self) -> bool:
        """Tell whether both sides have closed (RFC 6455 §7.1.4)."""
        return all(reader.closed for reader in self._readers.values())


class Player:
    """Speaks for the server. `miss` says how the client differs; `ended`, that all was said.

    What it says comes in pieces; with `paced` there is a `Pause` where the server took its time.
    """

    def __init__(
        self,
        flow: WebSocketFlow,
        conversation: Conversation,
        now: Callable[[], int],
        *,
        paced: bool = False,
    ) -> None:
        from pytest_netcapture.engine.layers.websocket_reader import Reader

        self._paced = paced
        self._flow = flow
        self._conversation = conversation
        self._now = now
        self._reader = Reader(agreed(flow), sent=True)
        self._closing = False
        self.miss: Miss | None = None
        self.ended = False
        self.error: FlowError | None = None
        """How the server ended it, when not with a close."""

    def begin(self) -> list[bytes]:
        """Return what the server says first."""
        return self._speak()

    def feed(self, data: bytes) -> list[bytes]:
        """Take what the client says; return the answer. Raises `Unreadable`."""
        out: list[bytes] = []
        for message in self._reader.feed(data):
            message.time = self._now()
            self._flow.messages.append(message)
            out += self._answer(message)
            if self.miss or self.ended:
                break
        return out

    def _answer(self, message: WebSocketMessage) -> list[bytes]:
        if message.kind == "ping":
            return [bytes(self._reader.frames.pong(message.data))]
        if message.kind == "close":
            self.ended = True
            if self._closing:
                return []
            echo = WebSocketMessage(sent=False, kind="close", code=message.code)
            return [self._write(self._conversation.closed() or echo)]
        if message.kind == "pong" or self._closing:
            return []
        self.miss = self._conversation.said(message)
        return [] if self.miss else self._speak()

    def _speak(self) -> list[bytes]:
        out: list[bytes] = []
        for message in self._conversation.due():
            steps = self._conversation.wait(message) // NANOSECONDS if self._paced else 0
            out += [pause(steps)] if steps else []
            out.append(self._write(message))
        if self._conversation.over and self._conversation.error and not self._closing:
            self.ended, self.error = True, self._conversation.error
        return out

    def _write(self, message: WebSocketMessage) -> bytes:
        self._flow.messages.append(
            WebSocketMessage(
                sent=False,
                kind=message.kind,
                data=message.data,
                code=message.code,
                time=self._now(),
            )
        )
        frames = self._reader.frames
        if message.kind == "close":
            self._closing = True
            code = None if message.code in (0, NO_CODE) else message.code
            return bytes(frames.close(code, message.text if code else None))
        if message.kind == "ping":
            return bytes(frames.ping(message.data))
        return bytes(frames.send_data(message.text if message.kind == "text" else message.data))


def agreed(flow: WebSocketFlow) -> str:
    """Return the extensions that were offered and agreed on (RFC 6455 §9.1)."""
    name = "sec-websocket-extensions"
    if flow.response is None or name not in flow.request.headers:
        return ""
    return flow.response.headers.get(name) or ""
