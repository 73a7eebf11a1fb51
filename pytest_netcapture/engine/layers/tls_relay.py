"""TLS that is passed on unread; a handshake that fails is noticed all the same.

1. Only the headers of the client's records are looked at (RFC 8446 §5.1), and only until it has
   sent data; then bytes pass as in any relay.
2. A client that is content sends a Finished, then data. One that refuses the server's certificate
   sends an alert or hangs up instead: of the Finished, or, as some verify later, of the data.
3. Looking whether a server does TLS is done the same way. So a client that goes no further than its
   Finished has failed only where the engine itself found the server at fault.

4. A failure that the server brings about is recorded before the client gets to know.

Tests: tests/engine/layers/test_tls_relay.py, and with real clients tests/engine/test_tls_*.py.
"""

from __future__ import annotations

from pytest_netcapture.engine.layers.alerts import HUNG_UP, name_of
from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.engine.layers.raw import RawLayer
from pytest_netcapture.flows import FlowError, TlsFailure

_CHANGE_CIPHER_SPEC, _ALERT, _HANDSHAKE, _DATA = 20, 21, 22, 23
_RECORDS = range(_CHANGE_CIPHER_SPEC, _DATA + 1)
_FATAL = 2
_HEADER = 5
_DESCRIPTION = _HEADER + 1
"""Where an alert that is not encrypted says which it is."""
_ENCRYPTED_ALERT, _EMPTY_CERTIFICATE, _FINISHED = 19, 25, 53
"""Lengths of TLS 1.3 records: the first two exactly, the third at least (SHA-256)."""
_OLD_FINISHED = range(32, 97)
"""The length of TLS 1.2's, by cipher; a hello, which also may come at its place, is longer."""


class TlsRelay(RawLayer):
    """A relay of TLS. `blame` is what the engine found wrong with the server, "" for nothing."""

    def __init__(self, context: Context, reason: str, *, sni: str = "", blame: str = "") -> None:
        super().__init__(context, reason, sni=sni, opaque=True)
        self._blame = blame
        self._progress: Progress | None = Progress()
        self._server_alert = ""
        self._ended_by = ""

    def client_data(self, data: bytes) -> None:
        if self._progress is not None:
            self._progress.feed(data)
            if self._progress.steps > 1:
                self._progress = None
        super().client_data(data)

    def client_eof(self) -> None:
        self._ended_by = self._ended_by or "client"
        super().client_eof()

    def server_data(self, data: bytes) -> None:
        if not self.flow.received:
            self._server_alert = _refusal(data)
            if self._server_alert:
                self._conclude()
        super().server_data(data)

    def server_eof(self) -> None:
        self._ended_by = self._ended_by or "server"
        if self._progress is not None and not self._progress.steps:
            self._conclude()
        super().server_eof()

    def server_failed(self, error: FlowError) -> None:
        self._progress = None  # the flow's error says it all
        super().server_failed(error)

    def aborted(self, side: str, error: FlowError) -> None:
        self._ended_by = self._ended_by or side
        super().aborted(side, error)

    def _record(self, error: FlowError | None) -> None:
        self._conclude()
        super()._record(error)

    def _conclude(self) -> None:
        """Look no more; record the handshake if it has failed."""
        progress, self._progress = self._progress, None
        if progress is None:
            return
        side, detail = self._failure(progress)
        if detail:
            flow = TlsFailure(
                side=side, sni=self.flow.sni, detail=detail, error=FlowError("tls", detail)
            )
            self._context.begin(flow)
            self._context.record(flow)

    def _failure(self, progress: Progress) -> tuple[str, str]:
        """Return on whose side the handshake failed, and how, or ""."""
        if self._blame:
            return "server", self._blame
        if progress.steps:
            return "", ""
        if progress.alert:
            return "client", progress.alert
        if self._server_alert or self._ended_by == "server":
            return "server", self._server_alert or HUNG_UP
        return "client", HUNG_UP if self.flow.received else ""


def _refusal(data: bytes) -> str:
    """Return what a server answers a hello with if it is no handshake."""
    if data[0] not in _RECORDS:
        return "no TLS"
    if data[0] == _ALERT and len(data) > _DESCRIPTION and data[_HEADER] == _FATAL:
        return name_of(data[_DESCRIPTION])
    return ""


class Progress:
    """How far a client has come: `steps` is 1 when it has finished its handshake, 2 after that.

    `alert` is the one that it sent instead.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.alert = ""
        self._head = b""
        self._skip = 0
        self._encrypts = False

    def feed(self, data: bytes) -> None:
        while data:
            if self._skip:
                cut = min(self._skip, len(data))
                self._skip -= cut
                data = data[cut:]
                continue
            wanted = _DESCRIPTION + 1 if (self._head or data)[0] == _ALERT else _HEADER
            cut = wanted - len(self._head)
            self._head, data = self._head + data[:cut], data[cut:]
            if len(self._head) < wanted:
                return
            head, self._head = self._head, b""
            length = int.from_bytes(head[3:_HEADER], "big")
            self._skip = max(_HEADER + length - wanted, 0)
            self._record(head[0], length, head[-1])

    def _record(self, kind: int, length: int, last: int) -> None:
        if kind == _CHANGE_CIPHER_SPEC:
            self._encrypts = True
        elif kind == _ALERT and length == 2 and not self.steps:
            self.alert = name_of(last)
        elif kind == _HANDSHAKE and self._encrypts and length in _OLD_FINISHED:
            self.steps += 1
        elif kind == _DATA and self.steps:
            self.steps += length != _ENCRYPTED_ALERT
        elif kind == _DATA and length >= _FINISHED:
            self.steps = 1
        elif kind == _DATA and length != _EMPTY_CERTIFICATE:
            self.alert = "an encrypted alert"
