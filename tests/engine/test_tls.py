"""TLS that is decrypted, and TLS that is not meant to be; test_tls_*.py have a subject each."""

import socket
import ssl

import pytest
from engine_lab import Authority, answer, in_sandbox, serving, settings
from tls_lab import NAME, fetch, seen

pytestmark = pytest.mark.live


@pytest.fixture
def ca(tmp_path):
    return Authority(tmp_path)


def test_a_good_certificate_is_good_and_decrypted(ca):
    with serving(answer(), ca.context(NAME, "*.example.org")) as server:

        def client(sandbox):
            data, cert, _ = fetch()
            (flow,) = sandbox.flows("http")
            return data, cert["subjectAltName"], str(flow), flow.process.name

        data, names, flow, process = in_sandbox(
            client, settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        )
    assert data.endswith(b"hello")
    assert set(names) == {("DNS", NAME), ("DNS", "*.example.org")}
    assert flow == "GET https://api.example.com/x → 200"
    assert process.startswith(("python", "pytest"))


def test_passthrough_hosts_are_not_decrypted(ca):
    with serving(answer(), ca.context(NAME)) as server:

        def client(sandbox):
            data = fetch(context=ssl.create_default_context(cafile=ca.file))[0]
            (flow,) = sandbox.wait(lambda: [f for f in sandbox.flows("tcp") if f.ended])
            return data, flow.sni, flow.reason, flow.sent > 0 and flow.received > 0

        wanted = settings(mappings=[f"{NAME}={server.at}"], passthrough=["*.example.com"])
        data, sni, reason, counted = in_sandbox(client, wanted)
    assert data.endswith(b"hello")
    assert (sni, reason, counted) == (NAME, "passthrough (*.example.com)", True)


@pytest.mark.parametrize(
    ("server_speaks", "chosen"),
    [(("h2", "http/1.1"), "h2"), (("http/1.1",), "http/1.1"), ((), None)],
    ids=["both", "http1", "none"],
)
def test_alpn_is_what_the_server_chose(ca, server_speaks, chosen):
    with serving(answer(), ca.context(NAME, alpn=server_speaks)) as server:

        def client(_):
            context = ssl.create_default_context()
            context.set_alpn_protocols(["h2", "http/1.1"])
            with (
                socket.create_connection((NAME, 443), timeout=10) as raw,
                context.wrap_socket(raw, server_hostname=NAME) as tls,
            ):
                return tls.selected_alpn_protocol()

        wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        assert in_sandbox(client, wanted) == chosen


def test_a_server_that_speaks_first_inside_tls_is_relayed(ca):
    def smtp(conn):
        conn.sendall(b"220 ready\r\n")
        conn.sendall(b"250 " + conn.recv(100))

    with serving(smtp, ca.context(NAME)) as server:

        def client(sandbox):
            context = ssl.create_default_context()
            with (
                socket.create_connection((NAME, 465), timeout=10) as raw,
                context.wrap_socket(raw, server_hostname=NAME) as tls,
            ):
                greeting = tls.recv(100)
                tls.sendall(b"EHLO x\r\n")
                return greeting, tls.recv(100), [f.reason for f in sandbox.flows("tcp")]

        greeting, reply, reasons = in_sandbox(
            client, settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        )
    assert (greeting, reply) == (b"220 ready\r\n", b"250 EHLO x\r\n")
    assert reasons == ["the server spoke first"]


def test_a_server_that_speaks_no_tls_answers_its_client_itself():
    def plain(conn):
        conn.recv(1000)
        conn.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with serving(plain) as server:

        def client(sandbox):
            with pytest.raises(ssl.SSLError) as caught:
                fetch()
            failures = [(f.side, f.sni, f.detail) for f in sandbox.flows("tls")]
            return caught.value.reason, failures, [flow.protocol for flow in seen(sandbox)]

        found = in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"]))
    assert found == (
        "WRONG_VERSION_NUMBER",
        [("server", NAME, "WRONG_VERSION_NUMBER")],  # at once: it was known before the client's end
        ["tcp", "tls"],
    )
