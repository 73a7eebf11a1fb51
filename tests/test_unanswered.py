"""Signs of datagrams and processes that the engine may not have seen, through the real audit hook."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from pytest_netcapture import stacks
from pytest_netcapture.flows import Process, TcpFlow, UdpFlow
from pytest_netcapture.unanswered import _REMEMBERED, signs

NOWHERE = ("127.0.0.1", 9)


@pytest.fixture(autouse=True)
def noting():
    stacks.install()
    yield
    stacks.enable(False)


@pytest.fixture
def sock():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as one:
        yield one


def sent_by(action):
    before = signs.sent
    action()
    return signs.sent - before


def test_a_datagram_leaves_a_sign(sock):
    assert sent_by(lambda: sock.sendto(b"x", NOWHERE)) == 1
    assert sent_by(lambda: sock.sendmsg([b"x"], [], 0, NOWHERE)) == 1


def test_a_stream_leaves_none():
    def connect():
        with socket.socket() as stream:
            stream.connect_ex(("127.0.0.1", 1))

    assert sent_by(connect) == 0


def test_a_connected_socket_is_a_sign_as_long_as_it_lives(sock):
    assert not signs.has_connected()
    others = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
    assert sent_by(lambda: others[0].connect(NOWHERE)) == 1
    assert signs.has_connected()
    others.pop().close()
    assert not signs.has_connected()


def test_a_socket_of_the_c_type_counts_too():
    import _socket

    one = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    assert sent_by(lambda: one.connect(NOWHERE)) == 1
    one.close()


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run(["true"]),
        lambda: os.system("true"),
        lambda: os.waitpid(os.posix_spawnp("true", ["true"], os.environ), 0),
    ],
)
def test_a_started_process_is_a_sign(start):
    before = signs.started
    start()
    assert signs.started > before


def test_what_it_sent_is_claimed_when_nobody_could_be_asked(sock):
    sock.sendto(b"x", NOWHERE)
    mine = UdpFlow(host="localhost", port=9, address=NOWHERE)
    signs.claim([mine, None])
    assert (mine.process.pid, mine.inode) == (os.getpid(), os.fstat(sock.fileno()).st_ino)
    assert mine.process.command


def test_what_others_did_is_not(sock):
    sock.sendto(b"x", NOWHERE)
    known = UdpFlow(address=NOWHERE, process=Process(1, "init"))
    elsewhere = UdpFlow(address=("127.0.0.1", 10))
    stream = TcpFlow(address=NOWHERE)
    signs.claim([known, elsewhere, stream])
    assert [f.process.pid for f in (known, elsewhere, stream)] == [1, 0, 0]


def test_only_the_last_are_remembered(sock):
    for port in range(1000, 1000 + _REMEMBERED + 1):
        sock.sendto(b"x", ("127.0.0.1", port))
    first, last = (UdpFlow(address=("127.0.0.1", p)) for p in (1000, 1000 + _REMEMBERED))
    signs.claim([first, last])
    assert (first.process.pid, last.process.pid) == (0, os.getpid())
