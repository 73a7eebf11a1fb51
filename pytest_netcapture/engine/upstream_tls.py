"""TLS towards the real server, verified as the client would have.

1. A certificate is verified against the roots that this machine had before ours was added, plus
   `upstream_ca`; nothing is repaired: what is wrong with it is told, to be mirrored.
2. When verification fails the server is asked again without it, so that the client gets to see an
   equally bad certificate and decides for itself.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pytest_netcapture.engine.resumption import ResumingContext
from pytest_netcapture.flows import FlowError

_UNTRUSTED = {2, 18, 19, 20, 21, 23, 24, 26, 27, 28}
"""X509_V_ERR codes that mean: no chain to a root that we trust (x509_vfy.h)."""

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


@dataclass
class Upstream:
    """A TLS connection to a server. `problem` says what verification found, "" when nothing."""

    transport: asyncio.Transport
    protocol: Any
    certificate: bytes
    alpn: str = ""
    problem: str = ""
    trusted: bool = True


@dataclass
class UpstreamTls:
    """Contexts by what they trust and offer."""

    loop: Any
    roots: list[str]
    _contexts: dict[tuple[tuple[str, ...], tuple[str, ...], bool], ResumingContext] = field(
        default_factory=dict
    )

    async def connect(
        self,
        factory: ProtocolFactory,
        sock: socket.socket,
        *,
        redial: Callable[[], asyncio.Future[socket.socket]],
        server_name: str,
        alpn: tuple[str, ...],
        upstream_ca: tuple[str, ...],
    ) -> Upstream:
        """Shake hands over `sock`; over another from `redial` if the certificate is bad.

        Raises `UpstreamTlsError` when the server does not speak TLS with us at all.
        """
        try:
            try:
                context = self._context(alpn, upstream_ca, verify=True)
                return await self._handshake(factory, sock, context, server_name)
            except ssl.SSLCertVerificationError as error:
                context = self._context(alpn, upstream_ca, verify=False)
                upstream = await self._handshake(factory, await redial(), context, server_name)
                upstream.problem = error.verify_message or str(error)
                upstream.trusted = error.verify_code not in _UNTRUSTED
                return upstream
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            sock.close()
            raise UpstreamTlsError(FlowError("tls", _reason(error))) from error

    async def _handshake(
        self,
        factory: ProtocolFactory,
        sock: socket.socket,
        context: ResumingContext,
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

    def _context(
        self, alpn: tuple[str, ...], extra: tuple[str, ...], *, verify: bool
    ) -> ResumingContext:
        key = (alpn, extra, verify)
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = self._make(alpn, extra, verify=verify)
        return context

    def _make(
        self, alpn: tuple[str, ...], extra: tuple[str, ...], *, verify: bool
    ) -> ResumingContext:
        context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
        # Servers that close without close_notify are for HTTP framing to judge, as in the clients.
        context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        if verify:
            for path in (*self.roots, *extra):
                _load(context, path)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


def _load(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError):
        # A root file that OpenSSL cannot read trusts nobody; other clients skip it as well.
        return


def _reason(error: BaseException) -> str:
    return getattr(error, "reason", None) or str(error) or type(error).__name__


class UpstreamTlsError(Exception):
    """The server did not complete a handshake; `error` is what the client gets to feel."""

    def __init__(self, error: FlowError) -> None:
        super().__init__(error.detail)
        self.error = error
