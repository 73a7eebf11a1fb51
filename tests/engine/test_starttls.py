"""Protocols that change to TLS in the middle: relayed, with the server's own certificate."""

import imaplib
import os
import smtplib
import ssl
import subprocess

import pytest
import starttls_servers as servers
from building import needs
from engine_lab import in_sandbox, settings
from tls_lab import Authorities, seen

pytestmark = pytest.mark.live

HOST = "host.example.com"
FIRST = UNKNOWN = "it changes to TLS in the middle, which is not decoded"
UNTRUSTED = "the server's certificate is not trusted: unable to get local issuer certificate"
HELLOS = [("smtp", "")] * 3
"""What is said before TLS: a greeting, EHLO, STARTTLS."""
PORTS = {"smtp": 25, "imap": 143, "ldap": 389, "postgres": 5432}


@pytest.fixture
def authorities(tmp_path):
    return Authorities(tmp_path)


@pytest.fixture
def certificate(authorities, tmp_path):
    issued = authorities.stranger.issue_cert(HOST)
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    return servers.Certificate(str(chain), str(key))


@pytest.fixture
def talk(certificate):
    """`talk(protocol, act)`: what `act` returns, and what is told of the connection."""

    def talk(protocol, act):
        def inside(sandbox):
            answer = act()
            return answer, [flow.brief for flow in seen(sandbox)], sandbox.problems()

        with getattr(servers, protocol)(certificate) as port:
            mapping = f"{HOST}:{PORTS[protocol]}=127.0.0.1:{port}"
            answer, flows, problems = in_sandbox(inside, settings(mappings=[mapping]))
        assert problems == []
        return answer, flows

    return talk


def run(command, text="", **environ):
    done = subprocess.run(
        command,
        input=text,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=25,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def s_client(protocol, port, ca):
    """Return what openssl's client says of a server that it has changed to TLS with."""
    where = ["-connect", f"{HOST}:{port}", "-servername", HOST, "-verify_hostname", HOST]
    trust = ["-verify_return_error", "-CAfile", ca]
    return run([needs("openssl"), "s_client", "-starttls", protocol, *where, *trust])


def test_smtp(talk, authorities):
    def send():
        with smtplib.SMTP(HOST, 25, timeout=20) as client:
            client.starttls(context=ssl.create_default_context(cafile=authorities.strange_file))
            client.ehlo()
            client.mail("a@example.com")
            client.rcpt("b@example.com")
            return client.data(b"Subject: hello\r\n\r\nhello\r\n")

    (code, text), flows = talk("smtp", send)
    assert (code, text) == (250, b"secret, 25 bytes")
    assert flows == [*HELLOS, ("tcp", UNTRUSTED)]
    answer, flows = talk("smtp", lambda: s_client("smtp", 25, authorities.strange_file))
    assert "Verify return code: 0 (ok)" in answer
    assert [flow for flow in flows if flow[0] != "tls"] == [*HELLOS, ("tcp", UNTRUSTED)]


def test_a_certificate_that_is_bad_is_as_bad(talk, authorities):
    def send():
        with smtplib.SMTP(HOST, 25, timeout=20) as client:
            client.starttls(context=ssl.create_default_context(cafile=authorities.file))

    def refused():
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            send()
        return caught.value.verify_message

    message, flows = talk("smtp", refused)
    assert message == "unable to get local issuer certificate"
    assert [flow for flow in flows if flow[0] != "tls"] == [*HELLOS, ("tcp", UNTRUSTED)]


def test_imap(talk, authorities):
    def read():
        with imaplib.IMAP4(HOST, timeout=20) as client:
            client.starttls(ssl.create_default_context(cafile=authorities.strange_file))
            return client.noop()[0], client.socket().version()

    answer, flows = talk("imap", read)
    assert answer == ("OK", "TLSv1.3")
    assert flows == [("tcp", FIRST)]


def test_ldap(talk, authorities):
    search = [
        needs("ldapsearch"),
        "-ZZ",
        "-x",
        "-LLL",
        "-H",
        f"ldap://{HOST}",
        "-b",
        "",
        "-s",
        "base",
    ]
    environ = {"LDAPTLS_CACERT": authorities.strange_file, "LDAPTLS_REQCERT": "demand"}
    answer, flows = talk("ldap", lambda: run([*search, "supportedExtension"], **environ))
    assert "1.3.6.1.4.1.1466.20037" in answer  # StartTLS itself (RFC 4511 §4.14)
    assert flows == [("tcp", UNKNOWN)]


def test_postgres(talk, authorities):
    question = "select version from pg_stat_ssl where pid = pg_backend_pid()"
    environ = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": authorities.strange_file}
    where = ["-h", HOST, "-U", "test", "-d", "postgres"]
    command = [servers.psql(), *where, "-Atc", question]
    answer, flows = talk("postgres", lambda: run(command, **environ))
    assert answer == "TLSv1.3\n"
    assert flows == [("tcp", UNTRUSTED)]

    def ask():
        trust = {"sslmode": "verify-full", "sslrootcert": authorities.strange_file}
        with psycopg.connect(host=HOST, user="test", dbname="postgres", **trust) as connection:
            return connection.execute(question).fetchone()

    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    assert talk("postgres", ask) == (("TLSv1.3",), [("tcp", UNTRUSTED)])
