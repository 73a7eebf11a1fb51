"""The authority's certificates, as the strictest clients see them."""

from __future__ import annotations

import contextlib
import datetime as dt
import glob
import ipaddress
import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netcapture.engine import authority as module
from pytest_netcapture.engine.authority import Authority, validity_of

AUTHORITY = Authority()


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=AUTHORITY.ca_pem.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def shake(server: ssl.SSLContext, name: str, client: ssl.SSLContext | None = None) -> ssl.SSLObject:
    """Shake hands over memory; return the client's side."""
    a, b, c, d = (ssl.MemoryBIO() for _ in range(4))
    ours = (client or client_context()).wrap_bio(a, b, server_hostname=name)
    theirs = server.wrap_bio(c, d, server_side=True)
    for _ in range(6):
        for side in (ours, theirs):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
            c.write(b.read())
            a.write(d.read())
    ours.do_handshake()
    return ours


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (("a.example",), "a.example"),
        (("*.example.com", "example.com"), "www.example.com"),
        (("192.0.2.1",), "192.0.2.1"),
        (("2001:db8::1",), "2001:db8::1"),
        (("my_host.example",), "my_host.example"),
        (("x" * 60 + ".example.com",), "x" * 60 + ".example.com"),
        (("café.example",), "xn--caf-dma.example"),
        (("localhost",), "localhost"),
        (("other.example", "192.0.2.9", "b.example"), "b.example"),
        (("a.example.",), "a.example"),
    ],
)
def test_strict_clients_accept_a_leaf(names: tuple[str, ...], name: str) -> None:
    shake(AUTHORITY.server_context(names), name)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_and_alpn(version: ssl.TLSVersion) -> None:
    client = client_context()
    client.minimum_version = client.maximum_version = version
    client.set_alpn_protocols(["h2", "http/1.1"])
    done = shake(AUTHORITY.server_context(("a.example",), alpn=("http/1.1",)), "a.example", client)
    assert done.selected_alpn_protocol() == "http/1.1"
    assert done.version() == {771: "TLSv1.2", 772: "TLSv1.3"}[version]


def test_another_name_is_refused() -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(AUTHORITY.server_context(("a.example",)), "b.example")


def certificate(
    *names: str,
    subject: str = "",
    days: tuple[int, int] = (-9, 9),
    extra: x509.ExtensionType | None = None,
) -> bytes:
    """Return a server's certificate by some other CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
    now = dt.datetime.now(dt.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another CA")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
    )
    if names:
        alternatives = [x509.DNSName(each) for each in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    if extra is not None:
        builder = builder.add_extension(extra, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def mirrored(der: bytes, name: str) -> x509.Certificate:
    """Return the leaf that a client which does not verify is shown."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    shown = shake(AUTHORITY.mirror(der), name, client).getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


def test_a_mirror_is_good_for_what_the_original_is() -> None:
    der = certificate("*.example.com", "example.com", subject="example.com", days=(-300, 300))
    done = shake(AUTHORITY.mirror(der), "www.example.com")
    shown = done.getpeercert(binary_form=True)
    assert shown is not None
    assert validity_of(shown) == validity_of(der)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(AUTHORITY.mirror(der), "example.org")


@pytest.mark.parametrize(("days", "word"), [((-9, -1), "expired"), ((1, 9), "not yet valid")])
def test_a_mirror_is_bad_at_the_times_when_the_original_is(
    days: tuple[int, int], word: str
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=word):
        shake(AUTHORITY.mirror(certificate("a.example", days=days)), "a.example")


@pytest.mark.parametrize(
    ("names", "subject"),
    [(("a.example",), ""), ((), "a.example"), (("a.example",), "b.example"), ((), "")],
)
def test_a_mirror_is_named_where_the_original_is(names: tuple[str, ...], subject: str) -> None:
    leaf = mirrored(certificate(*names, subject=subject), "a.example")
    assert [a.value for a in leaf.subject] == ([subject] if subject else [])
    if not names:
        with pytest.raises(x509.ExtensionNotFound):
            leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return
    extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert extension.value.get_values_for_type(x509.DNSName) == list(names)
    assert extension.critical == (not subject)


def test_all_kinds_of_names_are_mirrored() -> None:
    names: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        x509.UniformResourceIdentifier("spiffe://a.example/x"),
        x509.RFC822Name("someone@a.example"),
    ]
    alternatives = x509.SubjectAlternativeName(names)
    leaf = mirrored(certificate(extra=alternatives), "a.example")
    shown = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert shown.value == alternatives
    shake(AUTHORITY.mirror(certificate(extra=alternatives)), "192.0.2.1")


def test_what_is_no_certificate_is_not_mirrored() -> None:
    with pytest.raises(ValueError, match="parsing asn1"):
        AUTHORITY.mirror(b"nonsense")


def test_contexts_are_cached_by_all_that_they_depend_on() -> None:
    first = AUTHORITY.server_context(("c.example",))
    assert AUTHORITY.server_context(("c.example",)) is first
    assert AUTHORITY.server_context(("c.example",), alpn=("h2",)) is not first
    der = certificate("c.example")
    assert AUTHORITY.mirror(der) is AUTHORITY.mirror(bytes(der))
    assert AUTHORITY.mirror(der, alpn=("h2",)) is not AUTHORITY.mirror(der)
    assert AUTHORITY.mirror(certificate("c.example")) is not AUTHORITY.mirror(der)


def test_the_ca_may_sign_leaves_only() -> None:
    ca = x509.load_pem_x509_certificate(AUTHORITY.ca_pem)
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert (usage.value.key_cert_sign, usage.value.digital_signature) == (True, False)


def test_two_authorities_share_nothing() -> None:
    other = Authority()
    assert (other.ca_pem, other.subject_hash) != (AUTHORITY.ca_pem, AUTHORITY.subject_hash)


def test_no_key_is_left_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    before = os.listdir("/proc/self/fd")
    AUTHORITY.server_context(("fresh.example",))
    monkeypatch.delattr(os, "memfd_create")
    AUTHORITY.server_context(("fresh2.example",))
    assert not glob.glob(f"{tmp_path}/*")
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl program")
def test_openssl_agrees_on_the_hash() -> None:
    for each in (AUTHORITY, Authority(), Authority()):
        done = subprocess.run(
            ["openssl", "x509", "-noout", "-hash"],
            input=each.ca_pem,
            capture_output=True,
            check=True,
        )
        assert each.subject_hash == done.stdout.decode().strip()


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl program")
def test_openssl_verifies_strictly(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.ca_pem)
    names = ("x" * 60 + ".example.com", str(ipaddress.ip_address("192.0.2.1")))
    der = shake(AUTHORITY.server_context(names), names[0]).getpeercert(binary_form=True)
    assert der is not None
    (tmp_path / "leaf.pem").write_text(ssl.DER_cert_to_PEM_cert(der))
    done = subprocess.run(
        [
            "openssl",
            "verify",
            "-x509_strict",
            "-purpose",
            "sslserver",
            "-CAfile",
            "ca.pem",
            "leaf.pem",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@given(st.lists(st.text(max_size=300), max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_name_that_a_client_may_ask_for_gets_a_leaf(names: list[str]) -> None:
    AUTHORITY.server_context(tuple(names))
