"""TLS sessions with servers are used again, and hide nothing."""

import socket
import ssl

import pytest
from engine_lab import Authority, answer, in_sandbox, serving, settings

NAME = "api.example.com"
GET = b"GET /x HTTP/1.1\r\nHost: api.example.com\r\n\r\n"


def fetch():
    context = ssl.create_default_context()
    with (
        socket.create_connection((NAME, 443), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=NAME) as tls,
    ):
        tls.sendall(GET)
        return tls.recv(65536).rpartition(b"\r\n")[2], tls.getpeercert()["notAfter"]


def note_reuse(reused):
    """Return a server that notes of each connection whether it was resumed."""

    def handle(conn):
        reused.append(conn.session_reused)
        answer()(conn)

    return handle


@pytest.fixture
def ca(tmp_path):
    return Authority(tmp_path)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_connections_after_the_first_are_resumed(ca, version):
    reused = []
    context = ca.context(NAME)
    context.minimum_version = context.maximum_version = version
    with serving(note_reuse(reused), context) as server:
        wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        answers = in_sandbox(lambda _: [fetch() for _ in range(4)], wanted)
    assert answers == [answers[0]] * 4
    assert answers[0][0] == b"hello"
    assert reused == [False, True, True, True]


def test_a_server_that_issues_no_tickets_works(ca):
    reused = []
    context = ca.context(NAME)
    context.num_tickets = 0
    with serving(note_reuse(reused), context) as server:
        wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        assert [a for a, _ in in_sandbox(lambda _: [fetch() for _ in range(3)], wanted)] == [
            b"hello"
        ] * 3
    assert reused == [False] * 3


def test_another_server_of_the_name_is_verified_anew(ca):
    """The second has an expired certificate: what the first proved must not cover it."""
    with (
        serving(answer(), ca.context(NAME)) as good,
        serving(answer(), ca.context(NAME, expired=True)) as bad,
    ):

        def client(sandbox):
            first = fetch()[0]
            fetch()
            sandbox.scope.update(settings(mappings=[f"{NAME}={bad.at}"], ca=[ca.file]))
            with pytest.raises(ssl.SSLCertVerificationError) as caught:
                fetch()
            return first, caught.value.verify_message

        wanted = settings(mappings=[f"{NAME}={good.at}"], ca=[ca.file])
        assert in_sandbox(client, wanted) == (b"hello", "certificate has expired")


def test_many_connections_at_once_are_resumed_too(ca):
    """A handshake that is not complete has no session to ask for."""
    reused = []
    with serving(note_reuse(reused), ca.context(NAME)) as server:

        def client(_):
            context = ssl.create_default_context()
            fetch()
            raws = [socket.create_connection((NAME, 443), timeout=10) for _ in range(8)]
            conns = [context.wrap_socket(raw, server_hostname=NAME) for raw in raws]
            for conn in conns:
                conn.sendall(GET)
            bodies = [conn.recv(65536).rpartition(b"\r\n")[2] for conn in conns]
            for conn in conns:
                conn.close()
            return bodies

        wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        assert in_sandbox(client, wanted) == [b"hello"] * 8
    assert reused.count(True) == 8
