"""The throwaway certificate authority: its key is made in memory, lives there and dies there.

1. One P-256 key signs all leaves, another is all leaves' own: RSA would cost 40 ms a leaf.
2. A leaf satisfies strict verifiers (X509_V_FLAG_X509_STRICT, Go, Java, rustls/webpki): EKU, key
   identifiers, critical basic constraints and key usage; under 398 days unless the server's is not.
3. A mirror has what clients judge a server's certificate by: its alternative names, or none, its
   common name and its dates. So it is as good or as bad, whatever each client thinks of it.
4. Keys reach OpenSSL through a memory file; without memfd through a 0600 file removed at once.
5. tests/engine/test_authority.py shakes hands, and compares `subject_hash` with openssl's.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import ipaddress
import os
import secrets
import ssl
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_BEFORE = dt.timedelta(days=2)
_AFTER = dt.timedelta(days=30)
_COMMON_NAME_LIMIT = 64
_CACHED = 1000
_OF_DATES = ("expired", "not yet valid")


class _Signer(NamedTuple):
    """What is needed of an issuer to sign a leaf."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    authority_key: x509.AuthorityKeyIdentifier


class _Issuer:
    """A CA: its name, key and certificate."""

    def __init__(self, name: str, now: dt.datetime, lasts: dt.timedelta = _AFTER) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        public = self.key.public_key()
        identifier = x509.SubjectKeyIdentifier.from_public_key(public)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BEFORE)
            .not_valid_after(now + lasts)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(self.key, hashes.SHA256())
        )

    @classmethod
    def kept(cls, pem: bytes) -> _Issuer:
        """Return the one that `kept_ca` has written. Raises `ValueError`."""
        key = serialization.load_pem_private_key(pem, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("its key is of another kind")  # noqa: TRY004 - the file's fault
        issuer = cls.__new__(cls)
        issuer.key = key
        issuer.certificate = x509.load_pem_x509_certificate(pem)
        issuer.name = issuer.certificate.subject
        return issuer

    @functools.cached_property
    def signer(self) -> _Signer:
        identifier = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
        return _Signer(self.name, self.key, authority_key)


@dataclass(frozen=True)
class _Pattern:
    """What distinguishes one leaf from another."""

    name: str
    alternatives: x509.SubjectAlternativeName | None
    not_before: dt.datetime
    not_after: dt.datetime


class Authority:
    """Makes server contexts with leaves for any names; `ca_pem` is what clients are to trust."""

    def __init__(self, kept: bytes = b"") -> None:
        """`kept`: the key and certificate of a CA that the machine trusts. Raises `ValueError`."""
        now = dt.datetime.now(dt.timezone.utc).replace(microsecond=0)
        self._default = (now - _BEFORE, now + _AFTER)
        self._issuer = (
            _Issuer.kept(kept)
            if kept
            else _Issuer(f"netcapture throwaway CA {secrets.token_hex(4)}", now)
        )
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._public = self._key.public_key()
        self._key_identifier = x509.SubjectKeyIdentifier.from_public_key(self._public)
        self._key_pem = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        self._secrets = ""
        self._cached = functools.lru_cache(_CACHED)(self._make_context)
        self.leaf = functools.lru_cache(_CACHED)(self._make_leaf)

    @property
    def ca_pem(self) -> bytes:
        return self._issuer.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def ca_der(self) -> bytes:
        return self._issuer.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def subject_hash(self) -> str:
        """The name of the CA's file in a hashed certificate directory, without ".0"."""
        return subject_hash(self._issuer.name)

    def log_secrets(self, path: str) -> None:
        """Write the secrets of handshakes from now on to a file, in NSS's format."""
        if self._secrets != path:
            self._secrets = path
            self._cached.cache_clear()

    def server_context(
        self, names: tuple[str, ...], *, alpn: tuple[str, ...] = ()
    ) -> ssl.SSLContext:
        """Return a context with a leaf for `names` (DNS names, wildcards, addresses); cached."""
        return self._cached(names, alpn)

    def bad_context(
        self, names: tuple[str, ...], problem: str, *, alpn: tuple[str, ...] = ()
    ) -> ssl.SSLContext:
        """Return a context whose leaf is as bad as a `problem` of OpenSSL's says; cached.

        It has expired, is not valid yet, is signed by itself, or by an issuer whom nobody knows.
        """
        return self._cached(names, alpn, problem)

    def mirror(self, der: bytes, *, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
        """Return a context with a leaf like the certificate `der`; cached.

        Raises `ValueError` when that is malformed.
        """
        return self._cached(der, alpn)

    def _make_context(
        self, like: tuple[str, ...] | bytes, alpn: tuple[str, ...], problem: str = ""
    ) -> ssl.SSLContext:
        leaf, _ = self.leaf(like, problem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.num_tickets = 1  # enough to resume; OpenSSL's two are a tenth of the work
        if self._secrets:
            context.keylog_filename = self._secrets
        if alpn:
            context.set_alpn_protocols(list(alpn))
        pem = leaf.public_bytes(serialization.Encoding.PEM) + self._key_pem
        with _as_file(pem) as path:
            context.load_cert_chain(path)
        return context

    def _make_leaf(
        self, like: tuple[str, ...] | bytes, problem: str = ""
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """Return a leaf for names, or like a certificate (DER), and its key; cached as `leaf`.

        Raises `ValueError` when the certificate is malformed.
        """
        pattern = _pattern_of(like) if isinstance(like, bytes) else self._pattern(like, problem)
        return self._leaf(pattern, self._signer(pattern, problem)), self._key

    def _pattern(self, names: tuple[str, ...], problem: str) -> _Pattern:
        alternatives = _alternatives(names)
        name = str(alternatives[0].value)
        begin, end = self._default
        if "expired" in problem:
            begin, end = begin - _AFTER, begin
        elif "not yet valid" in problem:
            begin, end = end, end + _AFTER
        return _Pattern(name, x509.SubjectAlternativeName(alternatives), begin, end)

    def _signer(self, pattern: _Pattern, problem: str) -> _Signer:
        if problem.startswith("self-signed certificate") and "chain" not in problem:
            identifier = self._key_identifier
            own = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
            return _Signer(_subject(pattern.name), self._key, own)
        if problem and not any(words in problem for words in _OF_DATES):
            return _Issuer("a CA whom nobody knows", self._default[0] + _BEFORE).signer
        return self._issuer.signer

    def _leaf(self, pattern: _Pattern, signer: _Signer) -> x509.Certificate:
        subject = _subject(pattern.name)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(signer.name)
            .public_key(self._public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(pattern.not_before)
            .not_valid_after(pattern.not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(self._key_identifier, critical=False)
            .add_extension(signer.authority_key, critical=False)
        )
        if pattern.alternatives is not None:
            builder = builder.add_extension(pattern.alternatives, critical=not len(subject.rdns))
        return builder.sign(signer.key, hashes.SHA256())


def make_kept(host: str, lasts: dt.timedelta) -> bytes:
    """Return the key and certificate of a new CA that is to be kept, as PEM."""
    now = dt.datetime.now(dt.timezone.utc).replace(microsecond=0)
    issuer = _Issuer(f"netcapture on {host} {secrets.token_hex(4)}"[:64], now, lasts)
    key = issuer.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key + issuer.certificate.public_bytes(serialization.Encoding.PEM)


def _pattern_of(der: bytes) -> _Pattern:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what cryptography thinks of others' certificates
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        try:
            found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            alternatives = None
        except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
            raise ValueError(str(error)) from error
        else:
            alternatives = found.value
    dates = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return _Pattern(str(names[0].value) if names else "", alternatives, *dates)


def validity_of(der: bytes) -> tuple[dt.datetime, dt.datetime]:
    """Return the UTC times between which a certificate is valid. Raises `ValueError`."""
    certificate = x509.load_der_x509_certificate(der)
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def subject_hash(name: x509.Name) -> str:
    """Return OpenSSL's X509_NAME_hash: the first 32 bits of the canonical encoding's SHA-1.

    Little-endian, in hex. Canonical (x_name.c, `x509_name_canon`) is: each value as UTF8String in
    lower case, white space trimmed and collapsed, without the outer SEQUENCE.
    """
    canonical = b"".join(_canonical_rdn(rdn) for rdn in name.rdns)
    digest = hashlib.sha1(canonical, usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"


def _canonical_rdn(rdn: x509.RelativeDistinguishedName) -> bytes:
    entries = []
    for attribute in rdn:
        oid = x509.Name([x509.NameAttribute(attribute.oid, "x")]).public_bytes()
        value = " ".join(str(attribute.value).lower().split()).encode()
        entries.append(_tlv(0x30, _oid_of(oid) + _tlv(0x0C, value)))
    return _tlv(0x31, b"".join(sorted(entries)))


def _oid_of(encoded_name: bytes) -> bytes:
    """Cut the OID out of a name of one short attribute (three headers of two bytes before it)."""
    return encoded_name[6 : 8 + encoded_name[7]]


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(names: tuple[str, ...]) -> list[x509.GeneralName]:
    out: list[x509.GeneralName] = []
    for name in names:
        try:
            out.append(x509.IPAddress(ipaddress.ip_address(name.strip("[]").partition("%")[0])))
        except ValueError:
            out.append(x509.DNSName(_ascii(name)))
    return out or [x509.DNSName("invalid")]


def _ascii(name: str) -> str:
    """Return a DNS name as A-labels (RFC 5890); what has none keeps its ASCII part."""
    name = name.rstrip(".") or "invalid"
    if name.isascii():
        return name
    try:
        return ".".join(
            label if label.isascii() else label.encode("idna").decode() for label in name.split(".")
        )
    except UnicodeError:
        return name.encode("ascii", "ignore").decode() or "invalid"


def _subject(name: str) -> x509.Name:
    """Return a subject with that common name, or none if it is too long (RFC 5280, A.1)."""
    if not 0 < len(name.encode()) <= _COMMON_NAME_LIMIT:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Give `content` a path for as long as OpenSSL reads it."""
    try:
        descriptor = os.memfd_create("netcapture", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        with tempfile.NamedTemporaryFile(prefix="netcapture-", suffix=".pem") as file:
            file.write(content)
            file.flush()
            yield file.name
        return
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
