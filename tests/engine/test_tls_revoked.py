"""Revoked certificates: what a client could know without us it knows from its second try on.

Our leaf has an issuer of its own, so a client that has a revocation list finds none for it. It then
refuses, and is put through to the server.
"""

import ssl
import sys

import pytest
from building import needs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from engine_lab import answer, in_sandbox, serving, settings
from tls_lab import DAY, NAME, NOW, PROGRAMS, Authorities, run, seen, trusting

pytestmark = pytest.mark.live

URL = f"https://{NAME}/x"


@pytest.fixture
def authorities(tmp_path, monkeypatch):
    made = Authorities(tmp_path)
    for name, value in trusting(made.file).items():
        monkeypatch.setenv(name, value)
    return made


def revocation_list(authorities, directory, *serials):
    """Return the file of a list by the known CA."""
    ca = x509.load_pem_x509_certificate(authorities.known.cert_pem.bytes())
    key = serialization.load_pem_private_key(authorities.known.private_key_pem.bytes(), None)
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.subject)
    builder = builder.last_update(NOW - DAY).next_update(NOW + DAY)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - DAY)
        builder = builder.add_revoked_certificate(entry.build())
    path = directory / "list.pem"
    crl = builder.sign(key, hashes.SHA256())
    path.write_bytes(crl.public_bytes(serialization.Encoding.PEM))
    return str(path)


CHECKING = {
    "curl": lambda crl: [needs("curl"), "-sS", "--crlfile", crl, URL],
    "python": lambda crl: [sys.executable, str(PROGRAMS / "get_checked.py"), crl, URL],
}


@pytest.mark.parametrize("revoked", [False, True])
@pytest.mark.parametrize("name", CHECKING)
def test_a_client_with_a_list_sees_for_itself_on_its_second_try(
    name, revoked, authorities, tmp_path
):
    issued = authorities.known.issue_cert(NAME)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    leaf = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
    crl = revocation_list(authorities, tmp_path, *([leaf.serial_number] if revoked else []))

    def inside(sandbox):
        environ = trusting(authorities.file)
        command = CHECKING[name](crl)
        first = run(command, **environ)
        sandbox.wait(lambda: sandbox.flows("tls"))
        return first, run(command, **environ), seen(sandbox)

    with serving(answer(), context) as server:
        first, second, flows = in_sandbox(inside, settings(mappings=[f"{NAME}={server.at}"]))
    assert (first.status != 0, first.output) == (True, "")
    assert "unable to get certificate CRL" in first.errors
    if revoked:
        assert (second.status != 0, second.output) == (True, "")
        assert "certificate revoked" in second.errors
        protocols = ["tls", "tcp", "tls"]
        assert flows[-1].why == "certificate_revoked"
    else:
        assert second == (0, "hello", "")
        protocols = ["tls", "tcp"]
    assert [flow.protocol for flow in flows] == protocols
