"""Answer HTTP/2 requests from here: recorded exchanges, WebSockets, answers that begin early.

A flow is recorded before the bytes that complete it are handed to the client's `Peer`.
"""

from __future__ import annotations

from pytest_netcapture.cassettes.dialogue import Speech
from pytest_netcapture.cassettes.miss import Miss
from pytest_netcapture.engine.layers.http2_exchange import Http2Exchange
from pytest_netcapture.engine.layers.http2_frames import Code
from pytest_netcapture.engine.layers.http2_replay import render
from pytest_netcapture.engine.layers.http2_sender import Sender
from pytest_netcapture.engine.layers.http2_websocket import Finish, PlayedStream
from pytest_netcapture.engine.layers.layer import Context, Deny, Play
from pytest_netcapture.flows import FlowError
from pytest_netcapture.unreadable import Unreadable


class Playing:
    """Speaks to the client; `used` says that it has."""

    def __init__(self, context: Context, client: Sender, finish: Finish) -> None:
        self._context = context
        self._client = client
        self._finish = finish
        self.used = False

    def settle(self, exchange: Http2Exchange, decision: Play | Deny) -> None:
        if isinstance(decision, Deny):
            exchange.flow.origin = decision.origin
            self._finish(exchange, FlowError("reset", decision.origin.value))
            self._client.reset(exchange.down, Code.INTERNAL_ERROR)
        else:
            self._play(exchange, decision)

    def _play(self, exchange: Http2Exchange, decision: Play) -> None:
        flow, client, down = exchange.flow, self._client, exchange.down
        self.used = True
        flow.origin = decision.origin
        flow.response = decision.response
        answer = render(flow.request, decision, continued=exchange.continued)
        self._finish(exchange, decision.error)
        for fields in answer.sections:
            alone = fields is answer.sections[-1] and answer.ends_with_headers
            client.send_headers(down, fields, end=alone)
        if answer.body is not None:
            client.send_body(down, answer.body)
        if answer.reset is not None:
            client.reset_behind(down, answer.reset)
        elif answer.trailers is not None:
            client.send_headers(down, answer.trailers, end=True)
        elif answer.body is not None and not answer.hangs:
            client.end(down)

    def dialogue(self, exchange: Http2Exchange, decision: Play) -> None:
        """Begin an answer that is given while the request comes."""
        assert decision.dialogue is not None
        self.used = True
        exchange.flow.origin = decision.origin
        exchange.dialogue = decision.dialogue
        self.say(exchange, decision.dialogue.begin())

    def websocket(self, exchange: Http2Exchange, decision: Play) -> None:
        response, said = decision.response, decision.conversation
        assert response is not None
        assert said is not None
        self.used = True
        exchange.flow.origin = decision.origin
        exchange.flow.response = response
        try:
            played = PlayedStream(self._context, exchange, said, self._finish)
        except Unreadable as problem:
            self._finish(exchange, FlowError("malformed", str(problem)))
            self._client.reset(exchange.down, Code.INTERNAL_ERROR)
            return
        for fields in render(exchange.flow.request, Play(response)).sections:
            self._client.send_headers(exchange.down, fields)
        exchange.played = played
        played.begin()

    def say(self, exchange: Http2Exchange, speech: Speech | Miss) -> None:
        """Send what a recorded answer says at this moment."""
        flow, client, down, dialogue = exchange.flow, self._client, exchange.down, exchange.dialogue
        assert dialogue is not None
        if isinstance(speech, Miss):
            self._context.unlike(flow, speech)
            self._finish(exchange, FlowError("reset", speech.reason))
            client.reset(down, Code.INTERNAL_ERROR)
            return
        answer = render(flow.request, Play(speech.head or dialogue.response, dialogue.error))
        if speech.head is not None:
            flow.response = speech.head
            for fields in answer.sections:
                client.send_headers(down, fields)
        for chunk in speech.chunks:
            client.send_data(down, chunk)
        if not speech.ended or answer.hangs:
            return
        self._finish(exchange, dialogue.error)
        if answer.reset is not None:
            client.reset_behind(down, answer.reset)
        elif answer.trailers is not None:
            client.send_headers(down, answer.trailers, end=True)
        else:
            client.end(down)
