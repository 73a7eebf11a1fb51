"""What we rely on in the kernel, one fact a test, without any of our code below the harness."""

import errno
import os
import select
import socket
import struct

import nft_bytes as nft
import pytest
from redirect_lab import Skipped, isolated, unshare

pytestmark = pytest.mark.live

LISTENER = {4: ("127.255.255.254", 1), 6: ("100::1", 1)}
FOREIGN = {4: ("8.8.8.8", 443), 6: ("2606:4700::1111", 443)}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
TRANSPARENT = {4: (socket.IPPROTO_IP, 19), 6: (socket.IPPROTO_IPV6, 75)}
ORIGINAL = {4: (socket.IPPROTO_IP, 20), 6: (socket.IPPROTO_IPV6, 74)}
MANGLE, GATE, VERDICT = -150, -170, -160
both = pytest.mark.parametrize("version", [4, 6])


def prepare(chains):
    nft.make_every_address_local()
    try:
        nft.install(chains)
    except OSError as error:
        raise Skipped(f"this kernel lacks an nftables expression: {error}") from error


def transparent(version, kind=socket.SOCK_STREAM):
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w") as file:
        file.write("0")
    conn = socket.socket(FAMILY[version], kind)
    conn.settimeout(5)
    conn.setsockopt(*TRANSPARENT[version], 1)
    return conn


def listener(version):
    conn = transparent(version)
    conn.bind(LISTENER[version])
    conn.listen()
    return conn


def dial(version, address=None):
    conn = socket.socket(FAMILY[version])
    conn.settimeout(5)
    conn.connect(address or FOREIGN[version])
    return conn


@both
@isolated
def test_every_address_is_local(version):
    nft.make_every_address_local()
    with socket.create_server(("::", 443), family=socket.AF_INET6, dualstack_ipv6=True):
        client = dial(version)
        own = {4: "192.0.2.1", 6: "2001:db8::1"}[version]
        assert client.getsockname()[0] == own
        assert client.getpeername()[:2] == FOREIGN[version]
    with pytest.raises(ConnectionRefusedError):
        dial(version)


@both
@isolated
def test_bind_asks_the_table_of_local_addresses_only(version):
    nft.make_every_address_local(table=100)
    with socket.socket(FAMILY[version]) as conn, pytest.raises(OSError) as caught:
        conn.bind((FOREIGN[version][0], 0))
    assert caught.value.errno == errno.EADDRNOTAVAIL
    prepared = {MANGLE: [nft.tproxy(version, *LISTENER[version])]}
    try:
        nft.install(prepared)
    except OSError as error:
        raise Skipped(f"this kernel lacks an nftables expression: {error}") from error
    server = listener(version)
    client = dial(version)
    conn, _ = server.accept()
    assert conn.getsockname()[:2] == FOREIGN[version] == client.getpeername()[:2]


@isolated
def test_addrconfig_sees_both_families():
    nft.make_every_address_local()
    for host in ("1.2.3.4", "2606:4700::1"):
        assert socket.getaddrinfo(host, 80, flags=socket.AI_ADDRCONFIG)


@both
@isolated
def test_getsockname_of_a_tproxied_connection_is_its_original_destination(version):
    prepare(
        {MANGLE: [nft.socket_wildcard(0) + nft.ACCEPT, nft.tproxy(version, *LISTENER[version])]}
    )
    server = listener(version)
    client = dial(version)
    conn, peer = server.accept()
    assert conn.getsockname()[:2] == FOREIGN[version]
    assert peer[:2] == client.getsockname()[:2]


@both
@isolated
def test_tproxy_without_listener_lets_the_packet_go_on(version):
    prepare(
        {
            MANGLE: [
                nft.tproxy(version, *LISTENER[version]),
                nft.l4proto(6) + nft.dport(443) + nft.reject(1),
            ]
        }
    )
    with pytest.raises(ConnectionRefusedError):
        dial(version)


@both
@isolated
def test_accepted_sockets_inherit_mark_and_options(version):
    prepare({MANGLE: [nft.mark(77) + nft.ACCEPT, nft.socket_wildcard(0) + nft.ACCEPT, nft.tproxy(version, *LISTENER[version])]})  # fmt: skip
    server = listener(version)
    server.setsockopt(socket.SOL_SOCKET, 36, 77)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    dial(version)
    conn, _ = server.accept()
    assert conn.getsockopt(socket.SOL_SOCKET, 36) == 77
    assert conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@both
@isolated
def test_a_reset_refuses_a_syn_at_once(version):
    prepare({VERDICT: [nft.l4proto(6) + nft.dport(443) + nft.reject(1)]})
    with pytest.raises(ConnectionRefusedError):
        dial(version)


@both
@isolated
def test_socket_wildcard_tells_wildcard_exact_and_none_apart(version):
    """0 for an exact socket, 1 for a wildcard one; no socket ends the rule."""
    syn = nft.l4proto(6) + nft.dport(443)
    exact = syn + nft.socket_wildcard(0) + nft.ACCEPT
    wildcard = syn + nft.socket_wildcard() + nft.reject(1)
    prepare({MANGLE: [exact, wildcard, syn + nft.DROP]})
    address = {4: "127.0.0.1", 6: "::1"}[version]
    client = socket.socket(FAMILY[version])
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.connect((address, 443))
    with socket.create_server((address, 443), family=FAMILY[version]):
        dial(version, (address, 443))
    server = socket.create_server(("::", 443), family=socket.AF_INET6, dualstack_ipv6=True)
    with server, pytest.raises(ConnectionRefusedError):
        dial(version, (address, 443))


def open_queue(number=7):
    conn = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    general = struct.pack("!BBH", 0, 0, number)
    for kind, data in ((1, struct.pack("!BxH", 1, 0)), (2, struct.pack("!IB", 128, 2))):
        conn.send(nft._message(0x302, 0, general + nft.attr(kind, data)))
        nft.check(conn)
    conn.settimeout(5)
    return conn


def prepare_queue():
    nft.make_every_address_local()
    for queue in (nft.queue, nft.queue_target):
        try:
            nft.install(
                {
                    GATE: [nft.l4proto(6) + nft.dport(443) + queue(7)],
                    VERDICT: [nft.mark(3) + nft.reject(2, 2)],
                }
            )
        except OSError:
            continue
        return
    raise Skipped("this kernel lacks both nft_queue and xt_NFQUEUE")


@isolated
def test_a_queue_without_reader_is_bypassed():
    prepare_queue()
    with pytest.raises(ConnectionRefusedError):
        dial(4)


@both
@isolated
def test_the_mark_of_a_queue_verdict_is_seen_by_the_next_chain(version):
    prepare_queue()
    conn = open_queue()
    client = socket.socket(FAMILY[version])
    client.setblocking(False)
    client.connect_ex(FOREIGN[version])
    data = conn.recv(65536)
    size, kind = struct.unpack_from("=HH", data, 20)
    assert (size, kind) == (11, 1)
    number = data[24:28]
    body = nft.attr(2, struct.pack("!I", 1) + number) + nft.attr(3, struct.pack("!I", 3))
    conn.send(nft._message(0x301, 0, struct.pack("!BBH", 0, 0, 7) + body))
    assert select.select([], [client], [], 5)[1]
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EHOSTUNREACH


@both
@isolated
def test_a_tproxied_datagram_tells_its_original_destination(version):
    prepare({MANGLE: [nft.tproxy(version, *LISTENER[version])]})
    receiver = transparent(version, socket.SOCK_DGRAM)
    receiver.setsockopt(*ORIGINAL[version], 1)
    receiver.bind(LISTENER[version])
    client = socket.socket(FAMILY[version], socket.SOCK_DGRAM)
    client.sendto(b"hello", FOREIGN[version])
    data, [(level, kind, origin)], _, _ = receiver.recvmsg(100, 100)
    assert (data, (level, kind)) == (b"hello", ORIGINAL[version])
    assert struct.unpack_from("!H", origin, 2)[0] == FOREIGN[version][1]
    at = 4 if version == 4 else 8
    size = 4 if version == 4 else 16
    assert socket.inet_ntop(FAMILY[version], origin[at : at + size]) == FOREIGN[version][0]


@both
@isolated
def test_an_established_transparent_udp_socket_wins_over_the_listener(version):
    """Not used: replies go out of a raw socket. It is the other way to do it."""
    prepare({MANGLE: [nft.tproxy(version, *LISTENER[version])]})
    receiver = transparent(version, socket.SOCK_DGRAM)
    receiver.bind(LISTENER[version])
    client = socket.socket(FAMILY[version], socket.SOCK_DGRAM)
    client.connect(FOREIGN[version])
    established = transparent(version, socket.SOCK_DGRAM)
    established.bind(FOREIGN[version])
    established.connect(client.getsockname()[:2])
    client.send(b"hello")
    assert established.recv(100) == b"hello"


@both
@isolated
def test_a_raw_socket_sends_udp_from_any_address_and_hears_nothing(version):
    nft.make_every_address_local()
    raw = socket.socket(FAMILY[version], socket.SOCK_RAW, socket.IPPROTO_UDP)
    raw.setsockopt(*TRANSPARENT[version], 1)
    if version == 6:
        raw.setsockopt(socket.IPPROTO_IPV6, 7, 6)  # the kernel fills the checksum in
    raw.bind((LISTENER[version][0], 0))
    client = socket.socket(FAMILY[version], socket.SOCK_DGRAM)
    client.settimeout(5)
    client.connect(FOREIGN[version])
    with socket.socket(FAMILY[version], socket.SOCK_DGRAM) as other:
        other.sendto(b"unheard", FOREIGN[version])
    header = struct.pack("!HHHH", 443, client.getsockname()[1], 8 + 5, 0)
    packed = socket.inet_pton(FAMILY[version], FOREIGN[version][0])
    control = (
        (socket.IPPROTO_IP, 8, struct.pack("=i4s4x", 0, packed))
        if version == 4
        else (socket.IPPROTO_IPV6, 50, packed + bytes(4))
    )
    raw.sendmsg([header + b"hello"], [control], 0, (client.getsockname()[0], 0))
    assert client.recv(100) == b"hello"
    raw.setblocking(False)
    with pytest.raises(BlockingIOError):
        raw.recv(100)


@isolated
def test_counters_stay_those_of_the_namespace_in_which_they_were_opened():
    nft.make_every_address_local()
    file = os.open("/proc/thread-self/net/sockstat", os.O_RDONLY)
    server = socket.create_server(("127.0.0.1", 0))
    unshare(0x40000000)
    assert b"TCP: inuse 1 " in os.pread(file, 4096, 0)
    server.close()
    assert b"TCP: inuse 0 " in os.pread(file, 4096, 0)


@isolated
def test_netlink_has_answered_when_send_returns():
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as conn:
        route = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 4, 0, 1, 0)
        conn.send(nft._message(24, 0x400, route + nft.attr(4, struct.pack("=I", 99))))
        with pytest.raises(OSError):
            nft.check(conn)
