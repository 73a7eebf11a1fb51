"""A client's side of TLS that stops when the server asks for a certificate.

1. We have none to show: such a handshake is the client's own to make, over a relay; unless servers
   of that protocol ask every client.
2. Neither `ssl` nor uvloop tell that a server asks, but the answer shows: in TLS 1.2 the message
   after the server's is a Certificate, even if empty (RFC 5246 §7.4.6); in TLS 1.3 it is one
   encrypted record more than the Finished (RFC 8446 §4.4.2).
3. It is raised before that answer is sent, so the server sees a client that went away.

Tests: tests/engine/test_tls_mutual.py.
"""

from __future__ import annotations

import ssl

from pytest_netcapture.engine.resumption import ResumingContext

_CHANGE_CIPHER_SPEC, _HANDSHAKE, _DATA = 20, 22, 23
_CERTIFICATE = 11
_HEADER = 5


class CertificateRequested(ssl.SSLError):
    """The server asks for a client certificate."""


class Handshake(ssl.SSLObject):
    """One TLS connection. uvloop passes an `SSLError` on to whoever waits for the handshake."""

    outgoing: ssl.MemoryBIO
    goes_without = False
    _greeted = False

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLWantReadError:
            self._look()
            raise
        self._look()

    def _look(self) -> None:
        if not self._greeted:
            self._greeted = True  # with a ClientHello
        elif self.outgoing.pending:
            flight = self.outgoing.read()
            if not self.goes_without and shows_a_certificate(flight):
                raise CertificateRequested("the server asks for a client certificate")
            self.outgoing.write(flight)


class HandshakeContext(ResumingContext):
    """Makes `Handshake`s. `goes_without`: a server may ask in vain."""

    sslobject_class = Handshake
    goes_without = False

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        tls = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(tls, Handshake)
        tls.outgoing, tls.goes_without = outgoing, self.goes_without
        return tls


def shows_a_certificate(flight: bytes) -> bool:
    """Tell whether a client's second flight has a Certificate in it."""
    position = encrypted = 0
    encrypts = False
    while position + _HEADER < len(flight):
        kind = flight[position]
        if kind == _CHANGE_CIPHER_SPEC:
            encrypts = True
        elif kind == _DATA:
            encrypted += 1
        elif kind == _HANDSHAKE and not encrypts and flight[position + _HEADER] == _CERTIFICATE:
            return True
        position += _HEADER + int.from_bytes(flight[position + 3 : position + _HEADER], "big")
    return encrypted > 1
