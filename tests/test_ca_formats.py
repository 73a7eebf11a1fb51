"""A CA's certificate in other programs' forms, read by those programs."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from pytest_netcapture import ca_formats, kept_ca
from pytest_netcapture.engine.authority import make_kept

CONTENT = make_kept("a machine", kept_ca.LASTS)
PEM = kept_ca.certificate(CONTENT)
CERTIFICATE = x509.load_pem_x509_certificate(PEM)
DER = CERTIFICATE.public_bytes(Encoding.DER)
MAIN = [sys.executable, "-c", "from pytest_netcapture.cli.main import main; main()"]


def test_pem_and_der():
    assert x509.load_pem_x509_certificate(ca_formats.export(PEM, "pem").content) == CERTIFICATE
    assert ca_formats.export(PEM, "der") == ("netcapture.cer", DER)


@pytest.mark.parametrize("password", ["", "s3cret"])
def test_pkcs12(password):
    content = ca_formats.export(PEM, "pkcs12", password).content
    loaded = pkcs12.load_pkcs12(content, password.encode() or None)
    assert loaded.key is None
    assert [one.certificate for one in loaded.additional_certs] == [CERTIFICATE]


def test_keytool_reads_jks(tmp_path):
    keytool = shutil.which("keytool")
    if keytool is None:
        pytest.skip("keytool is not installed")
    exported = ca_formats.export(PEM, "jks")
    path = tmp_path / exported.name
    path.write_bytes(exported.content)
    listed = [keytool, "-exportcert", "-keystore", str(path), "-alias", "netcapture"]
    done = subprocess.run([*listed, "-storepass", "changeit"], capture_output=True)
    assert done.stdout == DER, done.stderr


def test_android_has_the_name_that_openssl_says(tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    exported = ca_formats.export(PEM, "android")
    (tmp_path / "ca").write_bytes(exported.content)
    command = [openssl, "x509", "-noout", "-subject_hash_old", "-in", str(tmp_path / "ca")]
    hashed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert exported.name == f"{hashed}.0"


def test_apple_is_a_profile_with_the_certificate():
    name, content = ca_formats.export(PEM, "apple")
    profile = plistlib.loads(content)
    assert name.endswith(".mobileconfig")
    assert profile["PayloadContent"][0]["PayloadContent"] == DER
    assert profile["PayloadUUID"] != profile["PayloadContent"][0]["PayloadUUID"]


def test_the_command_writes_each_and_never_the_key(tmp_path):
    environ = os.environ | {"XDG_DATA_HOME": str(tmp_path / "data")}
    folder = tmp_path / "data" / "netcapture"

    def run(*args):
        command = [*MAIN, "ca", "export", *args]
        return subprocess.run(command, capture_output=True, cwd=tmp_path, env=environ)

    refused = run("--format=der")
    assert refused.returncode == 2
    assert b"sudo netcapture ca install" in refused.stderr
    folder.mkdir(mode=0o700, parents=True)
    (folder / "ca.pem").write_bytes(CONTENT)
    (folder / "ca.pem").chmod(0o600)
    for form in ca_formats.FORMATS:
        done = run(f"--format={form}")
        assert done.returncode == 0, done.stderr
        written = tmp_path / done.stderr.decode().removeprefix("Wrote ").strip().rstrip(".")
        assert b"PRIVATE" not in written.read_bytes()
    assert run("--format=der", "-o", "-").stdout == DER
    assert run("--format=der", "--password=x").returncode == 2
    assert b"cannot write" in run("--format=der", "-o", "/nowhere/ca").stderr
