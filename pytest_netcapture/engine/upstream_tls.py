"""TLS towards the real server, verified as the client would have.

1. The server is offered what the client offers: its protocols (ALPN), versions, its SNI or none.
2. A certificate is verified against the roots that this machine had before ours was added, plus
   `upstream_ca`. What a leaf of ours can show just as well (its own dates, its names) is told in
   `Upstream.problem`, to be mirrored; for that the server is asked again without verification.
3. Whatever else goes wrong raises `UpstreamTlsError`: the client is then to see for itself, over a
   relay. A certificate of unknown issuer may be one that the client knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import ipaddress
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pytest_netcapture.engine.authority import validity_of
from pytest_netcapture.engine.handshake import CertificateRequested, HandshakeContext
from pytest_netcapture.engine.layers.alerts import HUNG_UP, alert_in
from pytest_netcapture.flows import FlowError

_NOT_YET_VALID, _EXPIRED, _HOSTNAME, _IP_ADDRESS = 9, 10, 62, 64
"""X509_V_ERR codes (x509_vfy.h); the first two are also an intermediate's."""
_MIRRORED = {_NOT_YET_VALID, _EXPIRED, _HOSTNAME, _IP_ADDRESS}
_CONTEXTS = 32

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class Offer(NamedTuple):
    """What the server is offered: protocols, and versions of TLS in their own numbers.

    `goes_without`: it may ask for a certificate, and gets none.
    """

    alpn: tuple[str, ...] = ()
    versions: tuple[int, ...] = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    goes_without: bool = False


@dataclass
class Upstream:
    """A TLS connection to a server. `problem` says what verification found, "" when nothing."""

    transport: asyncio.Transport
    protocol: Any
    certificate: bytes
    alpn: str = ""
    problem: str = ""
    code: int = 0

    @property
    def is_like_its_leaf(self) -> bool:
        """Tell whether one with the names and dates of its leaf is as good or as bad.

        It is not if the dates that are the problem are an issuer's.
        """
        if self.code not in (_NOT_YET_VALID, _EXPIRED):
            return True
        begin, end = validity_of(self.certificate)
        return not begin <= dt.datetime.now(dt.timezone.utc) <= end


@dataclass
class UpstreamTls:
    """Contexts by what they trust and offer."""

    loop: Any
    roots: list[str]
    _context: Callable[..., HandshakeContext] = field(init=False)

    def __post_init__(self) -> None:
        self._context = functools.lru_cache(_CONTEXTS)(self._make)

    async def connect(
        self,
        factory: ProtocolFactory,
        sock: socket.socket,
        *,
        redial: Callable[[], asyncio.Future[socket.socket]],
        server_name: str,
        offer: Offer,
        upstream_ca: tuple[str, ...],
    ) -> Upstream:
        """Shake hands over `sock`; over another from `redial` if the certificate is bad.

        Raises `UpstreamTlsError` when that cannot be, or what is bad cannot be mirrored.
        """
        try:
            name = _as_tls_wants_it(server_name)
            try:
                context = self._context(offer, upstream_ca, verify=True)
                return await self._handshake(factory, sock, context, name)
            except ssl.SSLCertVerificationError as error:
                problem = error.verify_message or str(error)
                if error.verify_code not in _MIRRORED:
                    raise UpstreamTlsError(problem, _UNTRUSTED, lasting=True) from error
                context = self._context(offer, upstream_ca, verify=False)
                upstream = await self._handshake(factory, await redial(), context, name)
                upstream.problem, upstream.code = problem, error.verify_code
                return upstream
        except UnicodeError as error:
            sock.close()
            raise UpstreamTlsError(str(error), "its name is malformed", blames=False) from error
        except CertificateRequested as error:
            raise UpstreamTlsError(error.args[0], blames=False, lasting=True) from error
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            sock.close()
            raise UpstreamTlsError(describe(error), _FAILED) from error

    async def _handshake(
        self,
        factory: ProtocolFactory,
        sock: socket.socket,
        context: HandshakeContext,
        server_name: str,
    ) -> Upstream:
        transport, protocol = await self.loop.create_connection(
            factory, sock=sock, ssl=context, server_hostname=server_name, ssl_shutdown_timeout=1.0
        )
        tls = transport.get_extra_info("ssl_object")
        context.connected(server_name, tls)
        return Upstream(
            transport,
            protocol,
            tls.getpeercert(binary_form=True) or b"",
            tls.selected_alpn_protocol() or "",
        )

    def _make(self, offer: Offer, extra: tuple[str, ...], *, verify: bool) -> HandshakeContext:
        context = HandshakeContext(ssl.PROTOCOL_TLS_CLIENT)
        # Servers that close without close_notify are for HTTP framing to judge, as in the clients.
        context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        context.goes_without = offer.goes_without
        context.minimum_version = ssl.TLSVersion(min(offer.versions))
        context.maximum_version = ssl.TLSVersion(max(offer.versions))
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            for path in (*self.roots, *extra):
                _load(context, path)
        if extra:  # which may name a server's own certificate, as curl's --cacert may
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if offer.alpn:
            context.set_alpn_protocols(list(offer.alpn))
        return context


def _load(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError):
        # A root file that OpenSSL cannot read trusts nobody; other clients skip it as well.
        return


@functools.lru_cache(256)
def _as_tls_wants_it(name: str) -> str:
    """Return a name or address; the latter is verified, but not sent (RFC 6066 §3).

    Raises `UnicodeError` for what is neither.
    """
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name))
    name = name.rstrip(".")
    if not name or "\0" in name:
        raise UnicodeError(repr(name))
    name.encode("idna")
    return name


def describe(error: BaseException) -> str:
    """Return an alert's name, or OpenSSL's or the system's reason."""
    if isinstance(error, ConnectionResetError) and error.errno is None:
        return HUNG_UP  # uvloop's for an end; that of a reset has its number
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return alert_in(reason) or reason or type(error).__name__


_FAILED = "the handshake with the server failed"
_UNTRUSTED = "the server's certificate is not trusted"


class UpstreamTlsError(Exception):
    """There is no TLS connection to the server of ours that is as good as the client's own.

    `reason` says why it is to be relayed, `blame` what is wrong with the server. `lasting`: it will
    be so the next time.
    """

    def __init__(
        self, detail: str, what: str = "", *, blames: bool = True, lasting: bool = False
    ) -> None:
        super().__init__(detail)
        self.error = FlowError("tls", detail)
        self.reason = f"{what}: {detail}" if what else detail
        self.blame = detail if blames else ""
        self.lasting = lasting
