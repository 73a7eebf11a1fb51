"""UDP under the filter: what is sent reaches the engine, what comes back is from the server."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys

import pytest
from seccomp_lab import HOME, OUTSIDE, WAIT, Lab

from pytest_netcapture.redirect import seccomp_datagrams

pytestmark = pytest.mark.live

OUTSIDE_V6 = ("2001:db8:1::7", 53)
RESOLVER = ("192.0.2.53", 53)


@pytest.fixture(params=["duplicated", "made", "replaced"])
def lab(request):
    made = Lab(
        duplicates=request.param == "duplicated",
        makes_sockets=request.param == "made",
        name_servers=(RESOLVER[0],),
    )
    yield made
    made.close()


def echo(lab, prefix=b"re: "):
    """Answer the first datagram of the next flow; return the flow."""
    flow = lab.flow()
    lab.call(flow.reply, prefix + flow.first)
    return flow


def udp(family=socket.AF_INET):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(WAIT)
    return sock


@pytest.mark.parametrize("connected", [True, False])
def test_a_question_and_its_answer(lab, connected):
    def function():
        with udp() as sock:
            if connected:
                sock.connect(OUTSIDE)
                sock.send(b"one")
            else:
                assert sock.sendto(b"one", OUTSIDE) == 3
            return sock.recvfrom(100)

    program = lab.start(function)
    flow = echo(lab)
    assert program.result() == (b"re: one", OUTSIDE)
    assert (flow.original_dst, flow.first, flow.namespace) == (OUTSIDE, b"one", HOME)
    owner = lab.redirectors[0].owner(socket.IPPROTO_UDP, flow.client)
    assert owner[1] == program.pid


@pytest.mark.parametrize("address", [OUTSIDE_V6, ("::ffff:198.51.100.7", 53)])
def test_an_ipv6_socket(lab, address):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no ::1")

    def function():
        with udp(socket.AF_INET6) as sock:
            sock.sendto(b"one", address)
            return sock.recvfrom(100)

    program = lab.start(function)
    echo(lab)
    answer, peer = program.result()
    assert (answer, peer[:2]) == (b"re: one", address)


def test_names_of_a_connected_socket(lab):
    def function():
        with udp() as sock:
            sock.connect(OUTSIDE)
            before = sock.getpeername()
            sock.connect(RESOLVER)
            return before, sock.getpeername()

    assert lab.run(function) == (OUTSIDE, RESOLVER)


def test_plain_receiving_is_the_kernels(lab):
    def function():
        with udp() as sock:
            sock.connect(OUTSIDE)
            sock.send(b"one")
            return os.read(sock.fileno(), 100) if sock.settimeout(None) is None else None

    program = lab.start(function)
    echo(lab)
    assert program.result() == b"re: one"


def test_one_socket_many_servers(lab):
    servers = [(f"198.51.100.{n}", 1000 + n) for n in range(1, 6)]

    def function():
        with udp() as sock:
            for server in servers:
                sock.sendto(str(server[1]).encode(), server)
            return sorted(sock.recvfrom(100) for _ in servers)

    program = lab.start(function)
    for _ in servers:
        echo(lab, b"")
    assert program.result() == sorted((str(s[1]).encode(), s) for s in servers)


def test_the_next_datagrams_belong_to_the_flow(lab):
    def function():
        with udp() as sock:
            for n in range(3):
                sock.sendto(b"%d" % n, OUTSIDE)
                sock.recvfrom(10)
        return True

    program = lab.start(function)
    flow = lab.flow()
    seen = [flow.first]

    def more(data):
        seen.append(data)
        flow.reply(data)

    lab.call(flow.listen, more)
    lab.call(flow.reply, b"0")
    assert program.result()
    assert seen == [b"0", b"1", b"2"]
    lab.nothing_more()


def test_sendmsg_and_recvmsg(lab):
    def function():
        with udp() as sock:
            sock.sendmsg([b"o", b"", b"ne"], [], 0, OUTSIDE)
            buffers = [bytearray(4), bytearray(100)]
            size, control, flags, peer = sock.recvmsg_into(buffers, 100)
            return bytes(buffers[0]), bytes(buffers[1][: size - 4]), control, flags, peer

    program = lab.start(function)
    echo(lab)
    assert program.result() == (b"re: ", b"one", [], 0, OUTSIDE)


def test_control_messages_arrive(lab):
    def function():
        with udp() as sock:
            sock.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
            sock.sendto(b"one", OUTSIDE)
            _, control, _, peer = sock.recvmsg(100, 100)
            return [(level, kind, len(data)) for level, kind, data in control], peer

    if not (lab.duplicates or lab.makes_sockets):
        pytest.skip("not in CI: options set before are lost, docs/redirectors.md")
    program = lab.start(function)
    echo(lab)
    assert program.result() == ([(socket.IPPROTO_IP, 8, 12)], OUTSIDE)


_LIBC = ctypes.CDLL(None, use_errno=True)


def _mmsghdr(name, payloads):
    """Build an array of struct mmsghdr; return it and what it points to."""
    kept, data = [], b""
    name_buffer = ctypes.create_string_buffer(name, max(len(name), 1))
    for payload in payloads:
        buffer = ctypes.create_string_buffer(payload, len(payload))
        piece = ctypes.create_string_buffer(
            struct.pack("<QQ", ctypes.addressof(buffer), len(payload)), 16
        )
        kept += [buffer, piece]
        at = ctypes.addressof(name_buffer) if name else 0
        data += struct.pack(
            "<QI4xQQQQi4xI4x", at, len(name), ctypes.addressof(piece), 1, 0, 0, 0, 0
        )
    array = ctypes.create_string_buffer(data, len(data))
    return array, (kept, name_buffer)


def test_sendmmsg_and_recvmmsg(lab):
    def function():
        name = struct.pack(
            "=H2s4s8x", socket.AF_INET, (8080).to_bytes(2, "big"), b"\xc6\x33\x64\x07"
        )
        with udp() as sock:
            sock.setblocking(True)
            messages, _kept = _mmsghdr(name, [b"one", b"three"])
            sent = _LIBC.sendmmsg(sock.fileno(), messages, 2, 0)
            lengths = [struct.unpack_from("<I", messages.raw, at + 56)[0] for at in (0, 64)]
            room, kept_too = _mmsghdr(bytes(16), [bytes(20)])
            got = _LIBC.recvmmsg(sock.fileno(), room, 1, 0, None)
            length = struct.unpack_from("<I", room.raw, 56)[0]
            return sent, lengths, got, kept_too[0][0].raw[:length], kept_too[1].raw

    program = lab.start(function)
    flow = echo(lab)
    sent, lengths, got, data, name = program.result()
    assert (sent, lengths) == (2, [3, 5])
    assert (got, data) == (1, b"re: one")
    assert name == struct.pack("=H2s4s8x", 2, b"\x1f\x90", b"\xc6\x33\x64\x07")
    assert flow.first == b"one"


def test_a_card_that_cannot_segment(lab):
    """QUIC libraries then send datagrams one by one."""

    def function():
        with udp() as sock, pytest.raises(OSError) as failed:
            segment = [(17, 103, struct.pack("=H", 100))]
            sock.sendmsg([bytes(300)], segment, 0, OUTSIDE)
        return failed.value.errno

    assert lab.run(function) == errno.EIO


def test_nothing_to_receive(lab):
    def function():
        with udp() as sock:
            sock.sendto(b"one", OUTSIDE)
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recvfrom(10)
            sock.setblocking(True)
            with pytest.raises(BlockingIOError):
                sock.recvfrom(10, socket.MSG_DONTWAIT)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 50_000))
            with pytest.raises(BlockingIOError):
                sock.recvfrom(10)
            return True

    assert lab.run(function)


def test_a_blocking_receive_waits_and_a_signal_ends_it(lab):
    class Rang(Exception):
        pass

    def ring(*_):
        raise Rang

    def function():
        signal.signal(signal.SIGUSR1, ring)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"one", OUTSIDE)
            with pytest.raises(Rang):
                sock.recvfrom(100)
            os.write(rang, b"x")
            return sock.recvfrom(100)

    reader, rang = os.pipe()
    program = lab.start(function)
    flow = lab.flow()
    while not _waits(lab):
        pass
    os.kill(program.pid, signal.SIGUSR1)
    os.read(reader, 1)
    lab.call(flow.reply, b"late")
    assert program.result() == (b"late", OUTSIDE)


def _waits(lab):
    return lab.call(lambda: bool(lab.redirectors[0]._calls._receiving._waiting))


def test_peeking_takes_nothing(lab):
    def function():
        with udp() as sock:
            sock.sendto(b"one", OUTSIDE)
            return sock.recvfrom(100, socket.MSG_PEEK), sock.recvfrom(100)

    program = lab.start(function)
    echo(lab)
    first, second = program.result()
    assert first == second == (b"re: one", OUTSIDE)


def test_a_small_buffer_cuts(lab):
    def function():
        with udp() as sock:
            sock.sendto(b"one", OUTSIDE)
            return sock.recvfrom(4)

    program = lab.start(function)
    echo(lab)
    assert program.result() == (b"re: ", OUTSIDE)


def test_a_large_datagram(lab):
    data = os.urandom(60_000)

    def function():
        with udp() as sock:
            sock.sendto(data, OUTSIDE)
            return sock.recvfrom(65_535)

    program = lab.start(function)
    echo(lab, b"")
    assert program.result() == (data, OUTSIDE)


def test_too_large_a_datagram(lab):
    def function():
        with udp() as sock, pytest.raises(OSError) as failed:
            sock.sendto(bytes(70_000), OUTSIDE)
        return failed.value.errno

    assert lab.run(function) == errno.EMSGSIZE


def test_a_refusal_reaches_a_connected_socket():
    lab = Lab()

    def function():
        with udp() as sock:
            sock.connect(OUTSIDE)
            sock.send(b"one")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(10)
            while True:  # at once, it may be refused once more
                with contextlib.suppress(ConnectionRefusedError):
                    sock.send(b"two")
                    return sock.recv(100)

    program = lab.start(function)
    lab.call(lab.flow().refuse)
    echo(lab)
    assert program.result() == b"re: two"
    lab.close()


def test_loopback_is_left_alone(lab):
    def function():
        with udp() as server, udp() as client:
            server.bind(("127.0.0.1", 0))
            client.sendto(b"one", server.getsockname())
            data, peer = server.recvfrom(10)
            server.sendto(b"two", peer)
            return data, client.recvfrom(10) == (b"two", server.getsockname())

    assert lab.run(function) == (b"one", True)
    lab.nothing_more()


@pytest.mark.parametrize("port", [0, 65535])
def test_libc_may_ask_for_a_route(lab, port):
    def function():
        with udp() as sock:
            sock.connect(("127.0.0.1", port))
            return sock.getsockname()[0]

    assert lab.run(function) == "127.0.0.1"


def test_what_has_no_route_is_refused(lab):
    """As without capture: libc sorts addresses by it."""

    def function():
        with udp() as sock, pytest.raises(OSError) as failed:
            sock.connect(("240.0.0.1", 443))
        return failed.value.errno

    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        number = sock.connect_ex(("240.0.0.1", 443))
    if not number:
        pytest.skip("not in CI: this machine has a route to everything")
    assert lab.run(function) == number


@pytest.mark.parametrize("host", ["239.255.255.250", "255.255.255.255"])
def test_what_is_for_many_stays_here(lab, host):
    def function():
        with udp() as sock, pytest.raises(OSError) as failed:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.sendto(b"x", (host, 1900))
        return failed.value.errno

    assert lab.run(function) == errno.ENETUNREACH


def test_a_closed_socket_is_noticed(lab, monkeypatch):
    monkeypatch.setattr(seccomp_datagrams, "_SWEEP", 0.02)

    def function():
        with udp() as sock:
            sock.sendto(b"one", OUTSIDE)
            sock.recvfrom(10)
        os.write(closed, b"x")
        os.read(reader, 1)
        return True

    told, closed = os.pipe()
    reader, writer = os.pipe()
    program = lab.start(function)
    echo(lab)
    os.read(told, 1)
    datagrams = lab.redirectors[0]._calls._datagrams
    if lab.duplicates:
        while not lab.call(lambda: datagrams.idle):
            pass
    os.write(writer, b"x")
    assert program.result()


def test_libc_looks_names_up(lab):
    """glibc sends two questions with one sendmmsg, and compares whom an answer is from."""

    def function():
        code = "import socket; print(socket.getaddrinfo('there.example', 80, socket.AF_INET, socket.SOCK_STREAM)[0][4])"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout

    lookup(lab, function, "('203.0.113.5', 80)\n")


def lookup(lab, function, wanted):
    import dns.message
    import dns.rrset

    def answer(flow, data):
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        name = query.question[0].name
        if query.question[0].rdtype == 1:
            response.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "203.0.113.5"))
        flow.reply(response.to_wire())

    def serve(flow):
        flow.listen(lambda data: answer(flow, data))
        answer(flow, flow.first)

    lab.datagram_flow = serve
    assert lab.run(function) == wanted


@pytest.fixture
def resolver_lab():
    """One that knows the machine's own name servers."""
    with open("/etc/resolv.conf") as file:
        words = [line.split() for line in file]
    servers = tuple(w[1] for w in words if w[:1] == ["nameserver"])
    made = Lab(name_servers=servers)
    yield made
    made.close()


def test_libc_with_its_own_name_server(resolver_lab):
    test_libc_looks_names_up(resolver_lab)


@pytest.mark.skipif(not shutil.which("musl-gcc"), reason="not in CI: musl-gcc is not here")
def test_a_static_musl_program_looks_names_up(resolver_lab, tmp_path):
    """musl asks with sendto and compares with what recvmsg says."""
    source = tmp_path / "lookup.c"
    source.write_text(_LOOKUP)
    program = str(tmp_path / "lookup")
    subprocess.run(["musl-gcc", "-static", "-o", program, str(source)], check=True)

    def function():
        return subprocess.run([program, "there.example"], capture_output=True, text=True).stdout

    lookup(resolver_lab, function, "203.0.113.5")


_LOOKUP = """
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    char text[64];
    if (getaddrinfo(argv[1], "80", &hints, &found)) return 1;
    inet_ntop(AF_INET, &((struct sockaddr_in *)found->ai_addr)->sin_addr, text, sizeof text);
    printf("%s", text);
}
"""


def test_dnspython(lab):
    def function():
        import dns.message
        import dns.query

        query = dns.message.make_query("there.example", "A")
        return dns.query.udp(query, RESOLVER[0], timeout=WAIT).answer[0][0].to_text()

    lookup(lab, function, "203.0.113.5")


def test_asyncio(lab):
    """Registers its socket with epoll before it sends."""
    if not (lab.duplicates or lab.makes_sockets):
        pytest.skip("not in CI: a replaced socket is in no epoll set, docs/redirectors.md")

    def function():
        async def main():
            loop = asyncio.get_running_loop()
            came = loop.create_future()

            class Protocol(asyncio.DatagramProtocol):
                def datagram_received(self, data, addr):
                    came.set_result((data, addr))

            transport, _ = await loop.create_datagram_endpoint(Protocol, local_addr=("0.0.0.0", 0))
            transport.sendto(b"one", OUTSIDE)
            return await asyncio.wait_for(came, WAIT)

        return asyncio.run(main())

    program = lab.start(function)
    echo(lab)
    assert program.result() == (b"re: one", OUTSIDE)


def test_polling(lab):
    def function():
        with udp() as sock:
            sock.sendto(b"one", OUTSIDE)
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            return [event for _, event in poll.poll(WAIT * 1000)], sock.recvfrom(100)[1]

    program = lab.start(function)
    echo(lab)
    assert program.result() == ([select.POLLIN], OUTSIDE)


def test_ports_are_free_when_their_programs_have_closed_them():
    """Though the engine makes the sockets, and keeps duplicates."""
    lab = Lab(duplicates=False, makes_sockets=True)

    def function():
        tried = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(type=kind) as sock:
                sock.bind(("127.0.0.1", 0))
                port = sock.getsockname()[1]
            for _ in range(2):
                with socket.socket(type=kind) as sock:
                    sock.bind(("127.0.0.1", port))
                    tried.append(port)
        return len(tried)

    assert lab.run(function) == 4
    lab.close()


def test_more_sockets_than_are_kept():
    lab = Lab(duplicates=False, makes_sockets=True)

    def function():
        kept = [socket.socket() for _ in range(600)]
        kept[0].connect(OUTSIDE)
        return kept[0].getpeername(), kept[599].connect_ex(OUTSIDE)

    program = lab.start(function)
    assert lab.stream().original_dst == lab.stream().original_dst == OUTSIDE
    assert program.result() == (OUTSIDE, 0)
    lab.close()
