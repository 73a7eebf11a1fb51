"""UDP through a real engine: recorded against a server, played without one."""

import contextlib
import os
import socket
import struct
import threading

import pytest
from engine_lab import in_sandbox, settings

NAME = "udp.example.com"
PORT = 123


class DatagramServer:
    """Answers each datagram with what `answers` returns: a list of datagrams."""

    def __init__(self, answers):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.at = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.heard = []
        self._answers = answers
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self):
        self.socket.sendto(b"", self.socket.getsockname())
        self._thread.join()
        self.socket.close()

    def _serve(self):
        while True:
            data, peer = self.socket.recvfrom(1 << 16)
            if data == b"" and peer[1] == self.socket.getsockname()[1]:
                return
            self.heard.append(data)
            for answer in self._answers(data):
                self.socket.sendto(answer, peer)


@contextlib.contextmanager
def serving(answers):
    server = DatagramServer(answers)
    try:
        yield server
    finally:
        server.close()


def record(function, server, path, mode="once"):
    wanted = settings(mappings=[f"{NAME}={server.at}"], cassette=path, mode=mode)
    return in_sandbox(function, wanted)


def play(function, path, mode="none"):
    return in_sandbox(function, settings(cassette=path, mode=mode))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.cassette"


def client():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(20)
    sock.connect((socket.gethostbyname(NAME), PORT))
    return sock


def exchange(*datagrams, answers=1):
    with client() as sock:
        out = []
        for data in datagrams:
            sock.send(data)
            out += [sock.recv(1 << 16) for _ in range(answers)]
        return out


def binary(data):
    """A made-up protocol: a kind, a number, and that many bytes; two datagrams in return."""
    kind, size = struct.unpack_from("!BH", data)
    return [struct.pack("!BH", kind | 0x80, size), data[3:][::-1]]


def test_datagrams_are_played_with_their_borders(path):
    asked = [
        struct.pack("!BH", 7, n) + bytes(range(1, 251))[:n] * -(-n // 250) for n in (0, 3, 1250)
    ]

    def talk(sandbox):
        found = exchange(*asked, answers=2)
        (flow,) = sandbox.flows("udp")
        said = [(m.sent, m.data) for m in flow.messages]
        return found, said, flow.datagrams_sent, flow.received, sandbox.problems()

    with serving(binary) as server:
        recorded = record(talk, server, path)
    assert [m for m in recorded[1] if m[0]] == [(True, data) for data in asked]
    assert recorded[0] == [answer for data in asked for answer in binary(data)]
    assert recorded[2:] == (3, 9 + 1253, [])
    assert play(talk, path) == recorded


def test_one_byte_changed_fails_at_that_byte(path):
    with serving(binary) as server:
        record(lambda _: exchange(b"\x01\x00\x05hello", answers=2), server, path)

    def changed(sandbox):
        with client() as sock:
            sock.send(b"\x01\x00\x05heLlo")
            ((flow),) = sandbox.flows("udp")
            (problem,) = sandbox.problems()
        return problem.reason, [(d.field, d.recorded, d.actual) for d in problem.differences], flow

    reason, differences, flow = play(changed, path)
    assert reason == "datagram 1 of the client is another from byte 5 on"
    assert differences == [
        ("hex from byte 0", "01 00 05 68 65 6c 6c 6f", "01 00 05 68 65 4c 6c 6f"),
        ("the same as text", "...hello", "...heLlo"),
    ]
    assert flow.origin.value == "unmatched"


def stamped(stamp):
    """A request as NTP's: 40 bytes that are the same, the client's time stamp at the end."""
    return (
        b"\x23"
        + bytes(39)
        + struct.pack("!II", 3_900_000_000 + stamp, stamp * 7_919_000 % (1 << 32))
    )


def clock(data):
    """Answer as NTP does: with the client's time stamp as the originate one."""
    return [b"\x24\x02" + bytes(22) + data[40:48] + bytes(16)]


def test_a_time_stamp_is_learned_and_said_again(path):
    def ask(stamp):
        def talk(sandbox):
            (answer,) = exchange(stamped(stamp))
            return answer[24:32] == stamped(stamp)[40:48], sandbox.problems()

        return talk

    with serving(clock) as server:
        assert record(ask(5), server, path) == (True, [])
        assert record(ask(70_000), server, path, mode="all") == (True, [])
    assert play(ask(123_456), path) == (True, [])
    text = (path.parent / "a.cassette.txt").read_text()
    assert "not compared: bytes 40-48 of what the client says" in text


def test_flows_are_told_apart_by_what_they_say(path):
    def three(order):
        def talk(sandbox):
            socks = {n: client() for n in order}
            for number, sock in socks.items():
                sock.send(b"%d" % number)
            out = {n: sock.recv(100) for n, sock in sorted(socks.items())}
            return out, sandbox.problems()

        return talk

    with serving(lambda data: [b"re: " + data]) as server:
        recorded = record(three([1, 2, 3]), server, path)
    assert play(three([3, 1, 2]), path) == recorded


def test_one_that_comes_again_is_answered_again(path):
    with serving(lambda data: [b"re: " + data]) as server:
        record(lambda _: exchange(b"one", b"two"), server, path)
    found = play(lambda s: (exchange(b"one", b"one", b"two", b"one"), s.problems()), path)
    assert found == ([b"re: one", b"re: one", b"re: two", b"re: one"], [])


def test_one_more_is_new(path):
    with serving(lambda data: [b"re: " + data]) as server:
        record(lambda _: exchange(b"one"), server, path)

    def more(sandbox):
        with client() as sock:
            sock.send(b"one")
            sock.recv(10)
            sock.send(b"two")
            return [p.reason for p in sandbox.problems()]

    reasons = play(more, path)
    assert reasons == ["datagram 2 of the client is new: when recorded, it sent no more"]


def test_what_nobody_answers_is_played_as_such(path):
    def fire(sandbox):
        with client() as sock:
            for number in range(3):
                sock.send(b"counter:%d|c" % number)
            (flow,) = sandbox.flows("udp")
        return flow.sent_bytes, flow.origin.value, sandbox.problems()

    with serving(lambda _: []) as server:
        assert record(fire, server, path)[1:] == ("live", [])
    assert play(fire, path) == (b"counter:0|ccounter:1|ccounter:2|c", "played", [])


def test_a_refusal_is_played(path):
    def refused(sandbox):
        with client() as sock:
            sock.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(10)
        return sandbox.problems()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{closed.getsockname()[1]}"
    wanted = settings(mappings=[f"{NAME}={at}"], cassette=path)
    assert in_sandbox(refused, wanted) == []
    assert play(refused, path) == []


def test_new_episodes_goes_live_with_what_is_new(path):
    with serving(lambda data: [b"re: " + data]) as server:
        record(lambda _: exchange(b"one"), server, path)
        talk = lambda s: (exchange(b"one"), exchange(b"two"), s.problems())
        assert record(talk, server, path, mode="new_episodes")[:2] == ([b"re: one"], [b"re: two"])
        assert server.heard == [b"one", b"two"]
    assert play(talk, path) == ([b"re: one"], [b"re: two"], [])


def test_quic_is_not_kept(path):
    head = bytes((0xC3, 0, 0, 0, 1, 8)) + os.urandom(8) + bytes((0, 0, 0x44, 0x9E))
    hello = head + os.urandom(1200 - len(head))  # an Initial (RFC 9000 §17.2.2) that means nothing

    def fire(sandbox):
        with client() as sock:
            sock.send(hello)
            (flow,) = sandbox.flows("udp")
            reason = sandbox.wait(lambda: sandbox.flows("udp")[0].reason)
        return reason, flow.sent, flow.turns, [p.reason for p in sandbox.problems()]

    with serving(lambda _: []) as server:
        reason, *rest = record(fire, server, path)
    assert rest == [1200, [], []]
    assert play(fire, path)[3] == [reason]
