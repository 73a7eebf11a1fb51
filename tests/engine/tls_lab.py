"""Bad certificates of every kind, and clients of several makes that get a URL, with and without us.

A client runs twice against the same server, at the same URL: outside of any sandbox, and inside with
loopback captured. What it then says must be the same, to the letter.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import trustme
from building import Builder, needs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "localhost"
NOW = dt.datetime.now(dt.timezone.utc)
DAY = dt.timedelta(days=1)
PROGRAMS = Path(__file__).parent / "tls_programs"


class Authorities:
    """A CA that clients are told to trust (`file`), and one that nobody knows."""

    def __init__(self, directory: Path) -> None:
        self.known = trustme.CA()
        self.stranger = trustme.CA()
        self.file = str(directory / "known-ca.pem")
        self.strange_file = str(directory / "strange-ca.pem")
        self.known.cert_pem.write_to_path(self.file)
        self.stranger.cert_pem.write_to_path(self.strange_file)
        self._directory = directory

    def context(self, kind: str) -> ssl.SSLContext:
        """Return a server's context with a certificate of that kind for `HOST`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if kind == "self-signed":
            context.load_cert_chain(self.self_signed())
        elif kind == "common name only":
            context.load_cert_chain(self.common_name_only())
        elif kind == "expired intermediate":
            context.load_cert_chain(self.expired_intermediate())
        else:
            self._issue(kind).configure_cert(context)
        return context

    def _issue(self, kind: str) -> trustme.LeafCert:
        if kind == "good":
            return self.known.issue_cert(HOST)
        if kind == "expired":
            return self.known.issue_cert(HOST, not_before=NOW - 9 * DAY, not_after=NOW - DAY)
        if kind == "not yet valid":
            return self.known.issue_cert(HOST, not_before=NOW + DAY, not_after=NOW + 9 * DAY)
        if kind == "wrong host":
            return self.known.issue_cert("other.example", "*.other.example")
        if kind == "wrong host, expired":
            return self.known.issue_cert(
                "other.example", not_before=NOW - 9 * DAY, not_after=NOW - DAY
            )
        assert kind == "unknown issuer"
        return self.stranger.issue_cert(HOST)

    def self_signed(self) -> str:
        key, builder = self._begin(HOST, HOST)
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False
        )
        return self._write("self-signed", key, builder.sign(key, hashes.SHA256()))

    def common_name_only(self) -> str:
        key, builder = self._begin(HOST, "")
        builder = builder.issuer_name(self._ca.subject)
        return self._write("common-name", key, builder.sign(self._ca_key, hashes.SHA256()))

    def expired_intermediate(self) -> str:
        """Return a good leaf whose issuer, which the known CA signed, has expired."""
        issuer_key, issuer = self._begin("Intermediate", "", end=NOW - DAY)
        issuer = issuer.issuer_name(self._ca.subject).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        key, leaf = self._begin(HOST, "Intermediate")
        leaf = leaf.add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        return self._write(
            "intermediate",
            key,
            leaf.sign(issuer_key, hashes.SHA256()),
            issuer.sign(self._ca_key, hashes.SHA256()),
        )

    @property
    def _ca(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.known.cert_pem.bytes())

    @property
    def _ca_key(self) -> Any:
        return serialization.load_pem_private_key(self.known.private_key_pem.bytes(), None)

    @staticmethod
    def _begin(name: str, issuer: str, end: dt.datetime = NOW + 9 * DAY) -> tuple[Any, Any]:
        def as_name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(as_name(name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 9 * DAY)
            .not_valid_after(end)
        )
        return key, builder.issuer_name(as_name(issuer)) if issuer else builder

    def _write(self, name: str, key: Any, *chain: x509.Certificate) -> str:
        path = self._directory / f"{name}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        certificates = [c.public_bytes(serialization.Encoding.PEM) for c in chain]
        path.write_bytes(private + b"".join(certificates))
        return str(path)


class Client(NamedTuple):
    """A program that gets a URL, and has curl's options for what to trust."""

    name: str
    command: Callable[[Builder], list[str]]


def _go(builder: Builder) -> list[str]:
    environ = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOPROXY": "off"}
    if not os.access(os.path.expanduser("~"), os.W_OK):
        environ["GOCACHE"] = str(builder.directory / "go-cache")
    source = str(PROGRAMS / "get.go")
    return [str(builder.build("tls-go", [needs("go"), "build", "-o", "tls-go", source], environ))]


CLIENTS = [
    Client("curl", lambda _: [needs("curl"), "-sS"]),
    Client("requests", lambda _: [sys.executable, str(PROGRAMS / "get.py")]),
    Client("node", lambda _: [needs("node"), str(PROGRAMS / "get.js")]),
    Client("go", _go),
]


class Answer(NamedTuple):
    """How a client ended, and what it said."""

    status: int
    output: str
    errors: str


def run(command: list[str], **environ: str) -> Answer:
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Answer(done.returncode, done.stdout.strip(), _without_times(done.stderr.strip()))


def _without_times(text: str) -> str:
    """Leave out the time, and what Node calls its thread."""
    return re.sub(
        r"\b[0-9A-F]{12,16}:error", "error", re.sub(r"current time \S+", "current time", text)
    )


def trusting(file: str) -> dict[str, str]:
    """Return the variables that make every one of `CLIENTS` trust a CA."""
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
    return dict.fromkeys(names, file)


class Told(NamedTuple):
    """What a flow tells of a connection: kind, text, reason or detail, and the name in its hello."""

    protocol: str
    text: str
    why: str = ""
    sni: str = ""

    @property
    def brief(self) -> tuple[str, str]:
        return self.protocol, self.why


def told(flow: Any) -> Told:
    why = getattr(flow, "reason", "") or getattr(flow, "detail", "")
    return Told(flow.protocol, str(flow), why, getattr(flow, "sni", ""))


NAME = "api.example.com"
GET = f"GET /x HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()


def fetch(
    name: str = NAME,
    port: int = 443,
    *,
    context: ssl.SSLContext | None = None,
    data: bytes = GET,
) -> tuple[bytes, Any, str | None]:
    """Return the first of the answer, the server's certificate and the protocol (ALPN)."""
    context = context or ssl.create_default_context()
    with (
        socket.create_connection((name, port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=name) as tls,
    ):
        tls.sendall(data)
        return tls.recv(65536), tls.getpeercert(), tls.selected_alpn_protocol()


def dial(
    context: ssl.SSLContext | None = None,
) -> tuple[socket.socket, ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """Return a connection and a client for it whose hello lies, unsent, in the last one."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = (context or ssl.create_default_context()).wrap_bio(
        incoming, outgoing, server_hostname=NAME
    )
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return socket.create_connection((NAME, 443), timeout=10), tls, incoming, outgoing


def pump(
    raw: socket.socket, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, step: Callable[[], Any]
) -> Any:
    """Return what `step` of a client from `dial` returns, after as many round trips as it takes."""
    while True:
        try:
            done = step()
        except ssl.SSLWantReadError:
            raw.sendall(outgoing.read())
            data = raw.recv(65536)
            if data:
                incoming.write(data)
            else:
                incoming.write_eof()
        else:
            raw.sendall(outgoing.read())
            return done


def seen(sandbox: Any) -> list[Told]:
    """Return what flows tell of every connection so far, when all are over."""
    flows = lambda: [f for f in sandbox.flows() if f.protocol != "dns"]
    sandbox.wait(lambda: flows() and all(f.ended for f in flows()))
    return [told(f) for f in flows()]
