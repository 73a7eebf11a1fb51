"""What the seccomp redirector relies on in the kernel, without our code."""

from __future__ import annotations

import errno
import os
import select
import socket

import pytest

pytestmark = pytest.mark.live
TIMEOUT_MS = 5000
SYN_SENT, ESTABLISHED = 2, 1


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6])
def family(request):
    host = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}[request.param]
    with socket.socket(request.param) as sock:
        try:
            sock.bind((host, 0))
        except OSError:
            pytest.skip("this machine has no ::1")
    return request.param, host


def reusable(family):
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setblocking(False)
    return sock


def full_listener(family, host):
    """A listener whose only place is taken, and who has taken it."""
    listener = reusable(family)
    listener.bind((host, 0))
    listener.listen(0)
    guest = reusable(family)
    guest.connect_ex(listener.getsockname())
    return listener, guest


def state(sock):
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def polled(sock, events, timeout=TIMEOUT_MS):
    poll = select.poll()
    poll.register(sock, events)
    return [event for _, event in poll.poll(timeout)]


def test_who_connects_to_a_full_listener_stays_under_way(family):
    listener, guest = full_listener(*family)
    with listener, guest, reusable(family[0]) as client:
        assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        assert state(client) == SYN_SENT
        assert polled(client, select.POLLOUT, 0) == []
        assert client.connect_ex(listener.getsockname()) == errno.EALREADY


def test_a_socket_with_the_listeners_address_completes_the_connection(family):
    """By a simultaneous open (RFC 9293 §3.5), and at once."""
    listener, guest = full_listener(*family)
    with listener, guest, reusable(family[0]) as client, reusable(family[0]) as other:
        client.connect_ex(listener.getsockname())
        other.bind(listener.getsockname()[:2])
        assert other.connect_ex(client.getsockname()) in {0, errno.EINPROGRESS}
        assert polled(client, select.POLLOUT) == [select.POLLOUT]
        assert polled(other, select.POLLOUT) == [select.POLLOUT]
        assert state(client) == state(other) == ESTABLISHED
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        client.send(b"there")
        assert polled(other, select.POLLIN)
        assert other.recv(9) == b"there"


def test_when_the_listener_goes_the_connection_is_refused(family):
    listener, guest = full_listener(*family)
    with reusable(family[0]) as client:
        client.connect_ex(listener.getsockname())
        listener.close()
        guest.close()
        assert polled(client, select.POLLOUT)
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.parametrize(
    ("family", "kind", "name"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, b"TCP"),
        (socket.AF_INET6, socket.SOCK_STREAM, b"TCPv6"),
        (socket.AF_INET, socket.SOCK_DGRAM, b"UDP"),
        (socket.AF_INET6, socket.SOCK_DGRAM, b"UDPv6"),
        (socket.AF_UNIX, socket.SOCK_STREAM, b"UNIX-STREAM"),
    ],
)
def test_a_socket_tells_its_protocol(family, kind, name):
    with socket.socket(family, kind) as sock:
        path = f"/proc/self/fd/{sock.fileno()}"
        assert os.getxattr(path, "system.sockprotoname").rstrip(b"\0") == name


def test_a_datagram_to_who_is_connected_elsewhere_is_refused():
    with (
        socket.socket(type=socket.SOCK_DGRAM) as ours,
        socket.socket(type=socket.SOCK_DGRAM) as theirs,
    ):
        ours.bind(("127.0.0.1", 0))
        theirs.connect(ours.getsockname())
        ours.connect(ours.getsockname())
        theirs.send(b"")
        with pytest.raises(ConnectionRefusedError):
            theirs.recv(1)
