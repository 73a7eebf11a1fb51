"""Servers under a CA that this machine does not know, and clients that do: nothing to set up."""

import ssl
import sys

import pytest
from engine_lab import answer, in_sandbox, serving, settings
from tls_lab import CLIENTS, NAME, Authorities, fetch, run, seen

pytestmark = pytest.mark.live

URL = f"https://{NAME}/x"
REASON = "the server's certificate is not trusted: unable to get local issuer certificate"


@pytest.fixture
def authorities(tmp_path):
    return Authorities(tmp_path)


@pytest.fixture
def server(authorities):
    cert = authorities.stranger.issue_cert(NAME)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert.configure_cert(context)
    with serving(answer(), context) as server:
        yield server


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_with_a_ca_of_its_own_works_at_once_and_is_named(
    client, builder, authorities, server
):
    command = [*client.command(builder), "--cacert", authorities.strange_file, URL]

    def inside(sandbox):
        return run(command), seen(sandbox), sandbox.problems()

    answered, flows, problems = in_sandbox(inside, settings(mappings=[f"{NAME}={server.at}"]))
    assert answered == (0, "hello", "")
    assert [(f.brief, f.sni) for f in flows] == [(("tcp", REASON), NAME)]
    assert problems == []


@pytest.mark.parametrize(
    ("command", "variable"),
    [
        (["curl", "-sS", URL], "SSL_CERT_FILE"),
        ([sys.executable, "-c", f"import requests; print(requests.get('{URL}').text)"], "REQUESTS_CA_BUNDLE"),
    ],
    ids=["curl", "requests"],
)  # fmt: skip
def test_so_does_one_that_a_variable_of_its_own_tells(authorities, server, command, variable):
    def inside(sandbox):
        return run(command, **{variable: authorities.strange_file}), seen(sandbox)

    answered, flows = in_sandbox(inside, settings(mappings=[f"{NAME}={server.at}"]))
    assert answered == (0, "hello", "")
    assert [(f.brief, f.sni) for f in flows] == [(("tcp", REASON), NAME)]


def test_so_does_a_context_in_the_test(authorities, server):
    def inside(sandbox):
        context = ssl.create_default_context(cafile=authorities.strange_file)
        return fetch(context=context)[0][-5:], seen(sandbox)

    data, flows = in_sandbox(inside, settings(mappings=[f"{NAME}={server.at}"]))
    assert data == b"hello"
    assert [(f.brief, f.sni) for f in flows] == [(("tcp", REASON), NAME)]


def test_it_is_recorded_as_opaque_and_fails_nothing(authorities, server, tmp_path):
    cassette = tmp_path / "it.cassette"

    def inside(sandbox):
        data = fetch(context=ssl.create_default_context(cafile=authorities.strange_file))[0]
        seen(sandbox)
        return data[-5:], sandbox.problems()

    wanted = settings(mappings=[f"{NAME}={server.at}"], cassette=cassette)
    assert in_sandbox(inside, wanted) == (b"hello", [])
    assert NAME in cassette.with_name("it.cassette.txt").read_text()


@pytest.mark.parametrize("given", ["the CA", "the certificate itself"])
def test_with_upstream_ca_it_is_decrypted(authorities, server, tmp_path, given):
    file = authorities.strange_file
    if given == "the certificate itself":
        file = tmp_path / "server.pem"
        file.write_text(ssl.get_server_certificate(("127.0.0.1", server.port)))
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE

    def inside(sandbox):
        bodies = [fetch()[0][-5:], fetch(context=unverified)[0][-5:]]
        return bodies, [str(f) for f in sandbox.flows() if f.protocol != "dns"]

    wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[file])
    bodies, flows = in_sandbox(inside, wanted)
    assert bodies == [b"hello"] * 2
    assert flows == [f"GET {URL} → 200"] * 2


def test_a_server_is_tried_once_a_test(authorities):
    """The engine's own try is a connection more; what it shows is not carried to other tests."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authorities.stranger.issue_cert(NAME).configure_cert(context)

    def number_of_connections(conn):
        answer(b"%d" % server.connections)(conn)

    def inside(sandbox):
        context = ssl.create_default_context(cafile=authorities.strange_file)
        counts = []
        for _ in range(2):
            counts += [int(fetch(context=context)[0].split()[-1]) for _ in range(2)]
            sandbox.session.end(sandbox.scope)
            sandbox.scope = sandbox.session.begin("another test", wanted)
        return counts

    with serving(number_of_connections, context) as server:
        wanted = settings(mappings=[f"{NAME}={server.at}"])
        assert in_sandbox(inside, wanted) == [2, 3, 5, 6]
