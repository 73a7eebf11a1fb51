"""The test process's end of the control channel, against an engine of a few lines."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest

from pytest_netcapture.channel import Channel
from pytest_netcapture.errors import CassetteError, EngineGone, UsageError
from pytest_netcapture.launch import create_page
from pytest_netcapture.messages import (
    FRAME,
    Begin,
    Begun,
    Closed,
    Counts,
    Done,
    Failed,
    GetFlows,
    Lease,
    Page,
    Reply,
    Request,
    SetVariable,
    WaitChange,
    encode,
)
from pytest_netcapture.settings import Settings


class Interrupted(BaseException):
    """As Ctrl-C and pytest-timeout's signal raise one, in the middle of a wait."""


class Engine:
    """Reads requests, sends what it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def request(self) -> tuple[int, Request]:
        length, number = FRAME.unpack(self._exactly(FRAME.size))
        return number, msgspec.msgpack.decode(self._exactly(length), type=Request)

    def reply(self, message: Reply, number: int, fds: list[int] | None = None) -> None:
        socket.send_fds(self.socket, [encode(message, number)], fds or [])

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            assert more
            data += more
        return data


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Engine]]:
    ours, theirs = socket.socketpair()
    page = create_page()
    with ours, theirs:
        yield Channel(ours, Page(page), lambda: "its last words"), Engine(theirs)
    os.close(page)


Ends = tuple[Channel, Engine]


def answering(engine: Engine, *steps: Callable[[int], None]) -> threading.Thread:
    """Have each request answered by the next of `steps`, which is given its number."""

    def run() -> None:
        for step in steps:
            step(engine.request()[0])

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_reply_with_descriptors_in_pieces(ends: Ends) -> None:
    channel, engine = ends
    reader, writer = os.pipe()

    def in_pieces(number: int) -> None:
        data = encode(Begun(7, 3, fds=1), number)
        socket.send_fds(engine.socket, [data[:1]], [writer])
        for byte in data[1:]:
            engine.socket.send(bytes([byte]))

    thread = answering(engine, in_pieces)
    begun, fds = channel.ask(Begin("t::x", Settings(), []), Begun)
    thread.join()
    assert (begun.scope, begun.namespace) == (7, 3)
    os.write(fds[0], b"x")
    assert os.read(reader, 1) == b"x"
    for descriptor in (reader, writer, *fds):
        os.close(descriptor)


def test_the_reply_to_a_request_that_was_given_up_is_not_the_next_ones(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, engine = ends
    receive = channel._recvmsg

    def interrupted(*_args: object) -> None:
        raise Interrupted

    monkeypatch.setattr(channel, "_recvmsg", interrupted)
    with pytest.raises(Interrupted):
        channel.ask(Begin("t::x", Settings(), []), Begun)
    monkeypatch.setattr(channel, "_recvmsg", receive)
    reader, writer = os.pipe()

    def late(number: int) -> None:
        engine.reply(Begun(1, 1, fds=1), number, [writer])

    thread = answering(engine, late, lambda number: engine.reply(Closed(Counts(flows=4)), number))
    closed, fds = channel.ask(GetFlows(0), Closed)
    thread.join()
    assert closed.counts.flows == 4
    assert fds == []
    os.close(writer)
    assert os.read(reader, 1) == b""  # the late reply's descriptor was closed
    os.close(reader)


def test_the_engines_errors_are_raised_as_what_they_are(ends: Ends) -> None:
    channel, engine = ends
    failed = Failed(
        "CassetteError", "c.cassette: torn", "restore it", "docs/cassette-format.md#errors"
    )
    thread = answering(engine, lambda number: engine.reply(failed, number))
    with pytest.raises(CassetteError, match=r"c\.cassette: torn\n  cure: restore it"):
        channel.ask(WaitChange(0, 1), Done)
    thread.join()


def test_an_engine_that_is_gone_is_said_with_its_log(ends: Ends) -> None:
    channel, engine = ends
    assert channel.alive()
    engine.socket.close()
    assert not channel.alive()
    with pytest.raises(EngineGone, match="its last words"):
        channel.ask(GetFlows(0), Done)


def test_an_engine_that_goes_before_it_answers(ends: Ends) -> None:
    channel, engine = ends
    thread = answering(engine, lambda _number: engine.socket.close())
    with pytest.raises(EngineGone, match="in the middle of the session"):
        channel.ask(GetFlows(0), Done)
    thread.join()


def test_a_forked_child_is_refused(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    channel, _engine = ends
    monkeypatch.setattr(channel, "_pid", os.getpid() + 1)
    with pytest.raises(UsageError, match="forked child"):
        channel.ask(GetFlows(0), Done)


def test_what_is_posted_is_collected_later_whatever_is_asked_between(ends: Ends) -> None:
    channel, engine = ends
    thread = answering(
        engine,
        lambda number: engine.reply(Begun(4, 2), number),
        lambda number: engine.reply(Done(), number),
    )
    posted = channel.post(Lease([]))
    channel.ask(SetVariable("A", "b"), Done)
    begun, fds = channel.collect(posted, Begun)
    thread.join()
    assert (begun.scope, begun.namespace, fds) == (4, 2, [])
