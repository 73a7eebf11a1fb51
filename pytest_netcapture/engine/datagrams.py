"""UDP: name queries are answered here, other datagrams played, or relayed to where they go.

1. A datagram to a blocked or, on replay, unrecorded destination vanishes, as on a network; the
   problem is noted.
2. QUIC goes to quic_flows.py, whose HTTP/3 is decoded; without aioquic it is relayed and counted.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.cassettes.script import Script
from pytest_netcapture.engine import pipeline
from pytest_netcapture.engine.attribution import UDP, Owner
from pytest_netcapture.engine.datagram_exchange import DatagramExchange
from pytest_netcapture.engine.dialer import is_loopback
from pytest_netcapture.engine.dns_asking import Asked, Unanswered
from pytest_netcapture.engine.layers.sniff import looks_like_quic
from pytest_netcapture.flows import UdpFlow
from pytest_netcapture.redirect.base import DatagramFlow

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine
    from pytest_netcapture.engine.scopes import Scope

LOOPBACK = "loopback"
WITHOUT_AIOQUIC = (
    "QUIC is decoded with aioquic, which is not installed: pip install 'pytest-netcapture[http3]'"
)


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
    ) -> DatagramExchange | None:
        """Return who answers the client, unless nobody may: then the flow ends."""
        exchange = DatagramExchange(self._engine, flow, owner)
        return exchange if exchange.begin(seen, scope) else None

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
        if is_loopback(address) and not scope.settings.capture_loopback:
            seen.reason = LOOPBACK
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

    def script(self, scope: Scope, seen: UdpFlow) -> Script | Miss | None:
        """Return what a flow plays, why nothing, or None when it is to be live."""
        assert seen.address is not None
        if scope.cassette is None or not scope.plays or seen.reason:
            return None

        def began() -> None:
            scope.counts.played += 1

        names = (seen.host, *self._engine.names.of(seen.address[0]), seen.address[0])
        found = scope.cassette.script("udp", names, seen.port, began)
        return None if isinstance(found, Miss) and scope.records else found

    def refused(self, scope: Scope, seen: UdpFlow) -> bool:
        """Tell whether the scope's rules forbid it; then that is noted."""
        assert seen.address is not None
        if seen.reason == LOOPBACK:
            return False
        if scope.sealed:
            self._engine.scopes.problem(scope, pipeline.after_the_end(seen, scope))
            return True
        if scope.plays and not scope.records:
            reason = seen.reason or f"never recorded: no UDP conversation with {seen.host}"
            miss = Miss(MissKind.NEVER, reason, advice="let the test reach its server")
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
        asked = Asked(flow.namespace, flow.client, flow.original_dst, "udp")
        try:
            reply = await self._engine.dns.answer(data, asked, self._owner)
        except Unanswered as failed:
            if failed.error.kind == "refused":
                flow.refuse()
            return
        if reply is not None:
            flow.reply(reply)
