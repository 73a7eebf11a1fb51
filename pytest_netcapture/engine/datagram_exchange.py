"""One flow of datagrams: played, relayed to its server, or forbidden.

1. On replay each flow is a script: what the client sends must be what it sent, and is answered
   with what came back then; see cassettes/script.py.
2. Where the scope records, a flow goes live whose first datagram no recording begins with.
3. A socket that outlives its test (a metrics client) is another flow in the next one that it sends
   in, under that one's rules; the way to the server stays.

Tests: tests/engine/test_datagrams.py, test_datagram_replay.py.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_netcapture.cassettes.miss import Miss
from pytest_netcapture.cassettes.script import Script
from pytest_netcapture.engine import pipeline
from pytest_netcapture.engine.attribution import Owner
from pytest_netcapture.engine.datagram_relay import DatagramRelay
from pytest_netcapture.engine.growing import GrowingBody
from pytest_netcapture.engine.layers.talk import Talk
from pytest_netcapture.flows import FlowError, Origin, UdpFlow
from pytest_netcapture.redirect.base import DatagramFlow

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine
    from pytest_netcapture.engine.scopes import Scope

_WINDOW = 1 << 16


class DatagramExchange:
    """One flow: played, relayed, or refused; another one in each test that it goes on in."""

    def __init__(self, engine: Engine, flow: DatagramFlow, owner: Owner) -> None:
        self._engine = engine
        self._flow = flow
        self._owner = owner
        self._relay: DatagramRelay | None = None
        self._script: Script | None = None
        self._over = False

    def begin(self, seen: UdpFlow, scope: Scope) -> bool:
        """Take what was seen of it; return False when the flow has ended, for it is forbidden."""
        self._seen, self._scope, self._talk = seen, scope, self._talk_of(seen, scope)
        datagrams = self._engine.datagrams
        found = datagrams.script(scope, seen)
        self._script = None if isinstance(found, Miss) else found
        if self._script is not None:
            seen.origin = Origin.PLAYED
        elif isinstance(found, Miss):
            self._unlike(found)
            self._end()
        elif datagrams.refused(scope, seen):
            self._end()
        return not self._over

    def from_client(self, data: bytes) -> None:
        engine = self._engine
        engine.control.catch_up()
        scope, _ = engine.scopes.resolve(self._flow.namespace, self._owner.is_test_process)
        if scope.id == self._seen.scope:
            self._seen.datagrams_sent += 1
            self._seen.sent += len(data)
        else:
            self._finish()
            if not self.begin(*engine.datagrams.begin(self._flow, self._owner, data)):
                return
        self.send(data)
        engine.scopes.changed()

    def send(self, data: bytes) -> None:
        """Take a datagram that was counted already."""
        self._say(data, sent=True)
        if self._script is not None:
            self._play(self._script, data)
        else:
            self._send(data)

    def close(self) -> None:
        self._finish()
        if self._relay is not None:
            self._relay.close()

    def _talk_of(self, seen: UdpFlow, scope: Scope) -> Talk:
        def spool() -> str:
            return self._engine.scopes.spool(scope)

        outgoing, incoming = GrowingBody(spool, _WINDOW), GrowingBody(spool, _WINDOW)
        return Talk(seen, outgoing, incoming, self._engine.now)

    def _end(self) -> None:
        """Forget the flow: the next datagram begins another one."""
        self._over = True
        self._flow.close()
        self.close()

    def _finish(self) -> None:
        self._talk.finish()
        if self._script is not None:
            self._script.finish()
        if self._seen.ended or self._seen.origin is not Origin.LIVE:
            return
        self._seen.ended = self._engine.now()
        self._engine.recorded(self._seen, self._scope)

    def _play(self, script: Script, data: bytes) -> None:
        answer = script.heard(data)
        if isinstance(answer, Miss):
            if script.begun or not self._scope.records:
                self._unlike(answer)
                return
            self._script, self._seen.origin = None, Origin.LIVE
            if self._engine.datagrams.refused(self._scope, self._seen):
                self._end()
            else:
                self._send(data)
            return
        for datagram in answer.datagrams():
            self._hear(datagram)
        if answer.end:
            self._refuse()

    def _say(self, data: bytes, *, sent: bool) -> None:
        """Write a datagram down, unless it is of what cannot be played."""
        if not self._seen.reason:
            self._talk.datagram(data, sent=sent)

    def _unlike(self, miss: Miss) -> None:
        self._engine.scopes.problem(self._scope, pipeline.unmatched(self._seen, miss))

    def _send(self, data: bytes) -> None:
        if self._relay is None:
            engine, flow = self._engine, self._flow
            names = engine.names.of(flow.original_dst[0])
            settings = self._scope.settings
            candidates = engine.candidates(flow.namespace, names, flow.original_dst, settings)
            self._relay = DatagramRelay(engine, candidates, self._hear, self._refuse)
        self._relay.send(data)

    def _hear(self, data: bytes) -> None:
        self._seen.datagrams_received += 1
        self._seen.received += len(data)
        self._say(data, sent=False)
        self._engine.scopes.changed()
        with contextlib.suppress(OSError):
            self._flow.reply(data)

    def _refuse(self) -> None:
        if not self._seen.reason:
            self._talk.ended("refused", sent=False)
        self._seen.error = FlowError("refused", "nobody listens there")
        self._finish()
        self._flow.refuse()
        self._flow.close()  # the next datagram begins anew: a server may be there by then
