"""Ports of the host that lead into a sandbox: its servers, for who is outside.

1. The engine listens at 127.0.0.1 on the host. Who connects there is led to the port in the test's
   namespace, in one of its programs', or in the session's; nobody there: a reset.
2. What goes through is the outside's traffic, not the test's: it is not listed.
3. A port lasts until its scope ends; connections that are open then stay.

Tests: tests/engine/test_publisher.py.
"""

from __future__ import annotations

import errno
import socket
from functools import partial
from typing import TYPE_CHECKING

from pytest_netcapture.engine.connection import reset_socket
from pytest_netcapture.engine.dialer import Candidate
from pytest_netcapture.engine.relay import Relay
from pytest_netcapture.engine.scopes import Scope
from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import FlowError
from pytest_netcapture.redirect.kernel import OWN_V4

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine

_HOST = "127.0.0.1"
_INSIDE = ("127.0.0.1", "::1", OWN_V4)
_BACKLOG = 128


class Publisher:
    """The listening sockets of all scopes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: dict[int, list[socket.socket]] = {}

    def open(self, scope: Scope, port: int, host_port: int) -> int:
        """Listen on the host (0: on a free port) for `port` inside; return the host's port."""
        if not self._engine.redirector.isolates and host_port in {0, port}:
            return port  # there is no inside
        try:
            listener = socket.create_server((_HOST, host_port), backlog=_BACKLOG)
        except OSError as error:
            raise _refused(host_port, error) from error
        listener.setblocking(False)
        self._open.setdefault(scope.id, []).append(listener)
        self._engine.loop.add_reader(listener.fileno(), self._accept, listener, scope, port)
        return int(listener.getsockname()[1])

    def close(self, scope: Scope) -> None:
        for listener in self._open.pop(scope.id, ()):
            self._engine.loop.remove_reader(listener.fileno())
            listener.close()

    def close_all(self) -> None:
        while self._open:
            _, listeners = self._open.popitem()
            for listener in listeners:
                listener.close()

    def _accept(self, listener: socket.socket, scope: Scope, port: int) -> None:
        while True:
            try:
                guest, _ = listener.accept()
            except OSError:
                return  # nobody is left, or no descriptor; the loop asks again
            guest.setblocking(False)
            guest.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            places = [s.namespace for s in (scope, *scope.children)]
            places.append(self._engine.session_namespace)
            inside = [Candidate((a, port), p) for p in places if p is not None for a in _INSIDE]
            if not self._engine.redirector.isolates:
                inside = [Candidate((_HOST, port))]
            self._engine.dialer.dial(inside, partial(self._dialled, guest))

    def _dialled(
        self, guest: socket.socket, server: socket.socket | None, error: FlowError | None
    ) -> None:
        del error
        if server is None:
            reset_socket(guest)
        else:
            relay = Relay(self._engine, guest, server, lambda *_told: None)
            self._engine.connections.add(relay)


def _refused(port: int, error: OSError) -> UsageError:
    why = {
        errno.EADDRINUSE: "somebody listens there already",
        errno.EACCES: "ports below 1024 are for root, on the host",
    }.get(error.errno or 0, error.strerror or "")
    return UsageError(
        f"cannot publish at {_HOST}:{port} on the host: {why}",
        cure="choose another port, or none: a free one is found then",
    )
