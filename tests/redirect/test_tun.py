"""TunRedirector, live: what is its own; what all redirectors do is in tests/conformance."""

import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
import threading
import time

import pytest
import redirect_lab
from redirect_lab import WAIT, isolated, tcp, udp

from pytest_netcapture.engine.first_bytes import peeked
from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect import tun_device, tun_probing
from pytest_netcapture.redirect.base import Verdict
from pytest_netcapture.redirect.tun import PacketFaults, TunRedirector

SERVER, SERVER_V6 = ("198.51.100.7", 443), ("2001:db8:1::7", 443)
pytestmark = pytest.mark.live
UDP_SEGMENT, SIOCGIFMTU = 103, 0x8921


@pytest.fixture(scope="module", autouse=True)
def _needs_tun():
    support = tun_probing.probe()
    if not support.available:
        pytest.skip(f"needs tun: {support.reason}")


def make(**options):
    return redirect_lab.Lab(kind=TunRedirector, **options)


def with_lab(body):
    """As `isolated`, with a lab on a TUN device."""

    @isolated
    def test():
        redirect_lab.unshare(0)
        lab = make()
        try:
            body(lab)
        finally:
            lab.close()

    test.__name__ = body.__name__
    return test


@with_lab
def test_the_device_looks_like_a_machines_interface(lab):
    assert [name for _, name in socket.if_nameindex()] == ["lo", "eth0"]
    with udp() as conn:
        told = fcntl.ioctl(conn, SIOCGIFMTU, struct.pack("16s16x", b"eth0"))
    assert struct.unpack_from("i", told, 16)[0] == 1500


@with_lab
def test_detaching_leaves_no_descriptor_and_no_device(lab):
    tcp(SERVER)
    lab.stream()
    before = set(os.listdir("/proc/self/fd"))
    lab.call(lab.redirector.stop)
    lab.call(lab.redirector.stop)
    assert len(os.listdir("/proc/self/fd")) < len(before)
    assert [name for _, name in socket.if_nameindex()] == ["lo"]


@with_lab
def test_without_its_device_the_engine_goes_on(lab):
    if os.getuid():
        raise redirect_lab.Skipped("needs real root")
    client = tcp(SERVER)
    lab.stream()
    subprocess.run(["ip", "link", "delete", "eth0"], check=True, capture_output=True)
    with pytest.raises(OSError, match="unreachable"):
        tcp(SERVER)
    client.close()
    lab.call(lambda: None)


@with_lab
def test_the_same_port_may_be_used_again_at_once(lab):
    for _ in range(3):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.settimeout(WAIT)
        client.bind((k.OWN_V4, 5555))
        client.connect(SERVER)
        server = lab.stream().socket
        server.close()
        assert client.recv(1) == b""
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()


@with_lab
def test_a_reset_is_told_however_often_it_is_looked_for(lab):
    client = tcp(SERVER)
    server = lab.stream().socket
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert select.select([server], [], [], WAIT)[0]
    for _ in range(2):
        assert lab.call(peeked, server, 1) == b""
    with pytest.raises(ConnectionResetError):
        lab.call(server.recv, 1)


@with_lab
def test_datagrams_that_are_cut_by_the_device_are_told_apart(lab):
    client = udp()
    client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
    client.sendto(b"a" * 1000 + b"b" * 1000 + b"c" * 10, SERVER)
    flow = lab.flow()
    found = [flow.first]
    lab.call(lab.redirector.drain, lab.space)
    lab.call(flow.listen, found.append)
    assert found == [b"a" * 1000, b"b" * 1000, b"c" * 10]


@with_lab
def test_a_server_on_any_address_is_reached_at_the_own_ones_only(lab):
    anywhere = {"family": socket.AF_INET6, "dualstack_ipv6": True}
    with socket.create_server(("::", 443), **anywhere) as listener:
        listener.settimeout(WAIT)
        for own in (k.OWN_V4, k.OWN_V6, "127.0.0.1", "::1"):
            tcp((own, 443))
            listener.accept()
        lab.nothing_more()
        for other in (SERVER, SERVER_V6, (redirect_lab.MACHINE[0], 443)):
            tcp(other)
            assert lab.stream().original_dst == other


@with_lab
def test_drain_delivers_what_was_sent_before(lab):
    client = udp()
    for number in range(100):
        client.sendto(b"%d" % number, SERVER)
    found = []
    lab.call(lab.redirector.drain, lab.space)
    flow = lab.flow()
    lab.call(flow.listen, found.append)
    assert [flow.first, *found] == [b"%d" % number for number in range(100)]


@with_lab
def test_a_syn_that_was_dropped_may_be_followed_by_another(lab):
    lab.verdict = Verdict.DROP
    client = socket.socket()
    client.setblocking(False)
    client.bind((k.OWN_V4, 5556))
    client.connect_ex(SERVER)
    lab.syn()
    client.close()
    lab.verdict = Verdict.ACCEPT
    again = socket.socket()
    again.settimeout(WAIT)
    again.bind((k.OWN_V4, 5556))
    again.connect(SERVER)
    lab.stream()


def transfer(lab, server, size=200_000):
    """Have the engine send and receive `size` bytes; return the seconds that it took."""
    data = os.urandom(size)
    began = time.monotonic()
    client = tcp(server, timeout=25)
    stream = lab.stream().socket
    stream.settimeout(25)
    both = [b"", b""]

    def engine():
        stream.sendall(data)
        both[0] = read(stream, size)

    running = threading.Thread(target=engine, daemon=True)
    running.start()
    both[1] = read(client, size)
    client.sendall(data)
    running.join(25)
    assert both == [data, data]
    return time.monotonic() - began


def read(conn, size):
    found = b""
    while len(found) < size and (piece := conn.recv(1 << 16)):
        found += piece
    return found


@with_lab
def test_a_transfer_survives_a_bad_network(lab):
    faults = PacketFaults(seed=7, loss=0.01, duplicate=0.02, reorder=0.02, corrupt=0.005)
    lab.call(lambda: lab.redirector.disturb(lab.space, up=faults, down=faults))
    redirect_lab.signal.alarm(60)
    for server in (SERVER, SERVER_V6):
        transfer(lab, server)


@with_lab
def test_nothing_is_sooner_than_asked(lab):
    """How much later it is depends on the machine: netsim.rs has it in virtual time, benchmarks/ as it is."""

    def connect():
        began = time.monotonic()
        client = tcp(SERVER)
        taken = time.monotonic() - began
        lab.stream().socket.close()
        client.close()
        return taken

    delay = PacketFaults(delay=0.2)
    lab.call(lambda: lab.redirector.disturb(lab.space, up=delay, down=delay))
    assert connect() >= 0.4
    rate = PacketFaults(rate=500_000)
    lab.call(lambda: lab.redirector.disturb(lab.space, up=rate, down=rate))
    assert transfer(lab, SERVER, 250_000) >= 1  # 250 kB each way, one after the other


@with_lab
def test_a_black_hole_swallows_large_packets_only(lab):
    hole = PacketFaults(black_hole=1000)
    lab.call(lambda: lab.redirector.disturb(lab.space, up=hole))
    client = tcp(SERVER, timeout=0.5)
    server = lab.stream().socket
    client.sendall(b"x" * 500)
    assert len(read(server, 500)) == 500
    server.settimeout(0.5)
    client.sendall(b"x" * 5000)
    with pytest.raises(TimeoutError):
        server.recv(1)


@isolated
def test_without_offloads_it_works_as_well():
    tun_device._OFFLOADS = ()
    lab = make()
    try:
        transfer(lab, SERVER)
        transfer(lab, SERVER_V6)
    finally:
        lab.close()


@isolated
def test_a_device_that_may_not_be_opened_is_named():
    tun_device.PATH = "/dev/net/none"
    with pytest.raises(
        EnvironmentProblem, match="cannot open /dev/net/none: No such file"
    ) as caught:
        make()
    assert "modprobe tun" in caught.value.cure
    assert tun_device._CURES[errno.EACCES].startswith("chmod 0666")
