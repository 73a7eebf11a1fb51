"""UDP of targets: each destination is told apart, replies come from where the program wrote to."""

from __future__ import annotations

import errno
import socket

import pytest
from ebpf_lab import HOME, OUTSIDE, OUTSIDE_V6, WAIT, Lab, needs_ebpf

from pytest_netcapture.redirect import ebpf_datagrams

pytestmark = pytest.mark.live
MAPPED = ("::ffff:198.51.100.7", 8080)
FAMILIES = [
    (socket.AF_INET, OUTSIDE, OUTSIDE),
    (socket.AF_INET6, OUTSIDE_V6, OUTSIDE_V6),
    (socket.AF_INET6, MAPPED, OUTSIDE),
]


@pytest.fixture(scope="module", autouse=True)
def _needs_ebpf():
    needs_ebpf()


@pytest.fixture
def lab():
    made = Lab()
    yield made
    made.close()


def udp(family=socket.AF_INET):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(WAIT)
    return sock


def echo(lab, flow):
    lab.call(flow.reply, b"echo " + flow.first)


@pytest.mark.parametrize(("family", "address", "seen"), FAMILIES)
def test_an_unconnected_socket_gets_its_answer_from_where_it_wrote_to(lab, family, address, seen):
    def client():
        with udp(family) as sock:
            sock.sendto(b"question", address)
            data, peer = sock.recvfrom(100)
            return data, peer[:2]

    program = lab.start(client)
    flow = lab.flow()
    assert (flow.original_dst, flow.first, flow.namespace) == (seen, b"question", HOME)
    echo(lab, flow)
    assert program.result() == (b"echo question", address)


@pytest.mark.parametrize(("family", "address", "seen"), FAMILIES)
def test_a_connected_socket_sees_its_server(lab, family, address, seen):
    def client():
        with udp(family) as sock:
            sock.connect(address)
            sock.send(b"question")
            data, peer = sock.recvfrom(100)
            return data, peer[:2], sock.getpeername()[:2]

    program = lab.start(client)
    flow = lab.flow()
    assert flow.original_dst == seen
    assert lab.redirector.owner(socket.IPPROTO_UDP, flow.client)[1] == program.pid
    echo(lab, flow)
    assert program.result() == (b"echo question", address, address)


def test_one_socket_may_write_to_many(lab):
    servers = [(f"198.51.100.{n}", 5000 + n) for n in range(1, 40)]

    def client():
        with udp() as sock:
            for server in servers:
                sock.sendto(str(server).encode(), server)
            return sorted(sock.recvfrom(100) for _ in servers)

    program = lab.start(client)
    for _ in servers:
        flow = lab.flow()
        assert flow.first == str(flow.original_dst).encode()
        echo(lab, flow)
    assert program.result() == sorted((b"echo " + str(s).encode(), s) for s in servers)


def test_more_destinations_than_ports_are_kept_ready(lab):
    """They are made while they are taken."""
    count = 4 * ebpf_datagrams.FREE

    def client():
        with udp() as sock:
            for n in range(count):
                sock.sendto(b"x", ("198.51.100.7", 2000 + n))
                sock.recv(10)
        return count

    program = lab.start(client)
    for n in range(count):
        flow = lab.flow()
        assert flow.original_dst[1] == 2000 + n
        echo(lab, flow)
    assert program.result() == count


def test_two_programs_that_write_to_one_server_are_told_apart(lab):
    def client():
        with udp() as sock:
            sock.sendto(b"x", OUTSIDE)
            return sock.recv(100)

    programs = [lab.start(client) for _ in range(2)]
    owners = set()
    for _ in programs:
        flow = lab.flow()
        owners.add(lab.redirector.owner(socket.IPPROTO_UDP, flow.client)[1])
        echo(lab, flow)
    assert [program.result() for program in programs] == [b"echo x"] * 2
    assert owners == {program.pid for program in programs}


def test_nobody_there_is_refused(lab):
    def client():
        with udp() as sock:
            sock.connect(OUTSIDE)
            sock.send(b"question")
            try:
                sock.recv(100)
            except OSError as error:
                return error.errno

    program = lab.start(client)
    lab.call(lab.flow().refuse)
    assert program.result() == errno.ECONNREFUSED


def test_a_targets_answers_to_others_are_left_alone(lab):
    """Whoever was heard of first is no server of the target's."""
    with udp() as client:
        client.bind(("127.0.0.1", 0))

        def serving():
            with udp() as sock:
                sock.bind(("127.0.0.1", 0))
                client.sendto(b"hello", sock.getsockname())  # as from another program
                data, peer = sock.recvfrom(100)
                sock.sendto(data, peer)

        lab.run(serving)
        assert client.recv(100) == b"hello"
    lab.nothing_more()


def test_multicast_is_left_alone(lab):
    def client():
        with udp() as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)  # stays on the machine
            sock.setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1")
            )
            sock.sendto(b"x", ("224.0.0.251", 9999))

    lab.run(client)
    lab.nothing_more()


def test_a_port_that_nobody_needs_is_taken_back(lab, monkeypatch):
    monkeypatch.setattr(ebpf_datagrams, "IDLE", 0)

    def client():
        with udp() as sock:
            sock.sendto(b"x", OUTSIDE)
            return sock.recv(100)

    datagrams = lab.redirector._datagrams
    for _ in range(2):
        program = lab.start(client)
        echo(lab, lab.flow())
        program.result()
        lab.call(datagrams._timer.cancel)
        lab.call(datagrams._sweep)
        maps = lab.redirector._programs.maps
        assert (dict(maps["paths"].items()), dict(maps["servers"].items())) == ({}, {})


def test_a_connected_socket_keeps_its_port(lab, monkeypatch):
    monkeypatch.setattr(ebpf_datagrams, "IDLE", 0)

    def client():
        with udp() as sock:
            sock.connect(OUTSIDE)
            sock.send(b"first")
            first = sock.recv(100)
            sock.send(b"second")
            return first, sock.recv(100)

    program = lab.start(client)
    flow = lab.flow()
    datagrams = lab.redirector._datagrams
    lab.call(datagrams._timer.cancel)
    lab.call(datagrams._sweep)
    lab.call(flow.listen, lambda data: flow.reply(b"echo " + data))
    echo(lab, flow)
    assert program.result() == (b"echo first", b"echo second")
