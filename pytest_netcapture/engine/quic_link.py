"""A QUIC transport's edge: the socket it sends on, and its timer.

1. What goes out does so in `transmit`; the timer wakes the connection again when it says so.
2. A server is at the first candidate where one answers; ICMP's refusal (ECONNREFUSED) moves on to
   the next. It is verified as over TCP (upstream_tls.py), but a bad certificate is not mirrored:
   the client is to see that itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from aioquic.quic.packet import QuicErrorCode

from pytest_netcapture.engine.dialer import Candidate, error_of, is_loopback
from pytest_netcapture.engine.layers.alerts import OF_CERTIFICATES, name_of
from pytest_netcapture.engine.layers.quic_transport import Transport, as_client
from pytest_netcapture.engine.opener import DialError
from pytest_netcapture.engine.upstream_tls import UpstreamTlsError
from pytest_netcapture.flows import FlowError

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine

_PATIENCE = 10.0
"""Seconds that a server may take for its handshake."""
_NO_ERROR = 0x100
"""H3_NO_ERROR (RFC 9114 §8.1)."""


class Link:
    """A transport that sends with `send`; `woke` is called when its timer has fired."""

    def __init__(self, engine: Engine, transport: Transport, send: Callable[[bytes], None]) -> None:
        self._engine = engine
        self._loop = engine.loop
        self.transport = transport
        self._send = send
        self._timer: asyncio.TimerHandle | None = None
        self.woke: Callable[[], None] = self.transmit

    def transmit(self) -> None:
        """Send what is due, and set the timer for what will be."""
        now = self._engine.now() / 1e9
        for data in self.transport.to_send(now):
            self._send(data)
        self._stop_timer()
        due = self.transport.get_timer()
        if due is not None:
            self._timer = self._loop.call_later(max(due - now, 0.001), self._due)

    def close(self, code: int = _NO_ERROR) -> None:
        """End the connection, if it has not ended, and let go; idempotent."""
        self.transport.close(error_code=code)
        self.transmit()
        self._stop_timer()

    def _due(self) -> None:
        self._timer = None
        self.transport.handle_timer(self._engine.now() / 1e9)
        self.woke()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class ServerLink(Link):
    """A connection to a server; `heard` gets its datagrams once it is somebody's."""

    def __init__(
        self, engine: Engine, sock: socket.socket, transport: Transport, peer: str
    ) -> None:
        super().__init__(engine, transport, self._write)
        self._socket: socket.socket | None = sock
        self._away = not is_loopback(peer)
        self.heard: Callable[[bytes], None] = self._shake_hands
        self._ready: asyncio.Future[None] = engine.loop.create_future()
        self.woke = self._look
        self._loop.add_reader(sock.fileno(), self._readable)

    async def handshake(self) -> None:
        """Connect. Raises `DialError`; `UpstreamTlsError` for what TLS or QUIC say against it."""
        self.transport.start(self._engine.now() / 1e9)
        self.transmit()
        try:
            await asyncio.wait_for(self._ready, _PATIENCE)
        except asyncio.TimeoutError:
            self.close()
            raise DialError(FlowError("timeout", os.strerror(110))) from None
        except BaseException:
            self.close()
            raise

    def close(self, code: int = _NO_ERROR) -> None:
        if self._socket is not None:
            super().close(code)
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _write(self, data: bytes) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(OSError):  # a datagram that is lost is sent again
            self._socket.send(data)
            if self._away:
                self._engine.left_machine(1)

    def _readable(self) -> None:
        while self._socket is not None:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as error:
                if not self._ready.done():
                    self._ready.set_exception(DialError(error_of(error.errno or 0)))
                return
            self.heard(data)

    def _shake_hands(self, data: bytes) -> None:
        self.transport.receive(data, self._engine.now() / 1e9)
        self._look()

    def _look(self) -> None:
        """Tell whether the handshake is over; what comes after it is for who waits."""
        self.transmit()
        if self._ready.done():
            return
        for _ in self.transport.taken():
            if self.transport.established:
                self._ready.set_result(None)
                return
        end = self.transport.end
        if end is not None:
            self._ready.set_exception(_problem(self.transport))


async def dial(engine: Engine, candidates: list[Candidate], name: str, roots: str) -> ServerLink:
    """Return a connection to the first candidate that answers.

    Raises `DialError` when none does, `UpstreamTlsError` when what answers will not do.
    """
    last = FlowError("refused")
    for candidate in candidates:
        address = candidate.address
        if candidate.namespace is None and not engine.dialer.permitted(address[0]):
            last = FlowError("unreachable", "the engine may dial loopback only")
            continue
        sock = engine.dialer.make_socket(candidate.namespace, address[0], socket.SOCK_DGRAM)
        try:
            sock.connect(address)
        except OSError as error:
            sock.close()
            last = error_of(error.errno or 0)
            continue
        link = ServerLink(engine, sock, Transport(as_client(name, roots)), address[0])
        try:
            await link.handshake()
        except DialError as failed:
            last = failed.error
        else:
            return link
    raise DialError(last)


def _problem(transport: Transport) -> UpstreamTlsError:
    """Return why a server's handshake failed."""
    alert, end = transport.alert, transport.end
    assert end is not None
    if alert is None:
        detail = end.reason_phrase or f"QUIC error 0x{end.error_code:x}"
        refused = end.error_code == QuicErrorCode.CONNECTION_REFUSED
        return UpstreamTlsError(detail, "the server refuses QUIC" if refused else _FAILED)
    name = name_of(alert)
    if name in OF_CERTIFICATES:
        return UpstreamTlsError(end.reason_phrase or name, _UNTRUSTED, lasting=True)
    return UpstreamTlsError(end.reason_phrase or name, _FAILED, lasting=name == _NO_HTTP3)


_FAILED = "the QUIC handshake with the server failed"
_UNTRUSTED = "the server's certificate is bad"
_NO_HTTP3 = "no_application_protocol"
