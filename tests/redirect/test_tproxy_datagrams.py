"""UDP through TproxyRedirector, live."""

import select
import socket
import threading

import pytest
from redirect_lab import WAIT, Lab, isolated, keep_capabilities, tcp, udp

CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_PTRACE, CAP_SYS_ADMIN = 12, 13, 19, 21
pytestmark = pytest.mark.live
SERVERS = [
    ("8.8.8.8", 53),
    ("127.0.0.53", 53),
    ("2606:4700::1111", 53),
    ("10.0.0.1", 9999),
    ("::1", 9999),
]


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("connected", [True, False])
@isolated
def test_asks_and_is_answered(lab, server, connected):
    client = udp(family_of(server[0]))
    if connected:
        client.connect(server)
        client.send(b"question")
    else:
        client.sendto(b"question", server)
    flow = lab.flow()
    assert (flow.original_dst, flow.first) == (server, b"question")
    assert flow.client[1] == client.getsockname()[1]
    lab.call(flow.reply, b"answer")
    data, peer = client.recvfrom(100)
    assert (data, peer[:2]) == (b"answer", server)


@pytest.mark.parametrize("server", SERVERS[:3])
@isolated
def test_two_questions_of_one_socket_at_once(lab, server):
    """glibc asks for A and AAAA this way."""
    client = udp(family_of(server[0]))
    client.connect(server)
    client.send(b"A?")
    client.send(b"AAAA?")
    flow = lab.flow()
    lab.call(flow.reply, b"for " + flow.first)
    lab.call(lambda: flow.listen(lambda data: flow.reply(b"for " + data)))
    assert [client.recv(100), client.recv(100)] == [b"for A?", b"for AAAA?"]
    lab.nothing_more()


@isolated
def test_a_burst_keeps_its_order(lab):
    client = udp()
    client.connect(("8.8.8.8", 4000))
    for number in range(100):
        client.send(b"%d" % number)
    flow = lab.flow()
    got = [int(flow.first)]
    lab.call(lambda: None)
    lab.call(lambda: flow.listen(lambda data: got.append(int(data))))
    lab.call(lambda: None)
    assert got == list(range(100))


@isolated
def test_one_socket_to_many_servers(lab):
    client = udp()
    servers = {(f"10.0.0.{n}", 1000 + n) for n in range(1, 50)}
    for server in servers:
        client.sendto(b"hello", server)
    for _ in range(len(servers)):
        flow = lab.flow()
        lab.call(flow.reply, repr(flow.original_dst).encode())
    while servers:
        data, peer = client.recvfrom(100)
        assert data == repr(peer).encode()
        servers.remove(peer)


@pytest.mark.parametrize("server", SERVERS)
@isolated
def test_the_largest_datagrams(lab, server):
    client = udp(family_of(server[0]))
    client.connect(server)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
    client.send(b"q" * 65507)
    flow = lab.flow()
    assert flow.first == b"q" * 65507
    lab.call(flow.reply, b"a" * 65507)
    assert client.recv(70000) == b"a" * 65507
    lab.call(flow.reply, b"")
    assert client.recv(10) == b""


@isolated
def test_after_close_the_next_datagram_opens_a_flow(lab):
    client = udp()
    client.connect(("8.8.8.8", 53))
    client.send(b"one")
    first = lab.flow()
    lab.call(first.close)
    lab.call(first.reply, b"too late")
    client.send(b"two")
    second = lab.flow()
    assert second.first == b"two"
    lab.call(second.reply, b"in time")
    assert client.recv(100) == b"in time"


@isolated
def test_a_local_server_wins_and_a_wildcard_one_does_not_capture_the_world(lab):
    server = udp()
    server.bind(("0.0.0.0", 53))
    client = udp()
    client.sendto(b"local", ("127.0.0.1", 53))
    _data, peer = server.recvfrom(10)
    server.sendto(b"mine", peer)
    assert client.recvfrom(10) == (b"mine", ("127.0.0.1", 53))
    client.sendto(b"far", ("8.8.8.8", 53))
    assert lab.flow().first == b"far"
    assert not select.select([server], [], [], 0)[0]


@isolated
def test_a_server_may_bind_a_port_that_is_captured(lab):
    client = udp()
    client.sendto(b"far", ("8.8.8.8", 53))
    lab.flow()
    with udp() as server:
        server.bind(("0.0.0.0", 53))


@isolated
def test_nobody_hears_a_reply_to_a_closed_client(lab):
    client = udp()
    client.sendto(b"bye", ("8.8.8.8", 53))
    flow = lab.flow()
    client.close()
    for _ in range(3):
        lab.call(flow.reply, b"anybody?")
    lab.nothing_more()


@pytest.mark.parametrize("server", SERVERS)
@isolated
def test_refuses(lab, server):
    client = udp(family_of(server[0]))
    client.connect(server)
    client.send(b"anybody?")
    flow = lab.flow()
    lab.call(flow.refuse)
    with pytest.raises(ConnectionRefusedError):
        client.recv(10)
    lab.call(flow.refuse)
    lab.call(flow.reply, b"too late")
    client.send(b"and now?")
    assert lab.flow().first == b"and now?"


@isolated
def test_works_with_the_capabilities_that_the_engine_has():
    keep_capabilities(CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_PTRACE, CAP_SYS_ADMIN)
    lab = Lab()
    client = udp()
    client.sendto(b"?", ("8.8.8.8", 53))
    flow = lab.flow()
    lab.call(flow.reply, b"!")
    assert client.recv(10) == b"!"
    assert lab.redirector.owners.inode(1, socket.IPPROTO_UDP, flow.client, flow.original_dst)
    client = tcp(("8.8.8.8", 443))
    assert lab.stream().client == client.getsockname()
    lab.close()


@isolated
def test_an_idle_flow_ends():
    lab, ended = Lab(udp_idle=1_000_000), threading.Event()
    client = udp()
    client.connect(("8.8.8.8", 4000))
    client.send(b"one")
    first = lab.flow()
    lab.call(first.on_end, ended.set)
    assert ended.wait(WAIT)
    client.send(b"two")
    assert lab.flow().first == b"two"
    lab.call(first.reply, b"late, but not lost")
    assert client.recv(100) == b"late, but not lost"
    lab.close()
