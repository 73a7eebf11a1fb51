"""What a client sees of a server's certificate through the engine, with real handshakes."""

import socket
import ssl

import pytest
from engine_lab import Authority, answer, in_sandbox, serving, settings

NAME = "api.example.com"
GET = b"GET /x HTTP/1.1\r\nHost: api.example.com\r\n\r\n"


def fetch(name=NAME, port=443, *, context=None, data=GET):
    context = context or ssl.create_default_context()
    with (
        socket.create_connection((name, port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=name) as tls,
    ):
        tls.sendall(data)
        return tls.recv(65536), tls.getpeercert(), tls.selected_alpn_protocol()


def verify_error(**kwargs):
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        fetch(**kwargs)
    return caught.value.verify_message


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


def test_an_expired_certificate_is_expired(ca):
    with serving(answer(), ca.context(NAME, expired=True)) as server:
        message = in_sandbox(
            lambda _: verify_error(), settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        )
    assert message == "certificate has expired"


def test_a_certificate_of_another_host_is_of_another_host(ca):
    with serving(answer(), ca.context("other.example.com")) as server:
        message = in_sandbox(
            lambda _: verify_error(), settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        )
    assert "not valid for 'api.example.com'" in message


def test_an_unknown_issuer_is_unknown(ca):
    with serving(answer(), ca.context(NAME)) as server:
        message = in_sandbox(lambda _: verify_error(), settings(mappings=[f"{NAME}={server.at}"]))
    assert message in (
        "unable to get local issuer certificate",
        "self-signed certificate in certificate chain",
    )


def test_a_client_that_does_not_verify_gets_through_to_a_bad_server(ca):
    with serving(answer(), ca.context("other.example.com", expired=True)) as server:

        def client(sandbox):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            return fetch(context=context)[0], [str(f) for f in sandbox.flows("http")]

        data, flows = in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"]))
    assert data.endswith(b"hello")
    assert flows == ["GET https://api.example.com/x → 200"]


def test_a_pinning_client_is_passed_through_on_its_retry_and_named(ca):
    with serving(answer(), ca.context(NAME)) as server:

        def client(sandbox):
            pinned = ssl.create_default_context(cafile=ca.file)  # trusts its own CA, not ours
            with pytest.raises(ssl.SSLCertVerificationError):
                fetch(context=pinned)
            sandbox.wait(lambda: sandbox.flows("tls"))
            data = fetch(context=pinned)[0]
            (failure,) = sandbox.flows("tls")
            return (
                data,
                failure.side,
                sandbox.wait(
                    lambda: [f.reason for f in sandbox.flows("tcp") if f.sni == NAME and f.reason]
                ),
            )

        data, side, reasons = in_sandbox(
            client, settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        )
    assert data.endswith(b"hello")
    assert side == "client"
    assert "refused our certificate" in reasons[0]


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


def test_a_server_that_does_not_speak_tls_fails_the_handshake_and_is_named():
    def plain(conn):
        conn.recv(1000)
        conn.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with serving(plain) as server:

        def client(sandbox):
            with pytest.raises(OSError):
                fetch()
            return [(f.side, f.sni) for f in sandbox.flows("tls")]

        assert in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"])) == [("server", NAME)]


def test_half_a_client_hello_hangs_nothing(ca):
    with serving(answer(), ca.context(NAME)) as server:

        def client(sandbox):
            with socket.create_connection((NAME, 443), timeout=10) as raw:
                raw.sendall(bytes.fromhex("16030100c8010000c40303"))
            (flow,) = sandbox.wait(lambda: [f for f in sandbox.flows("tcp") if f.ended])
            return flow.sent, fetch()[0]

        sent, data = in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file]))
    assert sent == 11
    assert data.endswith(b"hello")


def test_a_hello_in_two_pieces_is_one_hello(ca):
    with serving(answer(), ca.context(NAME)) as server:

        def client(_):
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=NAME)
            with pytest.raises(ssl.SSLWantReadError):
                tls.do_handshake()
            hello = outgoing.read()
            with socket.create_connection((NAME, 443), timeout=10) as raw:
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                raw.sendall(hello[:40])
                raw.sendall(hello[40:])
                return raw.recv(65536)[:1]

        # 22: a handshake record, the server's hello (RFC 8446 §5.1)
        assert (
            in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])) == b"\x16"
        )


def test_a_client_can_resume_its_session(ca):
    with serving(answer(), ca.context(NAME)) as server:

        def client(_):
            context = ssl.create_default_context()
            reused = []
            session = None
            for _round in range(2):
                raw = socket.create_connection((NAME, 443), timeout=10)
                with context.wrap_socket(raw, server_hostname=NAME, session=session) as tls:
                    tls.sendall(GET)
                    tls.recv(65536)  # the ticket comes with it (RFC 8446 §4.6.1)
                    session = tls.session
                    reused.append(tls.session_reused)
            return reused

        wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        assert in_sandbox(client, wanted) == [False, True]
