"""UDP: name queries are answered here, other datagrams relayed to where they were going.

1. A datagram to a blocked or, on replay, unrecorded destination vanishes, as on a network; the
   problem is noted.
2. QUIC goes to quic_flows.py, whose HTTP/3 is decoded; without aioquic it is relayed like the rest.
3. A loopback destination falls outward like a connection; since UDP has no handshake, a refusal
   (ICMP) moves the flow on to the next candidate with what it has sent so far, and after the
   last one reaches the client.
4. A socket that outlives its test (a metrics client) is another flow in the next one that it sends
   in, under that one's rules; the way to the server stays.
"""

from __future__ import annotations

import contextlib
import importlib.util
import socket
from typing import TYPE_CHECKING

from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.engine import pipeline
from pytest_netcapture.engine.attribution import UDP, Owner
from pytest_netcapture.engine.dialer import Candidate, is_loopback
from pytest_netcapture.engine.layers.sniff import looks_like_quic
from pytest_netcapture.flows import UdpFlow
from pytest_netcapture.redirect.base import DatagramFlow

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine
    from pytest_netcapture.engine.scopes import Scope

WITHOUT_AIOQUIC = (
    "QUIC is decoded with aioquic, which is not installed: pip install pytest-netcapture[http3]"
)
_UNANSWERED = 16
"""Datagrams kept to send again to the next candidate while nobody has answered."""


class Datagrams:
    """Handles every UDP flow of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._roots: dict[tuple[str, ...], str] = {}

    def open(self, flow: DatagramFlow) -> None:
        engine = self._engine
        engine.control.catch_up()
        owner = engine.attribution.owner(flow.namespace, UDP, flow.client, flow.original_dst)
        if flow.original_dst[1] == 53:
            _Queries(engine, flow, owner)
            return
        seen, scope = self.begin(flow, owner, flow.first)
        if engine.faulting.datagrams(scope, seen):
            (flow.refuse if seen.error and seen.error.kind == "refused" else flow.close)()
            return
        if looks_like_quic(flow.first) and self._decodes(scope, seen):
            from pytest_netcapture.engine.quic_flows import QuicFlow

            QuicFlow(engine, self, flow, owner).open(seen)
            return
        relay = self.relay(flow, owner, seen, scope)
        if relay is not None:
            relay.send(flow.first)
            flow.listen(relay.from_client)
            flow.on_end(relay.close)

    def relay(
        self, flow: DatagramFlow, owner: Owner, seen: UdpFlow, scope: Scope
    ) -> DatagramRelay | None:
        """Return a way to the server, unless the scope's rules forbid it: then the flow ends."""
        engine = self._engine
        if self.refused(scope, seen):
            flow.close()
            return None
        names = engine.names.of(flow.original_dst[0])
        candidates = engine.candidates(flow.namespace, names, flow.original_dst, scope.settings)
        engine.recorded(seen, scope)
        return DatagramRelay(engine, flow, seen, owner, candidates)

    def begin(self, flow: DatagramFlow, owner: Owner, first: bytes) -> tuple[UdpFlow, Scope]:
        """List a flow in the scope that it belongs to now."""
        engine = self._engine
        scope, late = engine.scopes.resolve(flow.namespace, owner.is_test_process)
        address, port = flow.original_dst
        names = engine.names.of(address)
        seen = UdpFlow(
            host=names[0] if names else address,
            port=port,
            address=flow.original_dst,
            client=flow.client,
            started=engine.now(),
            datagrams_sent=1,
            sent=len(first),
        )
        engine.scopes.add(scope, seen, late)
        seen.process, seen.inode = owner.process(), owner.inode
        return seen, scope

    def _decodes(self, scope: Scope, seen: UdpFlow) -> bool:
        """Tell whether this QUIC is to be looked into; if only aioquic lacks, that is said."""
        if is_loopback(seen.address[0] if seen.address else "") and (
            not scope.settings.capture_loopback
        ):
            return False
        if importlib.util.find_spec("aioquic") is not None:
            return True
        seen.reason = WITHOUT_AIOQUIC
        self._engine.opener.undecrypted[f"{seen.host}:{seen.port}"] = WITHOUT_AIOQUIC
        return False

    def roots(self, extra: tuple[str, ...]) -> str:
        """Return a file with the roots that servers are verified by."""
        from pytest_netcapture.engine.quic_flows import combined_roots

        files = (*self._engine.upstream_tls.roots, *extra)
        if files not in self._roots:
            self._roots[files] = combined_roots(self._engine.options.runtime_dir, files)
        return self._roots[files]

    def refused(self, scope: Scope, seen: UdpFlow) -> bool:
        """Tell whether the scope's rules forbid it; then that is noted."""
        assert seen.address is not None
        if is_loopback(seen.address[0]):
            return False
        if scope.plays and not scope.records:
            miss = Miss(
                MissKind.NEVER,
                seen.reason or "datagrams are not replayed yet",
                advice="let the test reach its server",
            )
            self._engine.scopes.problem(scope, pipeline.unmatched(seen, miss))
            return True
        names = self._engine.names.of(seen.address[0])
        reason = pipeline.allowed(scope.settings, names, *seen.address)
        if reason:
            self._engine.scopes.problem(scope, pipeline.blocked(seen, reason))
        return bool(reason)


class _Queries:
    """The name queries of one client socket."""

    def __init__(self, engine: Engine, flow: DatagramFlow, owner: Owner) -> None:
        self._engine = engine
        self._flow = flow
        self._owner = owner
        flow.listen(self._query)
        self._query(flow.first)

    def _query(self, data: bytes) -> None:
        self._engine.spawn(self._answer(data))

    async def _answer(self, data: bytes) -> None:
        flow = self._flow
        reply = await self._engine.dns.answer(
            data, flow.namespace, flow.client, self._owner, tcp=False
        )
        if reply is not None:
            flow.reply(reply)


class DatagramRelay:
    """One flow of datagrams to the first candidate that does not refuse it."""

    def __init__(
        self,
        engine: Engine,
        flow: DatagramFlow,
        seen: UdpFlow,
        owner: Owner,
        candidates: list[Candidate],
    ) -> None:
        self._engine = engine
        self._flow = flow
        self._seen = seen
        self._owner = owner
        self._candidates = candidates
        self._socket: socket.socket | None = None
        self._away = False
        self._unanswered: list[bytes] = []
        self._next()

    def from_client(self, data: bytes) -> None:
        engine = self._engine
        engine.control.catch_up()
        scope, _ = engine.scopes.resolve(self._flow.namespace, self._owner.is_test_process)
        if scope.id == self._seen.scope:
            self._seen.datagrams_sent += 1
            self._seen.sent += len(data)
            engine.scopes.changed()
        else:  # rule 4
            self._seen, scope = engine.datagrams.begin(self._flow, self._owner, data)
            if engine.datagrams.refused(scope, self._seen):
                self._flow.close()
                self.close()
                return
        self.send(data)

    def send(self, data: bytes) -> None:
        if len(self._unanswered) < _UNANSWERED and not self._seen.datagrams_received:
            self._unanswered.append(data)
        self._send(data)

    def close(self) -> None:
        if self._socket is not None:
            self._engine.loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _send(self, data: bytes) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(data)
            if self._away:
                self._engine.left_machine(1)
        except BlockingIOError:
            return  # a full queue drops datagrams, as a network does
        except OSError:
            self._next()

    def _next(self) -> None:
        """Move on to the next candidate, and say there what nobody has answered."""
        self.close()
        while self._candidates:
            candidate = self._candidates.pop(0)
            if candidate.namespace is None and not self._engine.dialer.permitted(
                candidate.address[0]
            ):
                continue
            sock = self._engine.dialer.make_socket(
                candidate.namespace, candidate.address[0], socket.SOCK_DGRAM
            )
            try:
                sock.connect(candidate.address)
            except OSError:
                sock.close()
                continue
            self._socket = sock
            self._away = not is_loopback(candidate.address[0])
            self._engine.loop.add_reader(sock.fileno(), self._readable)
            for data in list(self._unanswered):
                self._send(data)
            return
        self._flow.refuse()
        self._flow.close()  # the next datagram begins anew: a server may be there by then

    def _readable(self) -> None:
        while self._socket is not None:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                self._next()
                return
            self._seen.datagrams_received += 1
            self._seen.received += len(data)
            self._unanswered.clear()
            self._engine.scopes.changed()
            with contextlib.suppress(OSError):
                self._flow.reply(data)
