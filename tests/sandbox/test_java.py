"""Java's trust stores: found, and read by Java's own tool with one certificate more."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, pkcs12

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox import java


def certificate(name):
    return x509.load_pem_x509_certificate(trustme.CA(organization_name=name).cert_pem.bytes())


@pytest.fixture(scope="module")
def der():
    return certificate("added").public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def keytool():
    if not shutil.which("keytool"):
        pytest.skip("keytool is not installed")

    def run(*arguments):
        done = subprocess.run(["keytool", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.lower()

    return run


@pytest.fixture(scope="module")
def existing(tmp_path_factory):
    path = tmp_path_factory.mktemp("existing") / "existing.pem"
    path.write_bytes(certificate("existing").public_bytes(Encoding.PEM))
    return path


@pytest.mark.parametrize("kind", ["JKS", "PKCS12"])
@pytest.mark.parametrize("password", ["changeit", "s3cret!"])
def test_keytool_reads_what_was_added(keytool, existing, tmp_path, *, der, kind, password):
    path = tmp_path / "store"
    options = ["-keystore", str(path), "-storepass", password, "-storetype", kind]
    keytool("-importcert", "-noprompt", "-alias", "existing", "-file", str(existing), *options)
    path.write_bytes(java.add_certificate(path.read_bytes(), der, (password, "changeit")))
    listed = keytool("-list", *options)
    assert "existing" in listed
    assert "netcapture" in listed
    assert listed.count("trustedcertentry") == 2


def test_a_store_of_an_unknown_password_stays_readable_without_it(keytool, existing, tmp_path, der):
    path = tmp_path / "store"
    options = ["-keystore", str(path), "-storetype", "JKS"]
    secret = ["-storepass", "s3cret!"]
    keytool("-importcert", "-noprompt", "-file", str(existing), *options, *secret)
    path.write_bytes(java.add_certificate(path.read_bytes(), der))
    assert "netcapture" in keytool("-list", *options, "-storepass", "changeit")


def test_an_encrypted_store_keeps_its_entries(tmp_path, der):
    old = certificate("old")
    encryption = BestAvailableEncryption(b"changeit")
    store = pkcs12.serialize_java_truststore([pkcs12.PKCS12Certificate(old, b"old")], encryption)
    added = java.add_certificate(store, der)
    assert der in added
    assert len(added) > len(store)


def test_a_store_without_a_password_is_read_whole(der):
    # What JDK 18 and later ship.
    from cryptography.hazmat.primitives.serialization import NoEncryption

    old = certificate("old")
    store = pkcs12.serialize_java_truststore(
        [pkcs12.PKCS12Certificate(old, b"old")], NoEncryption()
    )
    added = java.add_certificate(java.add_certificate(store, der), der)
    assert added.count(der) == 2
    assert old.public_bytes(Encoding.DER) in added


@pytest.mark.parametrize(
    ("store", "reason"),
    [
        (b"", "neither"),
        (b"-----BEGIN", "neither"),
        (bytes.fromhex("feedfeed0000000100000000") + bytes(20), "version 1"),
        (bytes.fromhex("3080020103"), "indefinite"),
        (bytes.fromhex("3003020103"), "not understood"),
        (bytes.fromhex("30820fff0201"), "cut short"),
        (bytes.fromhex("feedfeed"), "not understood"),
    ],
)
def test_what_is_no_key_store_is_named(store, reason):
    with pytest.raises(EnvironmentProblem, match=reason):
        java.add_certificate(store, b"")


def test_where_stores_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(java, "SYSTEM_STORES", ())
    monkeypatch.setattr(java, "HOLDERS", (f"{tmp_path}/jvm",))
    names = {
        "home": "jdk/lib/security/cacerts",
        "old": "jvm/java-8/jre/lib/security/cacerts",
        "user": "user/.sdkman/candidates/java/21/lib/security/cacerts",
        "path": "on-path/lib/security/cacerts",
        "option": "own.p12",
    }
    for name in names.values():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for directory in ("on-path/bin", "bin"):
        (tmp_path / directory).mkdir()
    (tmp_path / "on-path/bin/java").touch()
    (tmp_path / "bin/java").symlink_to("../on-path/bin/java")
    environ = {
        "JAVA_HOME": f"{tmp_path}/jdk",
        "HOME": f"{tmp_path}/user",
        "PATH": f"bin:{tmp_path}/bin",
        "MAVEN_OPTS": f"-Xmx1g -Djavax.net.ssl.trustStore={tmp_path}/own.p12 "
        "-Djavax.net.ssl.trustStorePassword=s3cret!",
    }
    real = os.path.realpath(tmp_path)
    assert set(java.find_stores(environ)) == {f"{real}/{name}" for name in names.values()}
    assert java.passwords(environ) == ("s3cret!", "changeit", "changeme")


def test_looking_for_stores_is_quick():
    times = []
    for _ in range(5):
        start = time.perf_counter()
        java.find_stores(os.environ)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.005
