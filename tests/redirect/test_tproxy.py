"""TproxyRedirector, live: real sockets in a namespace of the test's own."""

import errno
import os
import resource
import signal
import socket
import struct
import threading
import time

import pytest
import redirect_lab as lab_module
from redirect_lab import MACHINE, WAIT, Space, isolated, tcp, udp, unshare

from pytest_netcapture.redirect import gate, ruleset
from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect.base import Verdict

FOREIGN = [("8.8.8.8", 443), ("2606:4700::1111", 443), ("127.0.0.1", 9), ("::1", 9)]
pytestmark = pytest.mark.live


@pytest.mark.parametrize("server", FOREIGN)
@isolated
def test_accepts(lab, server):
    client = tcp(server)
    stream = lab.stream()
    assert stream.original_dst == server == client.getpeername()[:2]
    assert stream.client == client.getsockname()[:2]
    assert stream.namespace == lab.space.id
    assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    client.sendall(b"ping")
    assert stream.socket.recv(10) == b"ping"
    stream.socket.sendall(b"pong")
    assert client.recv(10) == b"pong"


@pytest.mark.parametrize("server", FOREIGN)
@pytest.mark.parametrize(
    ("verdict", "number"),
    [(Verdict.REFUSE, errno.ECONNREFUSED), (Verdict.UNREACHABLE, errno.EHOSTUNREACH)],
)
@isolated
def test_fails_exactly_as_the_verdict_says(lab, server, verdict, number):
    lab.needs_gate()
    lab.verdict = verdict
    with pytest.raises(OSError) as caught:
        tcp(server)
    assert caught.value.errno == number
    assert lab.syn().original_dst == server


@isolated
def test_drops(lab):
    lab.needs_gate()
    lab.verdict = Verdict.DROP
    with pytest.raises(TimeoutError):
        tcp(FOREIGN[0], timeout=0.2)


@isolated
def test_waits_for_the_verdict(lab):
    lab.needs_gate()
    lab.verdict = None
    client = socket.socket()
    client.setblocking(False)
    assert client.connect_ex(("8.8.8.8", 443)) == errno.EINPROGRESS
    syn = lab.syn()
    assert syn.client == client.getsockname()
    assert client.connect_ex(("8.8.8.8", 443)) == errno.EALREADY
    lab.call(syn.answer, Verdict.REFUSE)
    lab.call(syn.answer, Verdict.ACCEPT)
    client.settimeout(WAIT)
    with pytest.raises(ConnectionRefusedError):
        client.connect(("8.8.8.8", 443))


@isolated
def test_asks_once_for_retransmissions(lab):
    lab.needs_gate()
    lab.verdict = None
    for sequence in (1, 1, 2):
        send_syn(sequence)
    first, second = lab.syn(), lab.syn()
    lab.nothing_more()
    assert first.client == second.client == (k.OWN_V4, 5555)
    lab.call(first.answer, Verdict.DROP)
    send_syn(1)
    lab.nothing_more()


@isolated
def test_each_try_is_told_that_the_host_is_unreachable(lab):
    lab.needs_gate()
    lab.verdict = Verdict.UNREACHABLE
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as heard:
        heard.settimeout(WAIT)
        for _ in range(2):
            send_syn(7)
            told = heard.recv(200)[20:]
            assert told[:2] == bytes([3, 1])
            assert told[28:36] == struct.pack("!HHI", 5555, 443, 7)
    assert lab.syn().original_dst == ("8.8.8.8", 443)
    lab.nothing_more()


@isolated
def test_the_gate_outlives_more_syns_than_it_holds(lab):
    lab.needs_gate()
    gate._BUFFER = 4096
    lab.verdict = lambda syn: Verdict.REFUSE if syn.original_dst[1] == 444 else None
    unshare(k.CLONE_NEWNET)
    space = Space(5)
    lab.redirector.attach(space)
    for sequence in range(100):
        send_syn(sequence)
    lab.call(lab.redirector.watch, space)
    # While its small queue is full the gate fails open; one that has died never refuses again.
    deadline = time.monotonic() + WAIT
    while not is_refused(("8.8.8.8", 444)):
        assert time.monotonic() < deadline


def is_refused(address):
    try:
        tcp(address).close()
    except ConnectionRefusedError:
        return True
    return False


def send_syn(sequence):
    """Send a SYN to 8.8.8.8:443 without having a socket for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.bind((k.OWN_V4, 0))
        header = struct.pack("!HHIIBBHHH", 5555, 443, sequence, 0, 5 << 4, 2, 1000, 0, 0)
        raw.sendto(header, ("8.8.8.8", 0))


@isolated
def test_client_half_closes(lab):
    client = tcp(FOREIGN[0])
    server = lab.stream().socket
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert server.recv(10) == b"question"
    assert server.recv(10) == b""
    server.sendall(b"answer")
    server.close()
    assert client.recv(10) == b"answer"
    assert client.recv(10) == b""


@isolated
def test_server_half_closes(lab):
    client = tcp(FOREIGN[0])
    server = lab.stream().socket
    server.sendall(b"hello")
    server.shutdown(socket.SHUT_WR)
    assert client.recv(10) == b"hello"
    assert client.recv(10) == b""
    client.sendall(b"still here")
    assert server.recv(20) == b"still here"


@pytest.mark.parametrize("who", ["client", "server"])
@isolated
def test_resets(lab, who):
    client = tcp(FOREIGN[0])
    server = lab.stream().socket
    one, other = (client, server) if who == "client" else (server, client)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
    with pytest.raises(ConnectionResetError):
        other.recv(1)


@pytest.mark.parametrize(
    ("bound", "dialled"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.53", "127.0.0.53"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", k.OWN_V4),
        ("::1", "::1"),
        ("::", "::1"),
        ("::", k.OWN_V6),
        ("::", "127.0.0.1"),
        ("10.1.2.3", "10.1.2.3"),
        ("fd00:1::3", "fd00:1::3"),
    ],
)
@isolated
def test_a_local_listener_wins(lab, bound, dialled):
    listener = socket.create_server(
        (bound, 0), family=family_of(bound), dualstack_ipv6=bound == "::"
    )
    port = listener.getsockname()[1]
    client = tcp((dialled, port))
    conn, _ = listener.accept()
    conn.sendall(b"mine")
    assert client.recv(10) == b"mine"
    client.sendall(b"yours")
    assert conn.recv(10) == b"yours"
    lab.nothing_more()


@pytest.mark.parametrize(
    ("bound", "dialled"), [("0.0.0.0", "8.8.8.8"), ("::", "2606:4700::1"), ("::", "8.8.8.8")]
)
@isolated
def test_a_wildcard_listener_does_not_capture_the_world(lab, bound, dialled):
    listener = socket.create_server(
        (bound, 443), family=family_of(bound), dualstack_ipv6=bound == "::"
    )
    client = tcp((dialled, 443))
    assert lab.stream().client == client.getsockname()[:2]
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@isolated
def test_a_server_may_start_on_a_port_that_is_captured(lab):
    tcp(("8.8.8.8", 8443))
    lab.stream()
    with socket.create_server(("0.0.0.0", 8443)):
        tcp(("127.0.0.1", 8443))
    lab.nothing_more()


@pytest.mark.parametrize(
    "server", [(a, 443) for a in ("127.0.0.1", "::1", k.OWN_V4, k.OWN_V6, *MACHINE)]
)
@isolated
def test_the_engines_own_sockets_are_not_captured(lab, server):
    def dial():
        with socket.socket(family_of(server[0])) as conn:
            conn.setsockopt(socket.SOL_SOCKET, k.SO_MARK, k.ENGINE_MARK)
            conn.settimeout(WAIT)
            conn.connect(server)

    with pytest.raises(ConnectionRefusedError):
        lab.space.run(dial)
    with socket.create_server(("::", server[1]), family=socket.AF_INET6, dualstack_ipv6=True):
        lab.space.run(dial)
    lab.nothing_more()


@pytest.mark.parametrize("address", [k.LISTENER_V4, k.LISTENER_V6])
@isolated
def test_strays_to_the_listener_are_refused(lab, address):
    with pytest.raises(ConnectionRefusedError):
        tcp(address)
    client = udp(family_of(address[0]))
    client.connect(address)
    client.send(b"x")
    with pytest.raises(ConnectionRefusedError):
        client.recv(1)
    lab.nothing_more()


@isolated
def test_multicast_and_broadcast_are_left_alone(lab):
    client = udp()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    for address in ("224.0.0.251", "255.255.255.255"):
        client.sendto(b"anybody?", (address, 5353))
    lab.nothing_more()
    with pytest.raises(OSError):
        tcp(("224.0.0.251", 443))


@isolated
def test_five_hundred_connections(lab):
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    clients = [socket.socket() for _ in range(500)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(("8.8.8.8", 443))
    streams = {}
    for _ in clients:
        stream = lab.stream()
        stream.socket.sendall(b"%d" % stream.client[1])
        streams[stream.client] = stream
    for client in clients:
        client.settimeout(WAIT)
        assert client.recv(10) == b"%d" % client.getsockname()[1]
    assert len(streams) == 500


@isolated
def test_detach_closes_everything(lab):
    lab.call(lab.redirector.detach, lab.space)
    before = descriptors()
    with TwoAttached(lab) as spaces:
        assert len(descriptors()) > len(before)
        for space in spaces:
            lab.call(lab.redirector.detach, space)
            lab.call(lab.redirector.detach, space)
        assert descriptors() == before


class TwoAttached:
    def __init__(self, lab):
        self.lab = lab

    def __enter__(self):
        self.spaces = []
        for number in (7, 8):
            unshare(k.CLONE_NEWNET)
            space = Space(number)
            self.lab.redirector.attach(space)
            self.lab.call(self.lab.redirector.watch, space)
            self.spaces.append(space)
        return self.spaces

    def __exit__(self, *_):
        for space in self.spaces:
            space.close()


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


@isolated
def test_without_a_queue_in_the_kernel_it_captures_but_does_not_gate():
    lab = lab_module.Lab(way=ruleset.NO_GATE)
    assert not lab.redirector.gates
    client = tcp(FOREIGN[0])
    assert lab.events.get(timeout=WAIT).client == client.getsockname()
    lab.nothing_more()
    lab.close()


@isolated
def test_clients_wait_from_attach_on():
    lab = lab_module.Lab()
    unshare(k.CLONE_NEWNET)
    space = Space(5)
    lab.redirector.attach(space)
    client = socket.socket()
    client.setblocking(False)
    assert client.connect_ex(FOREIGN[0]) == errno.EINPROGRESS
    asker = udp()
    asker.sendto(b"early", ("8.8.8.8", 53))
    lab.nothing_more()
    lab.call(lab.redirector.watch, space)
    events = [lab.events.get(timeout=WAIT) for _ in range(3 if lab.redirector.gates else 2)]
    assert {event.namespace for event in events} == {5}
    lab.close()


@isolated
def test_data_in_the_syn(lab):
    client = socket.socket()
    client.sendto(b"early", socket.MSG_FASTOPEN, FOREIGN[0])
    assert lab.stream().socket.recv(10) == b"early"


@isolated
def test_without_descriptors_clients_wait(lab):
    client = socket.socket()
    client.setblocking(False)
    paused, pause = threading.Event(), lab.redirector._pause
    lab.redirector._pause = lambda *arguments: (paused.set(), pause(*arguments))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
    client.connect_ex(FOREIGN[0])
    assert paused.wait(WAIT)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    assert lab.stream().original_dst == FOREIGN[0]


@isolated
def test_two_namespaces_are_told_apart(lab):
    with TwoAttached(lab) as spaces:
        for space in spaces:
            client = space.run(lambda: tcp(FOREIGN[0]))
            stream = lab.stream()
            assert stream.namespace == space.id
            assert stream.client == client.getsockname()


@isolated
def test_without_the_engine_everything_is_refused_at_once():
    """The engine is a process here; its sockets go with it, the rules stay."""
    ready, go = os.pipe(), os.pipe()
    engine = os.fork()
    if not engine:
        lab_module.unshare = lambda flags: None  # the namespace is this process's
        lab = lab_module.Lab()
        lab.verdict = None
        os.write(ready[1], b"r")
        lab.syn()
        os.write(ready[1], b"s")
        os.read(go[0], 1)
        os._exit(0)
    assert os.read(ready[0], 1) == b"r"
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(FOREIGN[0])
    assert os.read(ready[0], 1) == b"s"
    os.kill(engine, signal.SIGKILL)
    os.waitpid(engine, 0)
    for server in FOREIGN:
        with pytest.raises(ConnectionRefusedError):
            tcp(server)
    with socket.create_server(("0.0.0.0", 443)), pytest.raises(ConnectionRefusedError):
        tcp(("8.8.8.8", 443))
    with socket.create_server(("127.0.0.1", 443)):
        tcp(("127.0.0.1", 443))
    for server in ((k.RESOLVER_V4, 53), ("127.0.0.1", 9), ("2606:4700::1111", 53)):
        asker = udp(family_of(server[0]))
        asker.connect(server)
        asker.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            asker.recv(1)


@isolated
def test_addresses_of_both_families_can_be_looked_up(lab):
    for host in ("1.2.3.4", "2606:4700::1"):
        assert socket.getaddrinfo(host, 80, flags=socket.AI_ADDRCONFIG)
