"""What the WebSocket layers do after the 101; wsproto is the client and the server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import Playbook
from wsproto import ConnectionType, WSConnection
from wsproto import events as ev
from wsproto.extensions import PerMessageDeflate

from pytest_netcapture.cassettes.conversation import Conversation
from pytest_netcapture.engine.layers.http1 import Http1Layer
from pytest_netcapture.engine.layers.layer import Forward, Play
from pytest_netcapture.flows import FlowError, WebSocketFlow, WebSocketMessage


def message(kind: str, data: bytes = b"", code: int = 0, *, sent: bool = False) -> WebSocketMessage:
    return WebSocketMessage(sent=sent, kind=kind, data=data, code=code)


def said(flow: WebSocketFlow) -> list[tuple[str, str, bytes]]:
    return [(">" if m.sent else "<", m.kind, m.data) for m in flow.messages]


class Talk:
    """A client and a server with the layer between them, just after the handshake."""

    def __init__(
        self, *, deflate: bool = False, conversation: Conversation | None = None, cut: int = 1 << 20
    ) -> None:
        self.cut = cut
        self.client = WSConnection(ConnectionType.CLIENT)
        self.server = WSConnection(ConnectionType.SERVER)
        self.heard: list[Any] = []
        self.arrived: list[Any] = []
        extensions = [PerMessageDeflate()] if deflate else []
        hello = self.client.send(ev.Request(host="a", target="/ws", extensions=extensions))
        self.server.receive_data(hello)
        list(self.server.events())
        welcome = self.server.send(ev.AcceptConnection(extensions=[PerMessageDeflate()]))
        recorded = Playbook(Http1Layer).client(hello).server(welcome)
        self.handshake: WebSocketFlow = recorded.began[0]  # type: ignore[assignment]

        def decide(_flow: Any) -> Any:
            if conversation is None:
                return Forward()
            return Play(self.handshake.response, conversation=conversation)

        self.play = Playbook(Http1Layer, late=conversation is not None, decide=decide)
        self.play.client(hello)
        if conversation is None:
            self.play.server(welcome)
            self.play.take_server()
        self._to_client(self.play.take_client())

    @property
    def flow(self) -> WebSocketFlow:
        return self.play.began[0]  # type: ignore[return-value]

    def say(self, event: Any) -> None:
        """Let the client say something."""
        self._cut(self.client.send(event), self.play.client)
        self.server.receive_data(self.play.take_server())
        self.arrived += list(self.server.events())
        self._to_client(self.play.take_client())

    def answer(self, event: Any) -> None:
        """Let the server say something."""
        for piece in self._pieces(self.server.send(event)):
            self.play.server(piece)
        self._to_client(self.play.take_client())

    def _pieces(self, data: bytes) -> list[bytes]:
        return [data[i : i + self.cut] for i in range(0, len(data), self.cut)]

    def _cut(self, data: bytes, to: Any) -> None:
        for piece in self._pieces(data):
            to(piece)

    def _to_client(self, data: bytes) -> None:
        if data:
            self.client.receive_data(data)
            self.heard += list(self.client.events())

    def texts(self) -> list[Any]:
        return [e.data for e in self.heard if isinstance(e, ev.Message)]


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
def test_messages_are_seen_in_both_directions_and_pass(deflate: bool, cut: int) -> None:
    talk = Talk(deflate=deflate, cut=cut)
    talk.say(ev.TextMessage("hello"))
    talk.say(ev.BytesMessage(b"\0\1" * 100, message_finished=False))
    talk.say(ev.Ping(b"p"))
    talk.say(ev.BytesMessage(b"\2"))
    talk.answer(ev.TextMessage("welcome"))
    assert "".join(e.data for e in talk.arrived if isinstance(e, ev.TextMessage)) == "hello"
    assert talk.texts() == ["welcome"]
    assert said(talk.flow) == [
        (">", "text", b"hello"),
        (">", "ping", b"p"),
        (">", "binary", b"\0\1" * 100 + b"\2"),
        ("<", "text", b"welcome"),
    ]
    talk.play.expect_recorded(0)


def test_it_is_recorded_before_the_second_close_arrives() -> None:
    talk = Talk()
    talk.say(ev.CloseConnection(1000, "bye"))
    talk.play.expect_recorded(0)
    data = talk.server.send(talk.arrived[-1].response())
    talk.play.server(data)
    size = len(talk.play.all_client)
    assert [n for at, n in talk.play.recorded_by if at == size] == [1]
    assert talk.flow.error is None
    assert talk.flow.close_code == 1000
    assert said(talk.flow) == [(">", "close", b"bye"), ("<", "close", b"bye")]
    talk.play.server_eof().client_eof()
    assert talk.play.names[-1] == "close"
    talk.play.expect_recorded(1)


@pytest.mark.parametrize("end", ["client_eof", "server_eof", "client_reset", "server_reset"])
def test_an_end_without_close_is_noted(end: str) -> None:
    talk = Talk()
    getattr(talk.play, end)()
    assert talk.flow.error is not None
    assert talk.flow.error.kind == ("eof" if end.endswith("eof") else "reset")
    talk.play.expect_recorded(1)


def test_what_is_no_frame_is_relayed() -> None:
    talk = Talk()
    talk.play.client(b"\xff" * 10).expect_server(b"\xff" * 10)
    talk.play.server(b"anything").expect_client(b"anything")
    assert talk.flow.error is not None
    assert talk.flow.error.kind == "malformed"
    assert "not a WebSocket frame" in talk.play.raw_reason


def test_a_refused_handshake_is_an_exchange() -> None:
    play = Playbook(Http1Layer)
    play.client(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    play.server(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
    play.expect_recorded(1)
    assert not play.flow.opened


RECORDED = [
    message("text", b"hello"),
    message("text", b'{"ask": 1, "n": "x"}', sent=True),
    message("pong", b"", sent=True),
    message("text", b"answer"),
    message("binary", b"\1\2"),
    message("binary", b"\3", sent=True),
    message("close", b"done", 1001),
    message("close", b"done", 1001, sent=True),
]


def played(
    messages: list[WebSocketMessage] = RECORDED, error: FlowError | None = None, **options: Any
) -> Talk:
    flow = Talk().flow
    flow.messages, flow.error = messages, error
    return Talk(conversation=Conversation(flow, lambda m: m), **options)


@pytest.mark.parametrize("deflate", [False, True])
def test_the_server_s_messages_follow_the_client_s(deflate: bool) -> None:
    talk = played(deflate=deflate)
    assert isinstance(talk.heard[0], ev.AcceptConnection)
    assert talk.texts() == ["hello"]
    talk.say(ev.TextMessage('{"n":"x",  "ask":1}'))
    assert talk.texts() == ["hello", "answer", b"\1\2"]
    talk.say(ev.Ping(b"still there?"))
    assert isinstance(talk.heard[-1], ev.Pong)
    talk.say(ev.BytesMessage(b"\3"))
    close = talk.heard[-1]
    assert (close.code, close.reason) == (1001, "done")
    talk.play.expect_recorded(0)
    talk.say(close.response())
    talk.play.expect_recorded(1)
    assert talk.play.names[-1] == "close"
    assert [m.kind for m in talk.flow.received] == ["text", "text", "binary"]


def test_a_client_that_says_something_else_fails_the_test() -> None:
    talk = played()
    talk.say(ev.TextMessage('{"ask": 2, "n": "x"}'))
    (_, flow, miss) = next(event for event in talk.play.events if event[0] == "unlike")
    assert flow is talk.flow
    assert miss.reason == "message 1 of the client is not the recorded one"
    assert [(d.field, d.recorded, d.actual) for d in miss.differences] == [
        ("message.ask", "1", "2")
    ]
    assert talk.play.names[-1] == "reset"


def test_a_client_that_says_more_fails_the_test() -> None:
    talk = played([message("text", b"hello")])
    talk.say(ev.TextMessage("more"))
    miss = talk.play.events[-2][2] if talk.play.names[-1] == "reset" else None
    assert miss is not None
    assert miss.reason == "message 1 of the client is new: when recorded, it said no more"


def test_a_client_may_close_early() -> None:
    talk = played()
    talk.say(ev.CloseConnection(1000))
    close = talk.heard[-1]
    assert isinstance(close, ev.CloseConnection)
    talk.play.expect_recorded(1)
    assert "unlike" not in talk.play.names


@pytest.mark.parametrize(("kind", "effect"), [("eof", "close"), ("reset", "reset")])
def test_an_end_without_close_is_played(kind: str, effect: str) -> None:
    talk = played([message("text", b"hello")], FlowError(kind))
    assert talk.texts() == ["hello"]
    assert talk.play.names[-1] == effect


@given(st.lists(st.binary(max_size=30), max_size=6), st.booleans(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_garbage_never_raises(pieces: list[bytes], plays: bool, deflate: bool) -> None:
    talk = played(deflate=deflate) if plays else Talk(deflate=deflate)
    for piece in pieces:
        talk.play.client(piece)
        if not plays:
            talk.play.server(piece)
    talk.play.client_reset()
    assert any(flow is talk.flow for flow in talk.play.recorded)
