"""A server that ended a TLS handshake when recorded, while it is played.

Tests: tests/engine/test_tls_replay.py.
"""

from __future__ import annotations

from pytest_netcapture.engine.layers.layer import Context, Ignoring


class TlsRefusal(Ignoring):
    """Answers the client's first bytes with an alert, or none, and ends the connection."""

    def __init__(self, context: Context, alert: bytes) -> None:
        self._context = context
        self._alert = alert

    def client_data(self, data: bytes) -> None:
        del data
        if self._alert:
            self._context.to_client(self._alert)
        self._context.close()

    def client_eof(self) -> None:
        self._context.close()
