"""Which TLS connections are relayed undecrypted, and why.

1. What the user names, and what we cannot speak, is told from the ClientHello.
2. A program that refused our certificate for a host is not shown it again in this run. Others may
   trust us, so theirs are decrypted all the same.
3. What a server wants or lacks (`learn`) is remembered for the scope that met it: the next test
   may have mapped the name elsewhere, and must not depend on which tests ran before.
4. `named` lists every host that was relayed though nobody asked for it.

Tests: tests/engine/test_tls_refusals.py, test_tls_mutual.py, test_tls_private.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_netcapture.engine.layers.sniff import TLS_1_2, TLS_1_3, ClientHello

if TYPE_CHECKING:
    from pytest_netcapture.engine.connection import Connection

_REMEMBERED = 1000

_Server = tuple[int, str, object]
"""A scope's number, a name, and where it is dialled."""


class Opaque:
    """Decides before a handshake; remembers what handshakes have shown."""

    def __init__(self) -> None:
        self._refusals: dict[tuple[str, int], dict[str, str]] = {}
        self._servers: dict[_Server, str] = {}
        self.named: dict[str, str] = {}

    def why(self, connection: Connection, hello: ClientHello) -> str:
        """Return why a connection is to be relayed, "" when it is not."""
        names = (hello.sni,) if hello.sni else connection.plan.names
        address, port = connection.plan.address
        for pattern in connection.scope.settings.passthrough:
            if pattern.matches(names, address, port):
                return f"passthrough ({pattern.text})"
        reason = _unspoken(hello) or self._refusal(connection)
        if not reason and self._servers:
            reason = self._servers.get(_server(connection), "")
        if reason:
            self.name(connection, reason)
        return reason

    def name(self, connection: Connection, reason: str) -> None:
        self.named["{}:{}".format(*_place(connection))] = reason

    def refused(self, connection: Connection, how: str) -> None:
        """Remember that the client's program does not trust us for this host."""
        program = connection.owner.process().name
        reasons = self._refusals.setdefault(_place(connection), {})
        reasons[program] = f"the client refused our certificate ({how})"

    def learn(self, connection: Connection, reason: str) -> None:
        """Remember why this server's connections are to be relayed."""
        if len(self._servers) >= _REMEMBERED:
            self._servers.clear()
        self._servers[_server(connection)] = reason

    def _refusal(self, connection: Connection) -> str:
        reasons = self._refusals.get(_place(connection))
        if not reasons:
            return ""
        program = connection.owner.process().name
        if not program:  # it has ended, or could not be asked: it may be any
            return next(iter(reasons.values()))
        return reasons.get(program) or reasons.get("", "")


def _unspoken(hello: ClientHello) -> str:
    """Return what the client speaks that we do not."""
    if TLS_1_2 not in hello.versions and TLS_1_3 not in hello.versions:
        return "the client speaks TLS older than 1.2 only"
    if not hello.ecdsa:
        return "the client takes no ECDSA certificate, as ours is"
    return ""


def _place(connection: Connection) -> tuple[str, int]:
    host = connection.tls_name or connection.endpoint.host
    return host.lower().rstrip("."), connection.plan.address[1]


def _server(connection: Connection) -> _Server:
    return connection.scope.id, connection.tls_name, connection.plan.candidates
