"""Descriptors that are watched: in what order, until when, and what a stale number does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest

from pytest_netcapture.redirect.poller import Poller

Pair = tuple[socket.socket, socket.socket]


class Lab:
    """A loop with a poller, and what was called."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.poller = Poller(self.loop)
        self.called: list[str] = []
        self._sockets: list[socket.socket] = []

    def pair(self) -> Pair:
        first, second = socket.socketpair()
        for sock in (first, second):
            sock.setblocking(False)
            self._sockets.append(sock)
        return first, second

    def until(self, done: Callable[[], bool]) -> None:
        deadline = self.loop.time() + 10
        while not done():
            assert self.loop.time() < deadline, self.called
            self.loop.run_until_complete(asyncio.sleep(0))

    def turn(self) -> None:
        """Let the loop look once at what is ready now."""
        for _ in range(3):
            self.loop.run_until_complete(asyncio.sleep(0))

    def close(self) -> None:
        self.poller.close()
        self.loop.close()
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


def reader(lab: Lab, sock: socket.socket, name: str) -> Callable[[], None]:
    def read() -> None:
        sock.recv(1)
        lab.called.append(name)

    return read


def test_a_reader_is_called_while_there_is_something_to_read(lab: Lab) -> None:
    ours, theirs = lab.pair()
    lab.poller.add_reader(ours.fileno(), reader(lab, ours, "read"))
    theirs.send(b"ab")
    lab.until(lambda: lab.called == ["read", "read"])
    lab.poller.remove_reader(ours.fileno())
    theirs.send(b"c")
    lab.turn()
    assert lab.called == ["read", "read"]


def test_a_gate_is_served_before_what_became_ready_earlier(lab: Lab) -> None:
    pairs = [lab.pair() for _ in range(8)]
    gate, at_gate = lab.pair()
    for ours, theirs in pairs:
        lab.poller.add_reader(ours.fileno(), reader(lab, ours, "other"))
        theirs.send(b"x")
    lab.poller.add_urgent(gate.fileno(), reader(lab, gate, "gate"))
    at_gate.send(b"x")
    lab.until(lambda: len(lab.called) == 9)
    assert lab.called[0] == "gate"


def test_a_gate_is_served_between_two_others(lab: Lab) -> None:
    gate, at_gate = lab.pair()
    lab.poller.add_urgent(gate.fileno(), reader(lab, gate, "gate"))

    def knock(sock: socket.socket) -> None:
        sock.recv(1)
        lab.called.append("other")
        if lab.called == ["other"]:
            at_gate.send(b"x")

    for _ in range(3):
        ours, theirs = lab.pair()
        lab.poller.add_reader(ours.fileno(), knock, ours)
        theirs.send(b"x")
    lab.until(lambda: len(lab.called) == 4)
    assert lab.called == ["other", "gate", "other", "other"]
    lab.poller.remove_urgent(gate.fileno())
    at_gate.send(b"x")
    lab.turn()
    assert lab.called.count("gate") == 1


def test_reader_and_writer_of_one_descriptor_come_and_go_apart(lab: Lab) -> None:
    ours, theirs = lab.pair()
    fd = ours.fileno()
    lab.poller.add_writer(fd, lambda: (lab.called.append("write"), lab.poller.remove_writer(fd)))
    lab.poller.add_reader(fd, reader(lab, ours, "read"))
    lab.until(lambda: lab.called == ["write"])
    theirs.send(b"x")
    lab.until(lambda: lab.called == ["write", "read"])
    lab.poller.remove_reader(fd)
    lab.poller.remove_reader(fd)
    lab.poller.remove_writer(fd)


def test_a_peer_that_is_gone_wakes_a_reader(lab: Lab) -> None:
    ours, theirs = lab.pair()

    def read() -> None:
        assert ours.recv(1) == b""
        lab.poller.remove_reader(ours.fileno())
        lab.called.append("end")

    lab.poller.add_reader(ours.fileno(), read)
    theirs.close()
    lab.until(lambda: lab.called == ["end"])


def test_a_number_that_is_used_again_is_another_descriptor(lab: Lab) -> None:
    ours, _ = lab.pair()
    fd = ours.fileno()
    lab.poller.add_reader(fd, lambda: lab.called.append("old"))
    ours.close()  # without remove_reader: the kernel forgets it, and so must we
    again, theirs = lab.pair()
    assert again.fileno() == fd
    lab.poller.add_reader(fd, reader(lab, again, "new"))
    theirs.send(b"x")
    lab.until(lambda: bool(lab.called))
    assert lab.called == ["new"]
