"""One captured TCP connection: the sockets, and the layer that reads between them.

1. The first bytes are peeked at, not read: who speaks first and what they say decides the layer,
   and TLS is then left to the transport (recv(2) MSG_PEEK, SO_RCVLOWAT).
2. What a layer writes while the other side is slow is bounded: a full client pauses the server and
   the other way round.
3. A reset arrives as a reset (SO_LINGER 0), an end as an end.
4. The scope is looked up for each flow, not for the connection: a pooled connection serves the
   test that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import ssl
import struct
import termios
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast, overload

import msgspec

from pytest_netcapture.cassettes.miss import Miss
from pytest_netcapture.engine.attribution import Owner
from pytest_netcapture.engine.bodies import SpoolingBody
from pytest_netcapture.engine.damage import Damage
from pytest_netcapture.engine.dialer import Candidate
from pytest_netcapture.engine.growing import GrowingBody
from pytest_netcapture.engine.layers.http2 import Http2Layer
from pytest_netcapture.engine.layers.layer import (
    BodySink,
    Context,
    Decision,
    Endpoint,
    Ignoring,
    Later,
    Layer,
)
from pytest_netcapture.engine.layers.opening import OpeningLayer
from pytest_netcapture.engine.layers.raw import RawLayer
from pytest_netcapture.engine.layers.raw_replay import RawReplayLayer
from pytest_netcapture.engine.layers.sniff import begins_tls
from pytest_netcapture.engine.mocks import Reach
from pytest_netcapture.engine.outlet import Outlet
from pytest_netcapture.engine.scopes import MEMORY_WINDOW, Scope
from pytest_netcapture.flows import (
    Address,
    AnyFlow,
    FlowError,
    HttpFlow,
    Origin,
    ServiceFlow,
    TcpFlow,
    UdpFlow,
)
from pytest_netcapture.redirect.base import was_reset

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine
    from pytest_netcapture.engine.upstream_tls import Upstream

_LINGER_RESET = struct.pack("ii", 1, 0)
_HIGH_WATER = 1 << 18
_MOMENT = 0.001
_CUT_PATIENCE = 10 * 10**9
"""Nanoseconds that a client may take to read what comes before it is cut off."""
SMALL_WINDOW = 1 << 14


class Plan(NamedTuple):
    """What the gate decided. `loopback`: leave it alone. `candidates`: where the server is.

    `mocked`: whether it needs no server; YES once it is accepted without one.
    """

    namespace: int
    client: Address
    address: Address
    names: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    loopback: bool = False
    mocked: Reach = Reach.NO


class Pending(NamedTuple):
    """A connection that the gate lets in; `server` is its socket if it was dialled."""

    plan: Plan
    server: socket.socket | None
    flow: TcpFlow | UdpFlow
    owner: Owner


def reset_socket(sock: socket.socket | None) -> None:
    """Close with a reset (socket(7), SO_LINGER 0)."""
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        sock.close()


_READ_BUFFER = memoryview(bytearray(1 << 18))
"""What every transport reads into: one loop, and no read outlasts its callback."""


class _Side(asyncio.BufferedProtocol):
    """A transport's callbacks, passed on to the connection.

    Buffered, since a plain protocol's read allocates 256 KiB in uvloop, which is an mmap(2) and a
    munmap(2) each time, and with TLS ends with an exception that costs more than the decryption.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)

    def get_buffer(self, _sizehint: int) -> memoryview:
        return _READ_BUFFER


class _Client(_Side):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.connection.client_ready(cast("asyncio.Transport", transport))

    def buffer_updated(self, nbytes: int) -> None:
        self.connection.layer.client_data(bytes(_READ_BUFFER[:nbytes]))

    def eof_received(self) -> bool:
        if self.connection.client_reset_error() is not None:
            return False
        self.connection.client_ended = True
        self.connection.layer.client_eof()
        return not self.connection.endpoint.tls

    def pause_writing(self) -> None:
        self.connection.client_full(True)

    def resume_writing(self) -> None:
        self.connection.client_full(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.client_lost(exc)


class _Server(_Side):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.connection.server_ready(self)

    def buffer_updated(self, nbytes: int) -> None:
        self.connection.layer.server_data(bytes(_READ_BUFFER[:nbytes]))

    def eof_received(self) -> bool:
        self.connection.server_ended = True
        self.connection.layer.server_eof()
        return not self.connection.endpoint.tls

    def pause_writing(self) -> None:
        self.connection.server_full(True)

    def resume_writing(self) -> None:
        self.connection.server_full(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.server_lost(self, exc)


Prelude: TypeAlias = Callable[[asyncio.AbstractEventLoop, socket.socket], Awaitable[None]]


class Connection:
    """The `Context` of a layer, live."""

    def __init__(self, engine: Engine, client: socket.socket | None, pending: Pending) -> None:
        self.engine = engine
        self.plan = plan = pending.plan
        self.owner = pending.owner
        self._connection_flow: TcpFlow | UdpFlow | None = pending.flow
        name = plan.names[0] if plan.names else plan.address[0]
        self.endpoint = Endpoint(name, plan.address[1], names=plan.names)
        self.layer: Layer = OpeningLayer(self)
        self.client_ended = self.server_ended = False
        self._client_socket: socket.socket | None = client
        self._client_end = client  # what a transport cannot tell of it
        self._server_socket = pending.server
        self._client: asyncio.Transport | None = None
        self._server: _Server | None = None
        self._to_client = Outlet()
        self._to_server = Outlet()
        self._connecting = False
        self._closed = False
        self.over = False
        """Nothing can happen on it any more."""
        self._client_reset = False
        self._damages: list[tuple[Damage, str]] = []
        self._cutting = False
        self.fault = ""
        """What was wrong with it from the start."""
        self._flows: dict[int, AnyFlow] = {}
        self.tls_name = ""
        self._tls_version = ""
        self.preamble = b""
        """What a server is sent, and agrees to with one byte, before TLS begins."""
        self.prelude: Prelude | None = None
        """Brings a server that greets to where TLS begins. Raises `OSError` if it will not."""
        self.goes_without = False
        """Whether servers of its protocol ask every client for a certificate, and do without."""
        self.inner: Callable[[Context], Layer] | None = None
        """What makes the layer inside of TLS, where it is known."""
        self._left = 0
        self._resolved: tuple[Scope, bool] = (engine.scopes.session, False)
        self._resolved_at = -1

    # ── what the opening (opening.py) sets up ────────────────────────────────────────────────

    async def start(
        self, layer: Layer | None = None, context: ssl.SSLContext | None = None
    ) -> None:
        """Hand the sockets to transports, with TLS towards the client when `context` is given."""
        if layer is not None:
            self.layer = layer
        sock, self._client_socket = self._client_socket, None
        assert sock is not None
        if self._server_socket is not None:
            await self.adopt_server()
        options = {"ssl_shutdown_timeout": 1.0} if context else {}
        await self.engine.loop.connect_accepted_socket(
            lambda: _Client(self), sock, ssl=context, **options
        )

    async def adopt_server(self) -> None:
        """Make a transport of the socket that the gate connected."""
        sock, self._server_socket = self._server_socket, None
        await self.engine.loop.create_connection(lambda: _Server(self), sock=sock)

    def adopt_upstream(self, upstream: Upstream) -> None:
        """Use a connection on which TLS has been spoken."""
        assert isinstance(upstream.protocol, _Server)
        self._server = upstream.protocol
        self._to_server.attach(upstream.transport)

    def server_side(self) -> _Server:
        return _Server(self)

    @property
    def scope(self) -> Scope:
        return self._scope()[0]

    @property
    def client_socket(self) -> socket.socket | None:
        return self._client_socket

    @property
    def server_socket(self) -> socket.socket | None:
        return self._server_socket

    @property
    def has_server(self) -> bool:
        return self._server is not None or self._connecting or self._server_socket is not None

    def take_waiting(self) -> list[tuple[socket.socket, bytes]]:
        """Take what waits for a side that has no transport yet, with its socket."""
        sides = ((self._client_socket, self._to_client), (self._server_socket, self._to_server))
        return [(sock, data) for sock, out in sides if sock is not None and (data := out.take())]

    def give_server_socket(self, sock: socket.socket) -> None:
        """Use a socket that was connected late, before there are transports."""
        self._server_socket = sock

    def take_server_socket(self) -> socket.socket | None:
        sock, self._server_socket = self._server_socket, None
        return sock

    # ── Context ──────────────────────────────────────────────────────────────────────────────

    now = staticmethod(time.monotonic_ns)

    def to_client(self, data: bytes) -> None:
        if self._closed or self._cutting:
            return
        self._to_client.write(self._damaged(data) if self._damages else data)
        if self._to_client.slow and self._to_client.waiting > _HIGH_WATER:
            self._wait_for_client()

    def to_client_stream(self, pieces: Iterable[bytes]) -> None:
        if not self._cutting:
            self._to_client.stream(map(self._damaged, pieces) if self._damages else pieces)

    def to_server(self, data: bytes) -> None:
        self._to_server.write(data)
        if self._to_server.waiting > _HIGH_WATER and self._client is not None:
            self._pause(self._client, True)

    def to_server_stream(self, pieces: Iterable[bytes]) -> None:
        self._to_server.stream(pieces)

    def full(self, side: str) -> bool:
        outlet = self._outlet(side)
        return outlet.full or (outlet.slow and outlet.waiting > _HIGH_WATER)

    def when_free(self, side: str, function: Callable[[], None]) -> None:
        self._outlet(side).then(function)

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        def due() -> None:
            if not self.over:
                function()

        self.engine.loop.call_later(seconds, due)

    def eof_client(self) -> None:
        if self._cutting:
            return
        self._to_client.then(self._eof_client_now)

    def eof_server(self) -> None:
        self._to_server.then(self._eof_server_now)

    def close(self) -> None:
        if self._cutting:
            return
        if self._to_client and self._client is not None and not self._client.is_closing():
            self._to_client.then(self._close_now)
        else:
            self._close_now()

    # ── faults ───────────────────────────────────────────────────────────────────────────────

    def damage(self, damage: Damage, how: str) -> None:
        """Spoil what the client is told from now on; `how` it is cut off in the end."""
        self._damages.append((damage, how))

    def pace(self, rate: int) -> None:
        """Tell the client at most `rate` bytes a second from now on."""
        self._to_client.pace(rate, self.engine.loop)

    def mend(self) -> None:
        """Slow down nothing any more; and spoil nothing, unless there are streams side by side."""
        if not isinstance(self.layer, Http2Layer):
            self._damages.clear()
        self._to_client.pace(0, None)

    def cut(self, how: str) -> None:
        """End the client's connection with a reset or in order, once all has arrived so far."""
        self._cutting = True
        deadline = self.now() + _CUT_PATIENCE
        self._to_client.then(lambda: self._cut_when_sent(how, deadline))

    def _damaged(self, data: bytes) -> bytes:
        for damage, how in self._damages:
            data = b"" if damage.done else damage.pass_on(data)
            if damage.done and not self._cutting:
                self._cutting = True
                self.engine.loop.call_soon(self.cut, how)
        return data

    def _cut_when_sent(self, how: str, deadline: int) -> None:
        if self.over:
            return
        if self.now() < deadline and not has_arrived(self._client):
            self.after(_MOMENT, lambda: self._cut_when_sent(how, deadline))
            return
        kind = "reset" if how == "reset" else "eof"
        self.layer.aborted("client", FlowError(kind, "a fault"))
        self.layer = Ignoring()
        self._cutting = False
        if kind == "reset":
            self.reset()
        else:
            self._close_now()

    def _wait_for_client(self) -> None:
        """Read no more from the server until a client that is slow has been told all."""
        server = self._server.transport if self._server else None
        if server is not None and server.is_reading():
            self._pause(server, True)
            self._to_client.then(lambda: self._pause(server, False))

    def reset(self) -> None:
        if self._cutting:
            return
        reset_socket(self._client_socket)
        self._client_socket = None
        self._to_client.clear()
        if self._client is not None:
            _abort(self._client, self._client_end)
        self.drop_server()
        if self._client is None:
            self._finish()

    def give_up(
        self, reason: str, miss: Miss | None = None, flow: TcpFlow | UdpFlow | None = None
    ) -> None:
        """Reset a conversation that is on replay and cannot be played; its test must fail."""
        self.layer = Ignoring()
        if flow is None:
            flow = self._connection_flow or TcpFlow()
            flow.reason = reason
            if flow is not self._connection_flow:
                self.begin(flow)
        flow.process, flow.inode = self.owner.process(), self.owner.inode
        if miss is None:
            self.engine.unreplayable(flow)
        else:
            self.engine.unlike(flow, miss)
        self.reset()

    def connect(self) -> None:
        if self._server is not None or self._connecting:
            return
        self._connecting = True
        self.engine.opener.connect(self)

    def drop_server(self) -> None:
        server, self._server = self._server, None
        self._to_server.clear()
        self._to_server.transport = None
        if server is not None and server.transport is not None:
            self._count_left(server.transport)
            if self._client_reset:
                _abort(server.transport)
            else:
                server.transport.abort()
        reset_socket(self._server_socket)
        self._server_socket = None

    def decides_late(self) -> bool:
        scope = self.scope
        return scope.plays or bool(scope.mocks) or scope.faults.in_exchanges

    @overload
    def decide(self, flow: HttpFlow) -> Decision | Later: ...
    @overload
    def decide(self, flow: ServiceFlow) -> Decision: ...
    def decide(self, flow: HttpFlow | ServiceFlow) -> Decision | Later:
        if isinstance(flow, ServiceFlow):
            return self.engine.decide_service(self, flow)
        return self.engine.decide(self, flow)

    def decide_early(self, flow: AnyFlow) -> Decision | None:
        assert isinstance(flow, HttpFlow)
        return self.engine.decide_early(self, flow)

    def passwords(self) -> Iterable[bytes]:
        cassette = self.scope.cassette
        return () if cassette is None else cassette.secrets.values

    def body_sink(self) -> BodySink:
        scope = self.scope
        window = SMALL_WINDOW if scope.memory > MEMORY_WINDOW else 1 << 20
        return SpoolingBody(self.engine.scopes.spool(scope), window, now=self.now)

    def begin(self, flow: AnyFlow) -> None:
        scope, late = self._scope()
        flow.started = flow.started or self.now()
        flow.fault = flow.fault or self.fault
        flow.address = self.plan.address
        flow.client, flow.tls_version = self.plan.client, self._tls_version
        if not flow.host:
            flow.host, flow.port = self.endpoint.host, self.endpoint.port
        self._flows[id(flow)] = flow
        first, self._connection_flow = self._connection_flow, None
        if isinstance(flow, TcpFlow):
            flow.later = first is None
        same = first is not None and (first.scope == scope.id or isinstance(flow, TcpFlow))
        if first is not None and same:
            self.engine.scopes.replace(first, flow)
        else:
            flow.process, flow.inode = self.owner.process(), self.owner.inode
            self.engine.scopes.add(scope, flow, late)

    def changed(self) -> None:
        self.engine.scopes.changed()

    def unlike(self, flow: AnyFlow, miss: Miss) -> None:
        flow.process, flow.inode = self.owner.process(), self.owner.inode
        self.engine.unlike(flow, miss)

    def record(self, flow: AnyFlow) -> None:
        flow.ended = self.now()
        flow.process, flow.inode = self.owner.process(), self.owner.inode
        self._flows.pop(id(flow), None)
        self.engine.recorded(flow)

    def growing(self) -> GrowingBody:
        scope = self.scope
        window = SMALL_WINDOW if scope.memory > MEMORY_WINDOW else 1 << 20
        return GrowingBody(lambda: self.engine.scopes.spool(scope), window)

    def passed_on(self, flow: AnyFlow) -> bool:
        scope, late = self._scope()
        return scope.id != flow.scope and not late

    def become_raw(
        self, reason: str, *, client_pending: bytes = b"", server_pending: bytes = b""
    ) -> None:
        if not self.has_server:
            if self.scope.plays:
                self._play_raw(reason, client_pending)
                return
            if isinstance(self.layer, RawReplayLayer):
                self.layer = Ignoring()
                self.reset()  # it was played until now, so no server knows of it
                return
        self._relay(reason, client_pending, server_pending)

    def unplayed(
        self, reason: str, miss: Miss, held: bytes | None, flow: TcpFlow | None = None
    ) -> None:
        if held is None or not self.scope.records:
            self.give_up(reason, miss, flow)
            return
        if flow is not None:
            flow.origin, flow.turns, flow.sent = Origin.LIVE, [], 0
        if not self.engine.blocks(self, flow):
            self._relay(reason, held, b"", flow)

    def silent(self) -> None:
        """Give up a client without a server that waits for it to speak."""
        reason = "the client waits for the server to speak first"
        if not self.scope.plays:  # a mocked host, at which there may be a server all the same
            self.connect()
            return
        found = self.engine.script(self)
        if isinstance(found, Miss):
            found = msgspec.structs.replace(found, reason=f"{reason}; {found.reason}")
            self.give_up(reason, found)
        else:
            self.give_up(reason)

    @property
    def speaks_first(self) -> bool:
        """Tell whether a server that is played is to speak first."""
        cassette = self.scope.cassette
        if self.has_server or self._server_socket is not None or cassette is None:
            return False
        return cassette.speaks_first(self.kind, self.names, self.plan.address[1])

    @property
    def expects_client(self) -> bool:
        """Tell whether what was recorded of this place begins with the client, when it likes."""
        cassette = self.scope.cassette
        port = self.plan.address[1]
        return cassette is not None and any(
            cassette.converses(kind, self.names, port) for kind in ("tcp", "tls")
        )

    @property
    def has_begun(self) -> bool:
        """Tell whether anything was said on it that was understood, or another test's."""
        return self._connection_flow is None

    @property
    def kind(self) -> str:
        """What a conversation of bytes is on it: tcp, or tls if that was taken off."""
        return "tls" if self.endpoint.tls else "tcp"

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which this place may have been recorded."""
        return (self.endpoint.host, *self.plan.names, self.plan.address[0])

    def _play_raw(self, reason: str, pending: bytes) -> None:
        script = self.engine.script(self)
        if isinstance(script, Miss):
            if begins_tls(pending):
                self.give_up(reason)
            else:
                self.unplayed(reason, script, pending)
            return
        layer = RawReplayLayer(self, script, reason)
        self.layer = layer
        self.engine.faulting.raw(self, layer.flow)
        layer.begin()
        if pending:
            layer.client_data(pending)

    def _relay(
        self, reason: str, pending: bytes, heard: bytes, flow: TcpFlow | None = None
    ) -> None:
        layer = self.layer = RawLayer(self, reason=reason, flow=flow)
        self.engine.faulting.raw(self, layer.flow)
        if not self.has_server:
            self.connect()
        if pending:
            self.layer.client_data(pending)
        if heard:
            self.layer.server_data(heard)

    # ── what the transports say ──────────────────────────────────────────────────────────────

    def connected(self, upstream_side: _Server | None, error: FlowError | None) -> None:
        """Take the answer to `connect`."""
        self._connecting = False
        if upstream_side is None or self._closed:
            if upstream_side is not None and upstream_side.transport is not None:
                upstream_side.transport.abort()
            self.layer.server_failed(error or FlowError("reset", "the client is gone"))
            return
        self._server = upstream_side
        transport = upstream_side.transport
        assert transport is not None
        self._to_server.attach(transport)
        if self._client is not None:
            self._pause(self._client, False)
        self.layer.server_connected()

    def client_full(self, full: bool) -> None:
        if self._server is not None and self._server.transport is not None:
            self._pause(self._server.transport, full)
        self._to_client.set_full(full)

    def server_full(self, full: bool) -> None:
        if self._client is not None:
            self._pause(self._client, full)
        self._to_server.set_full(full)

    def client_lost(self, error: Exception | None) -> None:
        if self._closed:
            return
        error = error or self.client_reset_error()
        self._client_gone()
        self._client_reset = error is not None
        if error is not None:
            self.layer.aborted("client", FlowError("reset", str(error)))
        elif not self.client_ended:
            self.client_ended = True
            self.layer.client_eof()
        self._finish()

    def server_lost(self, side: _Server, error: Exception | None) -> None:
        if side.transport is not None and self._server is side:
            self._count_left(side.transport)
        if self._closed or self._server is not side:
            return
        self._server = None
        if error is not None:
            self.layer.aborted("server", FlowError("reset", str(error)))
        elif not self.server_ended:
            self.layer.server_eof()
        self.server_ended = False

    def client_reset_error(self) -> ConnectionResetError | None:
        """Return what a transport would say, if the end that it has read was a reset."""
        if not was_reset(self._client_end):
            return None
        return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def client_ready(self, transport: asyncio.Transport) -> None:
        self._client = transport
        tls = transport.get_extra_info("ssl_object")
        self._tls_version = (tls.version() or "") if tls else ""
        self._to_client.attach(transport)

    def server_ready(self, side: _Server) -> None:
        """Use the transport of the socket that the gate connected."""
        if self._server is None and not self._connecting and side.transport is not None:
            self._server = side
            self._to_server.attach(side.transport)

    def count_left(self) -> None:
        """Count the packets that have left this machine so far."""
        if self._server is not None and self._server.transport is not None:
            self._count_left(self._server.transport)

    # ── inside ───────────────────────────────────────────────────────────────────────────────

    def _scope(self) -> tuple[Scope, bool]:
        asked = self.engine.control.catch_up()
        if asked != self._resolved_at:
            self._resolved = self.engine.scopes.resolve(
                self.plan.namespace, self.owner.is_test_process
            )
            self._resolved_at = asked
        return self._resolved

    def _outlet(self, side: str) -> Outlet:
        return self._to_client if side == "client" else self._to_server

    def _close_now(self) -> None:
        reset_socket(self._client_socket)
        self._client_socket = None
        if self._client is not None:
            self._client.close()
        else:
            self._finish()
        self._end_server()
        reset_socket(self._server_socket)
        self._server_socket = None

    def _eof_client_now(self) -> None:
        if self._client is None or self.endpoint.tls or not self._client.can_write_eof():
            self._close_now()
            return
        with contextlib.suppress(OSError, RuntimeError):
            self._client.write_eof()
        self._close_if_ended()

    def _eof_server_now(self) -> None:
        server = self._server.transport if self._server else None
        if server is None:
            return
        if server.can_write_eof():
            with contextlib.suppress(OSError, RuntimeError):
                server.write_eof()
            self._close_if_ended()
        else:
            server.close()

    def _close_if_ended(self) -> None:
        if self.client_ended and self.server_ended:
            self.close()

    def _end_server(self) -> None:
        """End the server's side as the client ended its own: with a reset after a reset."""
        server, self._server = self._server, None
        if server is None or server.transport is None:
            return
        self._count_left(server.transport)
        if self._client_reset:
            _abort(server.transport)
        else:
            server.transport.close()

    def _client_gone(self) -> None:
        self._closed = True
        self._to_client.clear()

    def _finish(self) -> None:
        """End what is still open, since nothing more can happen, and let go."""
        if self.over:
            return
        self._closed = self.over = True
        self._end_server()
        if self._flows:  # a stream that was cut off: the layer knows what has come of it
            self.layer.aborted("client", FlowError("eof", "the connection ended first"))
        if self._connection_flow is not None:
            self.record(self._connection_flow)
            self._connection_flow = None
        for flow in list(self._flows.values()):
            self.record(flow)
        self.engine.gone(self)

    def _count_left(self, transport: asyncio.Transport) -> None:
        sock = transport.get_extra_info("socket")
        peer = transport.get_extra_info("peername")
        if sock is not None and peer:
            total = self.engine.dialer.left_by(sock, peer[0])
            self.engine.left_machine(total - self._left)
            self._left = total

    @staticmethod
    def _pause(transport: asyncio.Transport, pause: bool) -> None:
        if transport.is_closing():
            return
        with contextlib.suppress(RuntimeError):
            if pause:
                transport.pause_reading()
            elif not transport.is_reading():
                transport.resume_reading()


def has_arrived(transport: asyncio.Transport | None) -> bool:
    """Tell whether all that was written has reached the peer's socket (tcp(7), SIOCOUTQ)."""
    if transport is None or transport.is_closing():
        return True
    sock = transport.get_extra_info("socket")
    left = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    return not transport.get_write_buffer_size() and not any(left)


def _abort(transport: asyncio.Transport, sock: socket.socket | None = None) -> None:
    """Close a transport, of `sock` if that is known, with a reset."""
    if sock is None or sock.fileno() < 0:
        sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError, ValueError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    transport.abort()
