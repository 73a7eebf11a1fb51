"""Servers that ask for a client certificate: the handshake is the client's own."""

import contextlib
import socket
import ssl

import pytest
from engine_lab import answer, in_sandbox, serving, settings
from tls_lab import CLIENTS, NAME, Authorities, run, seen

from pytest_netcapture.engine.handshake import CertificateRequested, HandshakeContext

REASON = "the server asks for a client certificate"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
WANTS = [ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED]


class Mutual:
    """A server's context that asks, and a client's certificate."""

    def __init__(self, directory):
        self.authorities = Authorities(directory)
        self.client = str(directory / "client.pem")
        issued = self.authorities.stranger.issue_cert("client@example.com")
        issued.private_key_and_cert_chain_pem.write_to_path(self.client)

    def context(self, version, wants, name=NAME) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authorities.known.issue_cert(name).configure_cert(context)
        self.authorities.stranger.configure_trust(context)
        context.verify_mode = wants
        context.minimum_version = context.maximum_version = version
        return context


@pytest.fixture
def mutual(tmp_path):
    return Mutual(tmp_path)


def who(conn):
    """Answer with the subject of the client's certificate."""
    subject = (conn.getpeercert() or {}).get("subjectAltName", (("", "nobody"),))
    answer(subject[0][1].encode())(conn)


@pytest.mark.live
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_with_a_certificate_works_at_once_and_is_named(client, mutual, builder):
    options = ["--cacert", mutual.authorities.file, "--cert", mutual.client]
    command = [*client.command(builder), *options]
    kinds = {
        f"{v.name}.{w.name}.test".lower().replace("_", "-"): (v, w) for v in VERSIONS for w in WANTS
    }

    def inside(sandbox):
        return (
            [run([*command, f"https://{name}/x"]) for name in kinds],
            seen(sandbox),
            sandbox.problems(),
        )

    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(serving(who, mutual.context(*k, name))) for name, k in kinds.items()
        ]
        mappings = [f"{name}={server.at}" for name, server in zip(kinds, servers, strict=True)]
        wanted = settings(mappings=mappings, ca=[mutual.authorities.file])
        answers, flows, problems = in_sandbox(inside, wanted)
    assert answers == [(0, "client@example.com", "")] * 4
    assert [(f.brief, f.sni) for f in flows] == [(("tcp", REASON), name) for name in kinds]
    assert problems == []


@pytest.mark.live
@pytest.mark.parametrize("version", VERSIONS)
def test_one_without_a_certificate_fares_as_without_us(version, mutual):
    def ask(request):
        context = ssl.create_default_context(cafile=mutual.authorities.file)
        try:
            with (
                socket.create_connection((NAME, 443), timeout=10) as raw,
                context.wrap_socket(raw, server_hostname=NAME) as tls,
            ):
                tls.sendall(request)
                return tls.recv(1000).rpartition(b"\n")[2]
        except ssl.SSLError as error:
            return error.reason

    contexts = [mutual.context(version, wants) for wants in WANTS]
    with serving(who, contexts[0]) as optional, serving(who, contexts[1]) as required:

        def inside(sandbox):
            answers = [ask(b"GET / HTTP/1.1\r\n\r\n")]
            sandbox.scope.update(settings(mappings=[f"{NAME}={required.at}"]))
            return [*answers, ask(b"")]  # what a server has not read makes its end a reset

        wanted = settings(mappings=[f"{NAME}={optional.at}"])
        found = in_sandbox(inside, wanted)
    alerts = {
        ssl.TLSVersion.TLSv1_2: "SSLV3_ALERT_HANDSHAKE_FAILURE",
        ssl.TLSVersion.TLSv1_3: "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    }
    assert found == [b"nobody", alerts[version]]


@pytest.mark.live
def test_a_session_hides_no_request_for_a_certificate(mutual):
    """A resumed handshake asks for none: the engine must not have kept a session."""

    def inside(sandbox):
        context = ssl.create_default_context(cafile=mutual.authorities.file)
        context.load_cert_chain(mutual.client)
        subjects = []
        for _ in range(2):  # tests
            for _ in range(2):
                with (
                    socket.create_connection((NAME, 443), timeout=10) as raw,
                    context.wrap_socket(raw, server_hostname=NAME) as tls,
                ):
                    tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    subjects.append(tls.recv(1000).rpartition(b"\n")[2])
            sandbox.session.end(sandbox.scope)
            sandbox.scope = sandbox.session.begin("another test", wanted)
        return subjects

    with serving(who, mutual.context(ssl.TLSVersion.TLSv1_3, ssl.CERT_OPTIONAL)) as server:
        wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[mutual.authorities.file])
        assert in_sandbox(inside, wanted) == [b"client@example.com"] * 4


@pytest.mark.parametrize("curve", ["prime256v1", "secp521r1"], ids=["at once", "retried"])
@pytest.mark.parametrize("wants", [ssl.CERT_NONE, *WANTS])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_request_is_told_before_an_answer_is_sent(version, wants, curve, mutual):
    """`retried`: the server wants another key share, so there are two hellos (RFC 8446 §4.1.4)."""
    theirs = mutual.context(version, wants)
    theirs.set_ecdh_curve(curve)
    ours = HandshakeContext(ssl.PROTOCOL_TLS_CLIENT)
    ours.load_verify_locations(mutual.authorities.file)
    assert shake(ours, theirs) == (wants is not ssl.CERT_NONE)


def shake(ours: ssl.SSLContext, theirs: ssl.SSLContext) -> bool:
    """Shake hands over memory; return whether a certificate was asked for."""
    a, b, c, d = (ssl.MemoryBIO() for _ in range(4))
    client = ours.wrap_bio(a, b, server_hostname=NAME)
    server = theirs.wrap_bio(c, d, server_side=True)
    for _ in range(6):
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except CertificateRequested:
            assert b.pending == 0
            return True
        c.write(b.read())
        with contextlib.suppress(ssl.SSLWantReadError):
            server.do_handshake()
        a.write(d.read())
    client.do_handshake()
    return False
