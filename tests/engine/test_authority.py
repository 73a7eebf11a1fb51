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
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netcapture.engine import authority as module
from pytest_netcapture.engine.authority import Authority, names_of, validity_of

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


def test_an_untrusted_upstream_stays_untrusted() -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        shake(AUTHORITY.server_context(("a.example",), trusted=False), "a.example")


def test_an_expired_upstream_stays_expired() -> None:
    past = dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)
    context = AUTHORITY.server_context(
        ("a.example",), not_before=past, not_after=past + dt.timedelta(days=90)
    )
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake(context, "a.example")


def test_contexts_are_cached_by_all_that_they_depend_on() -> None:
    first = AUTHORITY.server_context(("c.example",))
    assert AUTHORITY.server_context(("c.example",)) is first
    assert AUTHORITY.server_context(("c.example",), alpn=("h2",)) is not first
    assert AUTHORITY.server_context(("c.example",), trusted=False) is not first


def test_the_leaf_mirrors_what_it_is_told() -> None:
    client = client_context()
    names = ("*.example.com", "example.com", "192.0.2.1")
    der = shake(AUTHORITY.server_context(names), "example.com", client).getpeercert(
        binary_form=True
    )
    assert der is not None
    assert names_of(der) == names
    begin, end = validity_of(der)
    assert end - begin < dt.timedelta(days=397)
    assert begin < dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)


def test_names_of_a_certificate_without_any() -> None:
    assert names_of(AUTHORITY.ca_der)[0].startswith("netcapture throwaway CA ")
    assert names_of(b"nonsense") == ()


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
