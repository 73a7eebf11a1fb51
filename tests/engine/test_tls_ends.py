"""A side that ends early, at every stage of a handshake: the other sees what it would without us."""

import socket
import ssl
import struct
import threading

import pytest
from engine_lab import Authority, answer, in_sandbox, reset, serving, settings
from tls_lab import NAME, dial, fetch, pump, seen

pytestmark = pytest.mark.live

OTHER = "other.example.com"
"""Asking it tells the test's servers, or what became of them."""
RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def ca(tmp_path):
    return Authority(tmp_path)


def how_it_ends(act) -> str:
    """Return what a client gets to feel: "end", "reset" or what TLS says."""
    try:
        return "end" if act() == b"" else "data"
    except ConnectionResetError:
        return "reset"
    except ssl.SSLError as error:
        return error.reason or str(error)


# ── the server ends ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rudely", [False, True], ids=["end", "reset"])
@pytest.mark.parametrize("stage", ["nothing", "half a hello", "a hello"])
def test_a_server_that_ends_before_its_certificate(stage, rudely, ca):
    """Half a hello it does not get: it ends by itself then, as one that waits no longer."""
    go = threading.Event()

    def handle(conn):
        if stage == "a hello":
            conn.recv(65536)
        else:
            go.wait(20)
        if rudely:
            reset(conn)

    def tell(conn):
        go.set()
        answer()(conn)

    def client(sandbox):
        raw, _, _, outgoing = dial()
        hello = outgoing.read()
        with raw:
            raw.sendall({"nothing": b"", "half a hello": hello[:50], "a hello": hello}[stage])
            fetch(OTHER)
            ending = how_it_ends(lambda: raw.recv(1000))
        return ending, [flow.brief for flow in seen(sandbox) if flow.protocol != "http"]

    with serving(handle) as server, serving(tell, ca.context(OTHER)) as other:
        mappings = [f"{NAME}={server.at}", f"{OTHER}={other.at}"]
        ending, flows = in_sandbox(client, settings(mappings=mappings, ca=[ca.file]))
    assert ending == ("reset" if rudely else "end")
    failures = [why for protocol, why in flows if protocol == "tls"]
    assert [protocol for protocol, _ in flows if protocol != "tls"] == ["tcp"]
    if stage == "a hello":
        assert failures == [
            "Connection reset by peer" if rudely else "hung up during the handshake"
        ]
    else:
        assert failures == []


@pytest.mark.parametrize("rudely", [False, True], ids=["end", "reset"])
def test_a_server_that_ends_while_its_client_is_slow(rudely, ca):
    """Its handshake is complete, with us; the client's is not yet."""
    over = threading.Event()

    def handle(conn):
        if rudely:
            reset(conn)
        over.set()

    def wait(conn):
        answer(b"%d" % over.wait(20))(conn)

    def client(sandbox):
        raw, tls, incoming, outgoing = dial()
        with raw:
            raw.sendall(outgoing.read())
            incoming.write(raw.recv(65536))
            assert fetch(OTHER)[0].endswith(b"1")
            ending = how_it_ends(lambda: finish(raw, tls, incoming, outgoing))
        return ending, [flow.brief for flow in seen(sandbox) if flow.protocol != "http"]

    def finish(raw, tls, incoming, outgoing):
        pump(raw, incoming, outgoing, tls.do_handshake)
        return pump(raw, incoming, outgoing, tls.read)

    with (
        serving(handle, ca.context(NAME)) as server,
        serving(wait, ca.context(OTHER)) as other,
    ):
        mappings = [f"{NAME}={server.at}", f"{OTHER}={other.at}"]
        ending, flows = in_sandbox(client, settings(mappings=mappings, ca=[ca.file]))
    assert ending in (("reset", "UNEXPECTED_EOF_WHILE_READING") if rudely else ("end",))
    assert [protocol for protocol, _ in flows] == ["tcp"]


@pytest.mark.parametrize("rudely", [False, True], ids=["end", "reset"])
def test_a_server_that_ends_after_the_handshake(rudely, ca):
    def handle(conn):
        conn.recv(3)
        if rudely:
            reset(conn)

    def client(sandbox):
        raw, tls, incoming, outgoing = dial()
        with raw:
            pump(raw, incoming, outgoing, tls.do_handshake)
            tls.write(b"???")
            ending = how_it_ends(lambda: pump(raw, incoming, outgoing, tls.read))
        return ending, [flow.brief for flow in seen(sandbox)]

    with serving(handle, ca.context(NAME)) as server:
        wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
        ending, flows = in_sandbox(client, wanted)
    assert ending == ("reset" if rudely else "end")
    assert [protocol for protocol, _ in flows] == ["tcp"]


# ── the client ends ──────────────────────────────────────────────────────────────────────────────


class Observer:
    """Notes how a connection ended, below TLS, which says the same of an end and a reset.

    `tell`, for a server of its own, answers once it has: while the session lasts, that is.
    """

    def __init__(self) -> None:
        self.ended: list[str] = []
        self._over = threading.Event()

    def handle(self, conn: socket.socket) -> None:
        conn.settimeout(20)
        try:
            while socket.socket.recv(conn, 65536):
                pass
            self.ended.append("end")
        except OSError as error:
            self.ended.append("reset" if isinstance(error, ConnectionResetError) else str(error))
        self._over.set()

    def tell(self, conn: socket.socket) -> None:
        answer(b"%d" % self._over.wait(20))(conn)


@pytest.mark.parametrize("rudely", [False, True], ids=["end", "reset"])
@pytest.mark.parametrize("stage", ["nothing", "half a hello", "a hello"])
def test_a_client_that_ends_before_the_servers_certificate(stage, rudely, ca):
    """Which does not come: the server reads, says nothing, and is not left hanging."""
    observer = Observer()

    def client(sandbox):
        raw, _, _, outgoing = dial()
        hello = outgoing.read()
        raw.sendall({"nothing": b"", "half a hello": hello[:50], "a hello": hello}[stage])
        if rudely:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        raw.close()
        told = fetch(OTHER)[0][-1:]
        return told, [flow.brief for flow in seen(sandbox) if flow.protocol != "http"]

    with (
        serving(observer.handle) as server,
        serving(observer.tell, ca.context(OTHER)) as other,
    ):
        mappings = [f"{NAME}={server.at}", f"{OTHER}={other.at}"]
        told, flows = in_sandbox(client, settings(mappings=mappings, ca=[ca.file]))
    assert (told, len(observer.ended)) == (b"1", 1)
    assert len(flows) == 1
    if stage == "a hello":
        assert flows == [("tls", "hung up before the server's certificate came")]


@pytest.mark.parametrize("rudely", [False, True], ids=["end", "reset"])
@pytest.mark.parametrize("finished", [False, True], ids=["during", "after"])
def test_a_client_that_ends_during_or_after_the_handshake(finished, rudely, ca):
    observer = Observer()

    def client(sandbox):
        raw, tls, incoming, outgoing = dial()
        if finished:
            pump(raw, incoming, outgoing, tls.do_handshake)
        else:
            raw.sendall(outgoing.read())
            raw.recv(65536)
        if rudely:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        else:
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(1000):  # else what is unread makes it a reset
                pass
        raw.close()
        told = fetch(OTHER)[0][-1:]
        return told, [flow.brief for flow in seen(sandbox) if flow.protocol != "http"]

    context = ca.context(NAME)
    context.num_tickets = 0  # writing them swallows a reset
    with (
        serving(observer.handle, context) as server,
        serving(observer.tell, ca.context(OTHER)) as other,
    ):
        mappings = [f"{NAME}={server.at}", f"{OTHER}={other.at}"]
        told, flows = in_sandbox(client, settings(mappings=mappings, ca=[ca.file]))
    assert (told, observer.ended) == (b"1", ["reset" if rudely else "end"])
    assert [protocol for protocol, _ in flows] == ["tcp" if finished else "tls"]
