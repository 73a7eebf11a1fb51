"""What a redirector does, one function a behaviour, and what some of them cannot.

A behaviour is given a lab (harness.py) and raises what is wrong. Those of `EXCEPTIONS` must fail: one that
works after all is an exception too many.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from harness import WAIT, Verdict, echo, outcome, outlived, tcp, udp

SERVER, SERVER_V6 = ("198.51.100.7", 8443), ("2001:db8:1::7", 8443)
LOOPBACK, LOOPBACK_V6 = ("127.0.0.1", 9), ("::1", 9)
BIG = 4 << 20
MANY = 2000
UDP_SEGMENT = 103
SO_BINDTODEVICE = 25
RESET = struct.pack("ii", 1, 0)


class Behaviour(NamedTuple):
    """`title` is the table's; with `alone`, `body` gets the redirector's name and makes its lab."""

    name: str
    title: str
    body: Callable[[Any], None]
    alone: bool


BEHAVIOURS: list[Behaviour] = []


def behaviour(title: str, *, alone: bool = False):
    def add(body):
        BEHAVIOURS.append(Behaviour(body.__name__, title, body, alone))
        return body

    return add


EXCEPTIONS: dict[tuple[str, str], str] = {
    ("seccomp", "two_may_listen_on_one_port"): "ports are the machine's",
    ("tproxy", "ping_is_answered"): "others than the machine itself are unreachable",
    ("seccomp", "ping_is_answered"): "EPERM",
    ("tproxy", "a_socket_bound_to_an_interface_is_captured"): "refused at once",
    ("seccomp", "loopback_falls_outward_for_udp"): "stays on the machine's own loopback",
    ("seccomp", "loopback_of_ipv6_falls_outward_for_udp"): "stays on the machine's own loopback",
    ("tun", "loopback_of_ipv6_falls_outward_for_udp"): "stays inside, and is refused",
    (
        "tun",
        "loopback_clients_keep_their_address",
    ): "not over IPv6: they come from 2001:2:0:6e63::1",
    ("tun", "after_the_engine_udp_is_refused"): "network is unreachable",
    ("tun", "after_the_engine_tcp_is_refused"): "network is unreachable",
    ("seccomp", "after_the_engine_tcp_is_refused"): "function not implemented (ENOSYS)",
    ("seccomp", "after_the_engine_udp_is_refused"): "function not implemented (ENOSYS)",
    ("ebpf", "two_may_listen_on_one_port"): "ports are the machine's",
    ("ebpf", "ping_is_answered"): "not captured",
    ("ebpf", "a_socket_bound_to_an_interface_is_captured"): "left alone",
    ("ebpf", "loopback_falls_outward"): "stays on the machine's own loopback",
    ("ebpf", "loopback_falls_outward_for_udp"): "stays on the machine's own loopback",
    ("ebpf", "loopback_of_ipv6_falls_outward_for_udp"): "stays on the machine's own loopback",
    ("ebpf", "after_the_engine_tcp_fails"): "they reach the real network",
    ("ebpf", "after_the_engine_tcp_is_refused"): "they reach the real network",
    ("ebpf", "after_the_engine_udp_is_refused"): "they reach the real network",
}
"""(redirector, name of the behaviour): what is so instead."""


def exchange(address, payload=b"question"):
    with tcp(address) as conn:
        conn.sendall(payload)
        return conn.recv(100), conn.getpeername()[:2]


# ── connecting ───────────────────────────────────────────────────────────────────────────────────────────


@behaviour("connects over IPv4; the client sees the address that it dialled")
def connects(lab):
    assert lab.run(lambda: exchange(SERVER)) == (b"question", SERVER)
    assert lab.opened[0].original_dst == SERVER


@behaviour("connects over IPv6")
def connects_over_ipv6(lab):
    assert lab.run(lambda: exchange(SERVER_V6)) == (b"question", SERVER_V6)


@behaviour("refused is refused, at once")
def refused(lab):
    lab.verdict = Verdict.REFUSE
    for server in (SERVER, SERVER_V6):
        assert lab.run(lambda server=server: outcome(lambda: tcp(server))) == errno.ECONNREFUSED


@behaviour("unreachable is unreachable")
def unreachable(lab):
    lab.verdict = Verdict.UNREACHABLE
    for server in (SERVER, SERVER_V6):
        assert lab.run(lambda server=server: outcome(lambda: tcp(server))) == errno.EHOSTUNREACH


@behaviour("silence is silence, until the client gives up")
def silence(lab):
    lab.verdict = Verdict.DROP
    assert lab.run(lambda: outcome(lambda: tcp(SERVER, timeout=0.3))) == -1


@behaviour("a client waits for the verdict, however late")
def late_verdict(lab):
    def decide(syn):
        lab.loop.call_later(0.3, syn.answer, Verdict.REFUSE)

    lab.verdict = decide
    assert lab.run(lambda: outcome(lambda: tcp(SERVER))) == errno.ECONNREFUSED


@behaviour("a client that does not wait is told when it is decided")
def non_blocking(lab):
    def client():
        conn = socket.socket()
        conn.setblocking(False)
        first = conn.connect_ex(SERVER)
        conn.settimeout(WAIT)
        return first, exchange_on(conn)

    def exchange_on(conn):
        import select

        select.select([], [conn], [], WAIT)
        conn.sendall(b"x")
        return conn.recv(1)

    assert lab.run(client) == (errno.EINPROGRESS, b"x")


# ── bytes ────────────────────────────────────────────────────────────────────────────────────────────────


def transfer(server):
    """Send and receive `BIG` bytes at once; tell whether what came is what went."""
    data = os.urandom(1 << 16) * (BIG >> 16)
    with tcp(server) as conn:
        threading.Thread(target=conn.sendall, args=(data,), daemon=True).start()
        found = bytearray()
        while len(found) < len(data):
            piece = conn.recv(1 << 18)
            if not piece:
                break
            found += piece
        return bytes(found) == data


@behaviour("4 MiB each way arrive as sent, over both families")
def big(lab):
    for server in (SERVER, SERVER_V6):
        assert lab.run(lambda server=server: transfer(server))


@behaviour("a client's end is an end, and it still hears the answer")
def client_half_closes(lab):
    def serve(stream):
        question = b"".join(iter(lambda: stream.socket.recv(100), b""))
        stream.socket.sendall(b"you said " + question)
        stream.socket.close()

    def client():
        with tcp(SERVER) as conn:
            conn.sendall(b"all")
            conn.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: conn.recv(100), b""))

    lab.serve = serve
    assert lab.run(client) == b"you said all"


@behaviour("a server's end is an end, and it still hears the client")
def server_half_closes(lab):
    heard = threading.Event()

    def serve(stream):
        stream.socket.shutdown(socket.SHUT_WR)
        if stream.socket.recv(100) == b"still here":
            heard.set()

    def client():
        with tcp(SERVER) as conn:
            ended = conn.recv(100)
            conn.sendall(b"still here")
            return ended

    lab.serve = serve
    assert lab.run(client) == b""
    assert heard.wait(WAIT)


@behaviour("a client's reset is a reset")
def client_resets(lab):
    failed = threading.Event()

    def serve(stream):
        try:
            while stream.socket.recv(100):
                stream.socket.sendall(b"!")
        except ConnectionResetError:
            failed.set()

    def client():
        conn = tcp(SERVER)
        conn.sendall(b"?")
        assert conn.recv(1) == b"!"
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        conn.close()

    lab.serve = serve
    lab.run(client)
    assert failed.wait(WAIT)


@behaviour("a server's reset is a reset")
def server_resets(lab):
    def serve(stream):
        stream.socket.recv(100)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        stream.socket.close()

    lab.serve = serve
    assert lab.run(lambda: outcome(lambda: exchange(SERVER))) == errno.ECONNRESET


@behaviour("what was said before a reset arrives before it")
def last_words(lab):
    said = bytes(3000)

    def serve(stream):
        stream.socket.recv(100)
        stream.socket.sendall(said)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        stream.socket.close()

    def client():
        heard = b""
        with tcp(SERVER) as conn:
            conn.sendall(b"speak")
            try:
                while piece := conn.recv(100):
                    heard += piece
            except ConnectionResetError:
                return heard
        return None

    lab.serve = serve
    for _ in range(100):
        assert lab.run(client) == said


@behaviour("… also when the server closes without having read all")
def last_words_to_a_flood(lab):
    said = bytes(3000)

    def serve(stream):
        stream.socket.recv(1)
        stream.socket.sendall(said)
        stream.socket.close()

    def client():
        heard = b""
        with tcp(SERVER) as conn:
            flood = threading.Thread(target=outcome, args=(lambda: conn.sendall(bytes(BIG)),))
            flood.start()
            with contextlib.suppress(ConnectionResetError):
                while piece := conn.recv(100):
                    heard += piece
            flood.join()
        return heard

    lab.serve = serve
    for _ in range(20):
        assert lab.run(client) == said


@behaviour("a server that does not read holds the client up")
def back_pressure(lab):
    lab.serve = lambda _stream: threading.Event().wait(WAIT)

    def client():
        conn = tcp(SERVER, timeout=0.5)
        sent = 0
        try:
            while sent < 64 << 20:
                sent += conn.send(bytes(1 << 16))
        except TimeoutError:
            return sent
        return sent

    assert 0 < lab.run(client) < 32 << 20


@behaviour("a slow reader gets everything")
def slow_reader(lab):
    def serve(stream):
        stream.socket.sendall(bytes(BIG))
        stream.socket.close()

    def client():
        with tcp(SERVER) as conn:
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            return sum(len(piece) for piece in iter(lambda: conn.recv(4096), b""))

    lab.serve = serve
    assert lab.run(client) == BIG


@behaviour("2,000 connections at once")
def many(lab):
    def serve(stream):
        stream.socket.sendall(stream.socket.recv(10))

    def client():
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        conns = [tcp(SERVER, timeout=20) for _ in range(MANY)]
        for number, conn in enumerate(conns):
            conn.sendall(b"%d" % number)
        return sum(conn.recv(10) == b"%d" % number for number, conn in enumerate(conns))

    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    lab.serve = serve
    assert lab.run(client) == MANY


# ── inside the machine ───────────────────────────────────────────────────────────────────────────────────


def serve_locally(bound, dialled):
    """Listen and connect in one place; return what came and who the server saw."""
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.create_server((bound, 0), family=family) as listener:
        client = tcp((dialled, listener.getsockname()[1]))
        conn, peer = listener.accept()
        conn.sendall(b"mine")
        return client.recv(10), peer[0], client.getsockname()[0]


@behaviour("a server of the test is reached by it, on loopback")
def local_listener(lab):
    for address in ("127.0.0.1", "::1"):
        what = lab.run(lambda address=address: serve_locally(address, address))
        assert what[0] == b"mine"
        assert what[1] == what[2]
    assert not lab.asked


@behaviour("loopback clients come from loopback")
def loopback_clients_keep_their_address(lab):
    for address in ("127.0.0.1", "::1"):
        what = lab.run(lambda address=address: serve_locally(address, address))
        assert what[1] == address


@behaviour("two tests may listen on one port")
def two_may_listen_on_one_port(lab):
    holding = socket.create_server(("127.0.0.1", 0))
    port = holding.getsockname()[1]
    lab.elsewhere(lambda: socket.create_server(("127.0.0.1", port)).close())


@behaviour("loopback that nobody in the test serves reaches the engine")
def loopback_falls_outward(lab):
    lab.alone = False
    for server in (LOOPBACK, LOOPBACK_V6):
        assert lab.run(lambda server=server: exchange(server)) == (b"question", server)


@behaviour("… and is refused as the engine says")
def loopback_is_refused(lab):
    lab.alone, lab.verdict = False, Verdict.REFUSE
    for server in (LOOPBACK, LOOPBACK_V6):
        assert lab.run(lambda server=server: outcome(lambda: tcp(server))) == errno.ECONNREFUSED


@behaviour("a socket that is bound to an interface is captured")
def a_socket_bound_to_an_interface_is_captured(lab):
    def client():
        conn = socket.socket()
        conn.settimeout(WAIT)
        names = [name for _, name in socket.if_nameindex() if name != "lo"]
        conn.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, names[0].encode())
        conn.connect(SERVER)

    assert lab.run(lambda: outcome(client)) == 0


# ── datagrams ────────────────────────────────────────────────────────────────────────────────────────────


def ask(server, payload=b"question"):
    with udp(server) as conn:
        conn.send(payload)
        return conn.recv(70000)


@behaviour("UDP is asked and answered, over both families")
def datagrams(lab):
    for server in (SERVER, SERVER_V6):
        assert lab.run(lambda server=server: ask(server)) == b"question"


@behaviour("… also by a socket that is not connected")
def unconnected(lab):
    def client():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as conn:
            conn.settimeout(WAIT)
            conn.sendto(b"question", SERVER)
            return conn.recvfrom(100)

    assert lab.run(client) == (b"question", SERVER)


@behaviour("datagrams of 60,000 bytes, both ways")
def big_datagrams(lab):
    for server in (SERVER, SERVER_V6):
        assert lab.run(lambda server=server: ask(server, b"x" * 60_000)) == b"x" * 60_000


@behaviour("UDP is refused")
def datagrams_are_refused(lab):
    lab.answer = lambda flow: flow.refuse()
    for server in (SERVER, SERVER_V6):
        assert lab.run(lambda server=server: outcome(lambda: ask(server))) == errno.ECONNREFUSED


@behaviour("UDP to loopback that nobody in the test serves reaches the engine")
def loopback_falls_outward_for_udp(lab):
    lab.alone = False
    assert lab.run(lambda: ask(("127.0.0.1", 9))) == b"question"


@behaviour("… over IPv6, too")
def loopback_of_ipv6_falls_outward_for_udp(lab):
    lab.alone = False
    assert lab.run(lambda: ask(("::1", 9))) == b"question"


@behaviour("ping is answered")
def ping_is_answered(lab):
    assert shutil.which("ping"), "needs ping"
    command = ["ping", "-c", "1", "-W", "2", SERVER[0]]
    assert lab.run(lambda: subprocess.run(command, capture_output=True).returncode) == 0


# ── who, and the end ─────────────────────────────────────────────────────────────────────────────────────


@behaviour("it is known which process connects, before it is let in")
def attribution(lab):
    found = []

    def decide(syn):
        found.append(lab.owner(socket.IPPROTO_TCP, syn.client, syn.original_dst))
        return Verdict.ACCEPT

    lab.verdict = decide

    def client():
        exchange(SERVER)
        return os.getpid()

    assert found == [lab.run(client)] or found[0] == os.getpid()


@behaviour("when the redirector stops, open connections end")
def shutdown(lab):
    def serve(stream):
        stream.socket.recv(1)  # whose connect(2) has returned
        stream.socket.sendall(b"x")
        lab.stop()
        stream.socket.close()

    def client():
        with tcp(SERVER) as conn:
            conn.sendall(b"?")
            first = conn.recv(1)
            try:
                return first, conn.recv(1)
            except ConnectionResetError:
                return first, b""

    lab.serve = serve
    assert lab.run(client) == (b"x", b"")


@behaviour("when the engine is killed, open connections end", alone=True)
def with_the_engine_connections_end(name):
    def client(until_dead):
        with tcp(SERVER) as conn:
            conn.sendall(b"x")
            conn.recv(1)
            until_dead()
            return outcome(lambda: conn.recv(1))

    assert outlived(name, client) in {0, errno.ECONNRESET, errno.ECONNABORTED}


@behaviour("… new ones are refused at once", alone=True)
def after_the_engine_tcp_is_refused(name):
    def client(until_dead):
        until_dead()
        return outcome(lambda: tcp(SERVER))

    assert outlived(name, client) == errno.ECONNREFUSED


@behaviour("… or at least fail at once", alone=True)
def after_the_engine_tcp_fails(name):
    def client(until_dead):
        until_dead()
        return outcome(lambda: tcp(SERVER, timeout=1))

    assert outlived(name, client) > 0


@behaviour("… and so is a name lookup", alone=True)
def after_the_engine_udp_is_refused(name):
    def client(until_dead):
        until_dead()
        return outcome(lambda: ask(("192.0.2.53", 53)))

    assert outlived(name, client) == errno.ECONNREFUSED


__all__ = ["BEHAVIOURS", "EXCEPTIONS", "Behaviour", "echo"]
