"""What client and server agree on is what they would agree on without us."""

import socket
import ssl
import warnings

import pytest
import trustme
from engine_lab import Authority, answer, in_sandbox, serving, settings
from tls_lab import GET, NAME, dial, fetch, pump, seen

pytestmark = pytest.mark.live

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
ADDRESS = "203.0.113.7"


@pytest.fixture
def ca(tmp_path):
    return Authority(tmp_path)


def only(version: ssl.TLSVersion, context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = version
    return context


# ── versions ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("theirs", [V12, V13])
@pytest.mark.parametrize("ours", [V12, V13])
def test_one_version_only(ours, theirs, ca):
    """Where client and server have none in common the client hears it from the server."""

    def client(sandbox):
        context = only(ours, ssl.create_default_context())
        try:
            return fetch(context=context)[0][-5:], seen(sandbox)
        except ssl.SSLError as error:
            return error.reason, seen(sandbox)

    with serving(answer(), only(theirs, ca.context(NAME))) as server:
        wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        found, flows = in_sandbox(client, wanted)
    if ours == theirs:
        assert (found, [flow.protocol for flow in flows]) == (b"hello", ["http"])
    else:
        assert found == "TLSV1_ALERT_PROTOCOL_VERSION"
        assert [flow.protocol for flow in flows] == ["tcp", "tls"]
        assert flows[1].text.endswith("failed on the server's side: protocol_version")


def test_a_client_and_a_server_of_another_age_get_along(ca):
    def old(context):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            only(ssl.TLSVersion.TLSv1_1, context)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        return context

    def client(sandbox):
        context = old(ssl.create_default_context(cafile=ca.file))
        return fetch(context=context)[0][-5:], seen(sandbox)

    with serving(answer(), old(ca.context(NAME))) as server:
        body, flows = in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"]))
    assert body == b"hello"
    assert [flow.why for flow in flows] == ["the client speaks TLS older than 1.2 only"]


def test_a_server_of_another_age_is_left_to_the_client(ca):
    """We ask for more than it has; its client may do with less."""

    def client(sandbox):
        context = ssl.create_default_context(cafile=ca.file)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            context.minimum_version = ssl.TLSVersion.TLSv1_1
        return fetch(context=context)[0][-5:], seen(sandbox)

    theirs = ca.context(NAME)
    theirs.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        only(ssl.TLSVersion.TLSv1_1, theirs)
    with serving(answer(), theirs) as server:
        body, flows = in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file]))
    assert body == b"hello"
    assert [flow.why for flow in flows] == [
        "the handshake with the server failed: protocol_version"
    ]


def test_a_client_that_takes_rsa_only_is_relayed(tmp_path):
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    file = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(file)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME, key_type=trustme.KeyType.RSA).configure_cert(theirs)

    def client(sandbox):
        ours = only(V12, ssl.create_default_context(cafile=file))
        ours.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
        return fetch(context=ours)[0][-5:], seen(sandbox)

    with serving(answer(), theirs) as server:
        body, flows = in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"], ca=[file]))
    assert body == b"hello"
    assert [flow.why for flow in flows] == ["the client takes no ECDSA certificate, as ours is"]


# ── protocols ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        (["http/1.1"], ["http/1.1"], "http/1.1"),
        (["http/1.1"], [], None),
        ([], ["http/1.1"], None),
        (["http/1.1", "http/1.0"], ["http/1.0"], "http/1.0"),
        (["postgresql"], ["postgresql"], "postgresql"),
        (["imap"], ["smtp"], None),
        (["h2", "http/1.1"], ["http/1.1"], "http/1.1"),
    ],
)
def test_the_protocol_is_the_one_that_the_server_chose(ours, theirs, agreed, ca):
    chosen = []

    def note(conn):
        chosen.append(conn.selected_alpn_protocol())
        answer()(conn)

    def client(_):
        context = ssl.create_default_context()
        if ours:
            context.set_alpn_protocols(ours)
        return fetch(context=context)[2]

    with serving(note, ca.context(NAME, alpn=tuple(theirs))) as server:
        wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        assert in_sandbox(client, wanted) == agreed
    assert chosen == [agreed]


# ── names ────────────────────────────────────────────────────────────────────────────────────────


class Named:
    """A server's context that shows one certificate by name, another without, and notes which."""

    def __init__(self, ca: Authority) -> None:
        self.asked: list[str | None] = []
        named = ca.context(NAME)
        self.context = ca.context("default.example.com", ADDRESS)

        def choose(conn, name, _):
            self.asked.append(name)
            if name:
                conn.context = named

        self.context.sni_callback = choose


def test_a_client_that_sends_no_name_sees_the_servers_default(ca):
    named = Named(ca)

    def client(sandbox):
        context = ssl.create_default_context()
        context.check_hostname = False
        with (
            socket.create_connection((NAME, 443), timeout=10) as raw,
            context.wrap_socket(raw) as tls,
        ):
            tls.sendall(GET)
            tls.recv(65536)
            subject = tls.getpeercert()["subjectAltName"]
        return subject, fetch()[1]["subjectAltName"], [flow.text for flow in seen(sandbox)]

    with serving(answer(), named.context) as server:
        wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        without, with_name, flows = in_sandbox(client, wanted)
    assert without == (("DNS", "default.example.com"), ("IP Address", ADDRESS))
    assert with_name == (("DNS", NAME),)
    # Verified, too: an address is not what the certificate is for, so a second look is taken.
    assert (set(named.asked[:-1]), named.asked[-1]) == ({None}, NAME)
    assert flows == [f"GET https://{NAME}/x → 200"] * 2


def test_an_address_is_verified_and_not_sent(ca):
    named = Named(ca)

    def client(sandbox):
        verified = fetch(ADDRESS)[0][-5:]
        sandbox.scope.update(settings(mappings=[f"{ADDRESS}={other.at}"], ca=[ca.file]))
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            fetch(ADDRESS)
        sandbox.wait(lambda: sandbox.flows("tls"))
        return verified, caught.value.verify_message, [flow.text for flow in seen(sandbox)]

    with (
        serving(answer(), named.context) as server,
        serving(answer(), ca.context(NAME)) as other,
    ):
        wanted = settings(mappings=[f"{ADDRESS}={server.at}"], ca=[ca.file])
        body, message, flows = in_sandbox(client, wanted)
    assert (body, named.asked) == (b"hello", [None])
    assert message == f"IP address mismatch, certificate is not valid for '{ADDRESS}'."
    assert flows[0] == f"GET https://{NAME}/x → 200"  # as its Host says
    assert flows[1].startswith(f"TLS {ADDRESS}:443 failed on the server's side: IP address")


def test_a_name_other_than_the_host_is_the_servers_business(ca):
    """Domain fronting: TLS goes by one name, and the request is told by its own."""

    def client(sandbox):
        body = fetch("front.example.com")[0][-5:]
        return body, [flow.text for flow in seen(sandbox)]

    with serving(answer(), ca.context("front.example.com")) as server:
        wanted = settings(mappings=[f"front.example.com={server.at}"], ca=[ca.file])
        assert in_sandbox(client, wanted) == (b"hello", [f"GET https://{NAME}/x → 200"])


# ── hellos ───────────────────────────────────────────────────────────────────────────────────────


def records(hello: bytes, size: int) -> list[bytes]:
    """Cut a ClientHello into records of at most `size` bytes (RFC 8446 §5.1)."""
    message = hello[5:]
    parts = [message[i : i + size] for i in range(0, len(message), size)]
    return [hello[:3] + len(part).to_bytes(2, "big") + part for part in parts]


@pytest.mark.parametrize("padding", [0, 1800, 9000], ids=["small", "post-quantum", "huge"])
@pytest.mark.parametrize("cut", ["whole", "segments", "records"])
def test_a_hello_may_be_large_and_come_in_pieces(cut, padding, ca):
    """Of post-quantum shares there is Go's in test_tls_bad.py, too: 1.5 KB."""

    def client(sandbox):
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1", *[f"x{i:0>199}" for i in range(padding // 200)]])
        raw, tls, incoming, outgoing = dial(context)
        hello = outgoing.read()
        pieces = {
            "whole": lambda: [hello],
            "segments": lambda: [hello[i : i + 400] for i in range(0, len(hello), 400)],
            "records": lambda: records(hello, 300),
        }[cut]()
        with raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                raw.sendall(piece)
            pump(raw, incoming, outgoing, tls.do_handshake)
            tls.write(GET)
            pump(raw, incoming, outgoing, tls.read)
        return len(hello) > padding, [flow.text for flow in seen(sandbox)]

    with serving(answer(), ca.context(NAME, alpn=("http/1.1",))) as server:
        wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        large, flows = in_sandbox(client, wanted)
    assert large
    assert flows == [f"GET https://{NAME}/x → 200"]


@pytest.mark.parametrize("name", ["a..example.com", "x" * 64 + ".example.com"])
def test_a_name_that_is_none_reaches_the_server(name, ca):
    """Python would not send it; other clients may."""
    asked = []
    theirs = ca.context(NAME)
    theirs.sni_callback = lambda _conn, name, _context: asked.append(name)

    def client(sandbox):
        raw, _, _, outgoing = dial()
        with raw:
            raw.sendall(renamed(outgoing.read(), name.encode()))
            raw.recv(65536)
        return [flow.brief for flow in seen(sandbox)]

    with serving(answer(), theirs) as server:
        wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        flows = in_sandbox(client, wanted)
    assert flows[0][0] == "tcp"
    assert "malformed" in flows[0][1]
    assert len(asked) == 1


def renamed(hello: bytes, name: bytes) -> bytes:
    """Put another server name into a ClientHello (RFC 6066 §3), all lengths around it with it."""
    old = NAME.encode()
    position = hello.index(old)
    more = len(name) - len(old)
    out = bytearray(hello.replace(old, name))
    for end, size in ((position, 2), (position - 3, 2), (position - 5, 2), (5, 2), (9, 3)):
        length = int.from_bytes(out[end - size : end], "big") + more
        out[end - size : end] = length.to_bytes(size, "big")
    extensions = 9 + 2 + 32
    extensions += 1 + out[extensions]
    extensions += 2 + int.from_bytes(out[extensions : extensions + 2], "big")
    extensions += 1 + out[extensions]
    length = int.from_bytes(out[extensions : extensions + 2], "big") + more
    out[extensions : extensions + 2] = length.to_bytes(2, "big")
    return bytes(out)


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", [V12, V13])
def test_a_client_can_resume_its_session(version, ca):
    def client(_):
        context = only(version, ssl.create_default_context())
        reused = []
        session = None
        for _round in range(3):
            raw = socket.create_connection((NAME, 443), timeout=10)
            with context.wrap_socket(raw, server_hostname=NAME, session=session) as tls:
                tls.sendall(GET)
                tls.recv(65536)  # the ticket comes with it (RFC 8446 §4.6.1)
                session = tls.session
                reused.append(tls.session_reused)
        return reused

    with serving(answer(), ca.context(NAME)) as server:
        wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        assert in_sandbox(client, wanted) == [False, True, True]
