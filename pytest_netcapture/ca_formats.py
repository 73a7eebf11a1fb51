"""The certificate of a CA in the forms that devices and programs import. No key is in any of them.

Tests: tests/test_ca_formats.py, with the programs that read them.
"""

from __future__ import annotations

import hashlib
import plistlib
import uuid
from collections.abc import Callable
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    pkcs12,
)

from pytest_netcapture.sandbox import java

_NAME = "netcapture"
_IDENTIFIER = "io.github.pytest-netcapture.ca"


class Exported(NamedTuple):
    """A file: the name that its readers expect, and its content."""

    name: str
    content: bytes


def _pem(certificate: x509.Certificate, _password: str) -> Exported:
    return Exported(f"{_NAME}.pem", certificate.public_bytes(Encoding.PEM))


def _der(certificate: x509.Certificate, _password: str) -> Exported:
    return Exported(f"{_NAME}.cer", certificate.public_bytes(Encoding.DER))


def _pkcs12(certificate: x509.Certificate, password: str) -> Exported:
    """RFC 7292, as Windows, Firefox and NSS import it."""
    one = pkcs12.PKCS12Certificate(certificate, _NAME.encode())
    sealed = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    content = pkcs12.serialize_key_and_certificates(None, None, None, [one], sealed)
    return Exported(f"{_NAME}.p12", content)


def _jks(certificate: x509.Certificate, password: str) -> Exported:
    """Java's own trust store."""
    word = password or java.PASSWORDS[0]
    empty = java.empty_jks(word)
    content = java.add_certificate(empty, certificate.public_bytes(Encoding.DER), [word])
    return Exported(f"{_NAME}.jks", content)


def _android(certificate: x509.Certificate, _password: str) -> Exported:
    """PEM, named as Android's system store does: `openssl x509 -subject_hash_old`."""
    subject = certificate.subject.public_bytes()
    digest = hashlib.md5(subject, usedforsecurity=False).digest()
    name = f"{int.from_bytes(digest[:4], 'little'):08x}.0"
    return Exported(name, certificate.public_bytes(Encoding.PEM))


def _apple(certificate: x509.Certificate, _password: str) -> Exported:
    """Return a configuration profile (Apple's reference of those), for iOS and macOS."""
    der = certificate.public_bytes(Encoding.DER)
    inner, outer = (str(uuid.uuid5(uuid.NAMESPACE_OID, der.hex() + part)) for part in ("a", "b"))
    root = {
        "PayloadType": "com.apple.security.root",
        "PayloadVersion": 1,
        "PayloadIdentifier": f"{_IDENTIFIER}.{inner}",
        "PayloadUUID": inner,
        "PayloadDisplayName": _NAME,
        "PayloadCertificateFileName": f"{_NAME}.cer",
        "PayloadContent": der,
    }
    profile = {
        "PayloadType": "Configuration",
        "PayloadVersion": 1,
        "PayloadIdentifier": _IDENTIFIER,
        "PayloadUUID": outer,
        "PayloadDisplayName": f"{_NAME} CA",
        "PayloadContent": [root],
    }
    return Exported(f"{_NAME}.mobileconfig", plistlib.dumps(profile))


FORMATS: dict[str, Callable[[x509.Certificate, str], Exported]] = {
    "pem": _pem,
    "der": _der,
    "pkcs12": _pkcs12,
    "jks": _jks,
    "android": _android,
    "apple": _apple,
}
SEALED = ("pkcs12", "jks")
"""Those that take a password."""


def export(pem: bytes, form: str, password: str = "") -> Exported:
    """Return a certificate, given as PEM, in one of `FORMATS`."""
    return FORMATS[form](x509.load_pem_x509_certificate(pem), password)
