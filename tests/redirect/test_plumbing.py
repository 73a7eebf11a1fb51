"""What a program finds when it looks around in a namespace: interfaces, addresses, ways out."""

import errno
import fcntl
import shutil
import socket
import struct
import subprocess
import time

import pytest
import redirect_lab
from redirect_lab import MACHINE, WAIT, isolated, tcp, udp

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect import plumbing
from pytest_netcapture.sandbox import resolver

pytestmark = pytest.mark.live
V4, V6 = socket.AF_INET, socket.AF_INET6
OURS = [k.OWN_V4, k.OWN_V6, *MACHINE, "127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "::"]
FOREIGN = [
    "8.8.8.8",
    "192.0.2.1",
    "192.0.2.255",
    "2001:db8::1",
    "192.0.0.77",
    "2606:4700::1111",
    "2001:db8::77",
]
SIOCGIFFLAGS, SIOCGIFMTU = 0x8913, 0x8921
IP_RECVERR, IPV6_RECVERR = 11, 25
IFF_UP, IFF_LOOPBACK, IFF_RUNNING, SO_BINDTODEVICE = 0x1, 0x8, 0x40, 25


def family_of(address):
    return V6 if ":" in address else V4


def asked(interface, what, form):
    """Ask as psutil does (netdevice(7))."""
    with udp() as conn:
        told = fcntl.ioctl(conn, what, struct.pack("16s16x", interface.encode()))
    return struct.unpack_from(form, told, 16)[0]


def needs_link(lab):
    if "eth0" not in names():
        raise redirect_lab.Skipped("this kernel has neither dummy nor ifb interfaces")


def names():
    return {name for _, name in socket.if_nameindex()}


@isolated
def test_there_is_an_interface_that_is_up_and_not_loopback(lab):
    needs_link(lab)
    assert names() == {"lo", "eth0"}
    flags = asked("eth0", SIOCGIFFLAGS, "H")
    assert flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING
    assert not flags & IFF_LOOPBACK
    assert asked("eth0", SIOCGIFMTU, "i") == 1500


@pytest.mark.parametrize("address", OURS)
@isolated
def test_an_own_address_can_be_bound(lab, address):
    for port in (80, 0):
        with socket.socket(family_of(address)) as conn:
            conn.bind((address, port))
            assert bool(conn.getsockname()[1])


@pytest.mark.parametrize("address", FOREIGN)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@isolated
def test_any_other_cannot(lab, address, kind):
    with socket.socket(family_of(address), kind) as conn, pytest.raises(OSError) as caught:
        conn.bind((address, 0))
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("address", [*FOREIGN, *MACHINE])
@isolated
def test_all_are_captured(lab, address):
    client = tcp((address, 443))
    own = {V4: {k.OWN_V4, MACHINE[0]}, V6: {k.OWN_V6, MACHINE[1]}}[family_of(address)]
    assert client.getsockname()[0] in own
    assert lab.stream().original_dst == (address, 443)


def echo(address):
    family = family_of(address)
    protocol = socket.IPPROTO_ICMPV6 if family == V6 else socket.IPPROTO_ICMP
    conn = socket.socket(family, socket.SOCK_DGRAM, protocol)
    conn.settimeout(WAIT)
    level = socket.IPPROTO_IPV6 if family == V6 else socket.IPPROTO_IP
    conn.setsockopt(level, IPV6_RECVERR if family == V6 else IP_RECVERR, 1)  # as ping does
    conn.connect((address, 0))
    conn.send(struct.pack("!BBHHH", 128 if family == V6 else 8, 0, 0, 1, 1))
    return conn.recv(100)[0]


@pytest.mark.parametrize("address", [k.OWN_V4, k.OWN_V6, *MACHINE, "127.0.0.1", "::1"])
@isolated
def test_own_addresses_answer_pings(lab, address):
    assert echo(address) in {0, 129}


@pytest.mark.parametrize("address", FOREIGN)
@isolated
def test_others_are_refused_at_once(lab, address):
    begun = time.monotonic()
    with pytest.raises(OSError) as caught:
        echo(address)
    assert caught.value.errno in {errno.EPERM, errno.EHOSTUNREACH, errno.ENETUNREACH}
    assert time.monotonic() - begun < WAIT / 2
    lab.nothing_more()


@pytest.mark.parametrize("address", FOREIGN)
@isolated
def test_ping_says_unreachable(lab, address):
    if shutil.which("ping") is None:
        raise redirect_lab.Skipped("ping is not installed")
    needs_link(lab)
    told = subprocess.run(["ping", "-c", "1", "-W", "60", address], capture_output=True, text=True)
    assert told.returncode == 1
    assert "nreachable" in told.stdout
    assert subprocess.run(["ping", "-c", "1", MACHINE[0]], capture_output=True).returncode == 0


@pytest.mark.parametrize("address", FOREIGN)
@isolated
def test_a_socket_bound_to_the_interface_is_refused_at_once(lab, address):
    needs_link(lab)
    with socket.socket(family_of(address)) as conn:
        conn.settimeout(WAIT)
        conn.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0")
        with pytest.raises(ConnectionRefusedError):
            conn.connect((address, 443))
    with udp(family_of(address)) as conn:
        conn.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0")
        with pytest.raises(OSError):
            conn.sendto(b"x", (address, 443))
            conn.recv(1)
    with socket.socket() as conn, pytest.raises(OSError) as caught:
        conn.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"wlan0")
    assert caught.value.errno == errno.ENODEV
    lab.nothing_more()


@pytest.mark.parametrize("group", ["224.0.0.251", "239.1.2.3", "255.255.255.255", "ff02::fb"])
@isolated
def test_multicast_is_heard_inside(lab, group):
    family = family_of(group)
    member, sender = udp(family), udp(family)
    member.bind(("", 5353))
    if family == V6:
        joined = socket.inet_pton(V6, group) + struct.pack("i", 0)
        member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joined)
    elif group == "255.255.255.255":
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    else:
        joined = socket.inet_aton(group) + bytes(4)
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
    sender.sendto(b"anybody?", (group, 5353))
    assert member.recv(100) == b"anybody?"
    lab.nothing_more()


@isolated
def test_there_is_a_way_out_to_look_at(lab):
    needs_link(lab)
    with open("/proc/self/net/route") as file:
        routes = [line.split() for line in file][1:]
    gateway = socket.inet_aton(k.GATEWAY_V4)[::-1].hex().upper()
    assert ["eth0", "00000000", gateway] in [route[:3] for route in routes]


@isolated
def test_without_an_interface_all_but_that_holds():
    plumbing.LINKS = ("no-such-kind",)
    lab = redirect_lab.Lab()
    assert names() == {"lo"}
    for host in ("1.2.3.4", "2606:4700::1"):
        assert socket.getaddrinfo(host, 80, flags=socket.AI_ADDRCONFIG)
    for address in FOREIGN:
        with socket.socket(family_of(address)) as conn, pytest.raises(OSError):
            conn.bind((address, 0))
        with pytest.raises(OSError) as caught:
            echo(address)
        assert caught.value.errno in {errno.EPERM, errno.EHOSTUNREACH, errno.ENETUNREACH}
        tcp((address, 443))
        assert lab.stream().original_dst == (address, 443)
    assert echo(MACHINE[0]) == 0
    lab.close()


def test_the_name_server_is_the_one_that_resolv_conf_names():
    assert resolver.NAMESERVER == k.RESOLVER_V4


@isolated
def test_an_address_that_is_there_already_is_no_error():
    redirect_lab.unshare(k.CLONE_NEWNET)
    assert plumbing.lay((k.OWN_V4, "127.0.0.1", "::1", k.OWN_V6)).ipv6
    with socket.create_server((k.OWN_V6, 0), family=V6):
        pass


@isolated
def test_without_the_privilege_it_says_what_it_could_not_do():
    redirect_lab.unshare(k.CLONE_NEWNET)
    redirect_lab.keep_capabilities()
    with pytest.raises(EnvironmentProblem, match=r"cannot bring lo up .*EPERM") as caught:
        plumbing.lay()
    assert "CAP_NET_ADMIN" in caught.value.cure
