"""Java's trust stores: which exist here, and one of them with our certificate added.

1. A store keeps its format, its entries and, as far as anybody checks it, its password: an entry is
   added, nothing is decoded. What reads the original reads the copy. Proof:
   test_keytool_reads_what_was_added, and tests/clients for what JDKs make of it.
2. JKS (sun.security.provider.JavaKeyStore): header, entries, SHA-1 over password, a constant and
   both. The digest is made again with the password that fits the original.
3. PKCS #12 (RFC 7292): one more SafeContents, not encrypted, holding a certificate with Oracle's
   attribute "trusted key usage", without which it is not a root to Java. The MAC is left out: it
   can be made only with the password, and no JDK misses it. Definite lengths only, as Java writes.
4. Only known places are looked at: under 1 ms. Proof: test_looking_for_stores_is_quick.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox.original import original, real_path

SYSTEM_STORES = (
    "/etc/ssl/certs/java/cacerts",  # Debian, Ubuntu
    "/etc/pki/ca-trust/extracted/java/cacerts",  # Fedora, RHEL
    "/etc/pki/java/cacerts",
    "/var/lib/ca-certificates/java-cacerts",  # SUSE
    "/etc/ssl/certs/java/jssecacerts",
    "/etc/ca-certificates/extracted/java-cacerts.jks",
)
HOME_VARIABLES = ("JAVA_HOME", "JDK_HOME", "JRE_HOME", "GRAALVM_HOME")
HOLDERS = ("/usr/lib/jvm", "/usr/lib64/jvm", "/usr/java", "/opt", "/opt/java", "/usr/local")
"""Directories that hold JDKs, one a directory."""
USER_HOLDERS = (
    ".sdkman/candidates/java",
    ".jdks",
    ".gradle/jdks",
    ".asdf/installs/java",
    ".local/share/mise/installs/java",
    ".jabba/jdk",
    ".jbang/cache/jdks",
    ".cache/coursier/jvm",
)
IN_A_HOME = (
    "lib/security/cacerts",
    "lib/security/jssecacerts",  # read instead of cacerts where it exists
    "jre/lib/security/cacerts",
    "jre/lib/security/jssecacerts",
)
OPTION_VARIABLES = (
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "_JAVA_OPTIONS",
    "JAVA_OPTS",
    "MAVEN_OPTS",
    "GRADLE_OPTS",
    "SBT_OPTS",
)

PASSWORDS = ("changeit", "changeme")
"""The JDKs', and macOS' own."""
ALIAS = "netcapture"

_JKS_MAGIC = 0xFEEDFEED
_JKS_SALT = b"Mighty Aphrodite"
_TRUSTED_CERTIFICATE = 2
_DIGEST_SIZE = 20

_SEQUENCE, _SET, _INTEGER, _OCTETS, _BMP_STRING, _EXPLICIT = 0x30, 0x31, 0x02, 0x04, 0x1E, 0xA0
_DATA = bytes.fromhex("06092a864886f70d010701")
_CERT_BAG = bytes.fromhex("060b2a864886f70d010c0a0103")
_X509 = bytes.fromhex("060a2a864886f70d01091601")
_FRIENDLY_NAME = bytes.fromhex("06092a864886f70d010914")
_TRUSTED_KEY_USAGE = bytes.fromhex("060c6086480186f966adca7b0101")
_ANY_USAGE = bytes.fromhex("0604551d2500")
_PFX_VERSION = 3

_STORE_OPTION = re.compile(r"-Djavax\.net\.ssl\.trustStore=(\S+)")
_PASSWORD_OPTION = re.compile(r"-Djavax\.net\.ssl\.trustStorePassword=(\S+)")


def find_stores(environ: Mapping[str, str]) -> list[str]:
    """Return the real path of every trust store that exists."""
    found: dict[str, None] = {}
    for path in _candidates(environ):
        try:
            if stat.S_ISREG(original.stat(path).st_mode):
                found[real_path(path)] = None
        except (OSError, ValueError):
            continue
    return list(found)


def passwords(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the passwords that a store may have: those in Java's options, and the usual ones."""
    named = (_PASSWORD_OPTION.findall(environ.get(name, "")) for name in OPTION_VARIABLES)
    return (*(word for words in named for word in words), *PASSWORDS)


def add_certificate(store: bytes, der: bytes, known: Iterable[str] = PASSWORDS) -> bytes:
    """Return the store with the certificate added.

    Raises `EnvironmentProblem` if it is of no known format.
    """
    if store[:4] == _JKS_MAGIC.to_bytes(4, "big"):
        return _add_to_jks(store, der, known)
    if store[:1] == bytes([_SEQUENCE]):
        return _add_to_pkcs12(store, der)
    raise EnvironmentProblem("a key store that is neither JKS nor PKCS #12")


# ── where they are ───────────────────────────────────────────────────────────────────────────────


def _candidates(environ: Mapping[str, str]) -> Iterator[str]:
    for name in OPTION_VARIABLES:
        yield from _STORE_OPTION.findall(environ.get(name, ""))
    yield from SYSTEM_STORES
    for home in _homes(environ):
        for name in IN_A_HOME:
            yield f"{home}/{name}"


def _homes(environ: Mapping[str, str]) -> Iterator[str]:
    yield from (environ[name] for name in HOME_VARIABLES if environ.get(name))
    for directory in environ.get("PATH", "").split(os.pathsep):
        path = real_path(f"{directory}/java") if directory.startswith("/") else ""
        if path.endswith("/bin/java"):
            yield path.removesuffix("/bin/java")
    user = environ.get("HOME", "")
    own = (f"{user}/{name}" for name in USER_HOLDERS) if user else ()
    for holder in (*HOLDERS, *own):
        yield from (f"{holder}/{name}" for name in _names(holder))


def _names(directory: str) -> list[str]:
    try:
        return sorted(original.listdir(directory))
    except OSError:
        return []


def empty_jks(password: str) -> bytes:
    """Return a JKS store that holds nothing."""
    body = struct.pack(">III", _JKS_MAGIC, 2, 0)
    return body + _jks_digest(body, password)


# ── JKS ──────────────────────────────────────────────────────────────────────────────────────────


def _add_to_jks(store: bytes, der: bytes, known: Iterable[str]) -> bytes:
    try:
        version, count = struct.unpack_from(">II", store, 4)
    except struct.error as error:
        raise EnvironmentProblem(f"a JKS key store that is not understood: {error}") from error
    body, digest = store[:-_DIGEST_SIZE], store[-_DIGEST_SIZE:]
    if version != 2:
        raise EnvironmentProblem(f"a JKS key store of version {version}, not 2")
    known = list(known)
    password = next((word for word in known if _jks_digest(body, word) == digest), known[0])
    now = original.time() * 1000
    entry = (
        struct.pack(">I", _TRUSTED_CERTIFICATE)
        + _utf(ALIAS)
        + struct.pack(">Q", int(now))
        + _utf("X.509")
        + struct.pack(">I", len(der))
        + der
    )
    added = store[:8] + struct.pack(">I", count + 1) + body[12:] + entry
    return added + _jks_digest(added, password)


def _jks_digest(body: bytes, password: str) -> bytes:
    digest = hashlib.sha1(password.encode("utf-16-be") + _JKS_SALT, usedforsecurity=False)
    digest.update(body)
    return digest.digest()


def _utf(text: str) -> bytes:
    """Encode as java.io.DataOutput.writeUTF does; ours is ASCII."""
    return struct.pack(">H", len(text)) + text.encode("ascii")


# ── PKCS #12 ─────────────────────────────────────────────────────────────────────────────────────


def _add_to_pkcs12(store: bytes, der: bytes) -> bytes:
    try:
        pfx, _ = _read(store, _SEQUENCE)
        _, rest = _read(pfx, _INTEGER)
        content_info, _ = _read(rest, _SEQUENCE)
        explicit, _ = _read(_after(_DATA, content_info), _EXPLICIT)
        octets, _ = _read(explicit, _OCTETS)
        safes, _ = _read(octets, _SEQUENCE)
    except (ValueError, IndexError) as error:
        raise EnvironmentProblem(f"a PKCS #12 key store that is not understood: {error}") from error
    everything = _tlv(_SEQUENCE, safes + _data(_tlv(_SEQUENCE, _safe_bag(der))))
    return _tlv(_SEQUENCE, _tlv(_INTEGER, bytes([_PFX_VERSION])) + _data(everything))


def _safe_bag(der: bytes) -> bytes:
    """Return a SafeBag with the certificate, a root to Java (RFC 7292 §4.2.3)."""
    certificate = _tlv(_SEQUENCE, _X509 + _tlv(_EXPLICIT, _tlv(_OCTETS, der)))
    name = _tlv(_BMP_STRING, ALIAS.encode("utf-16-be"))
    attributes = _attribute(_FRIENDLY_NAME, name) + _attribute(_TRUSTED_KEY_USAGE, _ANY_USAGE)
    return _tlv(_SEQUENCE, _CERT_BAG + _tlv(_EXPLICIT, certificate) + _tlv(_SET, attributes))


def _attribute(oid: bytes, value: bytes) -> bytes:
    return _tlv(_SEQUENCE, oid + _tlv(_SET, value))


def _data(content: bytes) -> bytes:
    """Return a ContentInfo of type data."""
    return _tlv(_SEQUENCE, _DATA + _tlv(_EXPLICIT, _tlv(_OCTETS, content)))


def _after(start: bytes, data: bytes) -> bytes:
    if not data.startswith(start):
        raise ValueError("its content is signed, not plain data")
    return data[len(start) :]


def _read(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Return the content of the element at the start, and what follows it (X.690 §8.1)."""
    if data[0] != tag:
        raise ValueError(f"tag {data[0]:#04x}, not {tag:#04x}")
    length, start = data[1], 2
    if length == 0x80:
        raise ValueError("indefinite length")
    if length > 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if start + length > len(data):
        raise ValueError("cut short")
    return data[start : start + length], data[start + length :]


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content
