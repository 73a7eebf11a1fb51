"""Stacks are noted at connect, found by inode, bounded, forgotten by children, and never raise."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import sysconfig
import threading

import pytest

from pytest_netcapture import stacks
from pytest_netcapture.stacks import Frame, relevant

HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture(autouse=True)
def noting():
    stacks.install()
    stacks._forget()
    yield
    stacks.enable(False)


@pytest.fixture
def sock():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        yield one


def inode(sock):
    return os.fstat(sock.fileno()).st_ino


def connect_here(sock):
    sock.connect(("127.0.0.1", 9))  # this line


def test_connect_is_found_by_inode(sock):
    connect_here(sock)
    frames = stacks.stack_for(inode(sock))
    last = frames[-1]
    assert (last.function, last.file) == ("connect_here", connect_here.__code__.co_filename)
    assert last.line == connect_here.__code__.co_firstlineno + 1
    assert last.source == 'sock.connect(("127.0.0.1", 9))  # this line'
    assert frames[-2].function == "test_connect_is_found_by_inode"
    assert frames[0] == frames[-2], "frames outside of the test are not kept"


def test_failed_connects_and_connect_ex_are_noted():
    with socket.socket() as one:
        assert one.connect_ex(("127.0.0.1", 1))
        assert stacks.stack_for(inode(one))


def test_sendto_is_noted_once_in_a_row(sock):
    for _ in range(5):
        sock.sendto(b"x", ("127.0.0.1", 9))
    assert stacks.stack_for(inode(sock))[-1].function == "test_sendto_is_noted_once_in_a_row"
    assert len(stacks._notes.ring) == 1


def test_names_are_noted_in_any_case():
    socket.getaddrinfo("LOCALHOST", 80)
    assert stacks.stack_for_name("localhost.")[-2].function == "test_names_are_noted_in_any_case"


def test_a_coroutine_that_connects_is_noted():
    async def fetch():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", 9))
            return stacks.stack_for(inode(one))

    async def outer():
        return await fetch()

    own = relevant(asyncio.run(outer()), HERE)
    assert [frame.function for frame in own][-2:] == ["outer", "fetch"]


def test_the_latest_note_of_a_socket_is_found(sock):
    connect_here(sock)
    sock.connect(("127.0.0.1", 9))
    assert stacks.stack_for(inode(sock))[-1].function == "test_the_latest_note_of_a_socket_is_found"


def test_unknown_is_nothing():
    assert stacks.stack_for(0) == []
    assert stacks.stack_for(1) == []
    assert stacks.stack_for_name("never.test") == []


def test_off_is_off_and_on_again(sock):
    stacks.enable(False)
    connect_here(sock)
    assert stacks.stack_for(inode(sock)) == []
    stacks.enable(True)
    connect_here(sock)
    assert stacks.stack_for(inode(sock))


def test_the_ring_and_the_depth_are_bounded(sock):
    def deep(left):
        return deep(left - 1) if left else connect_here(sock)

    for number in range(stacks.KEPT + 10):
        sys.audit("socket.getaddrinfo", f"h{number}", 80, 0, 0, 0)
    deep(300)
    assert len(stacks._notes.ring) == stacks.KEPT
    assert len(stacks.stack_for(inode(sock))) == stacks.DEEPEST


@pytest.mark.parametrize(
    ("event", "args"),
    [
        ("socket.connect", (object(), ("h", 1))),
        ("socket.connect", ()),
        ("socket.connect", (socket.socket, ("h", 1))),
        ("socket.getaddrinfo", (b"\xff", 1)),
        ("socket.getaddrinfo", (None, 1)),
        ("socket.getaddrinfo", (5.5, 1)),
        ("socket.gethostbyname", ()),
    ],
)
def test_strange_events_are_not_noted_and_do_not_raise(event, args):
    sys.audit(event, *args)
    assert not stacks._notes.ring


def test_unix_sockets_are_not_noted(tmp_path):
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError):
        one.connect(str(tmp_path / "none"))
    assert not stacks._notes.ring


def test_install_twice_notes_once(sock):
    stacks.install()
    connect_here(sock)
    assert len(stacks._notes.ring) == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_starts_empty(sock):
    connect_here(sock)
    here = inode(sock)
    out, back = os.pipe()
    child = os.fork()
    if not child:
        inherited = len(stacks.stack_for(here))
        connect_here(sock)
        os.write(back, bytes([inherited, min(len(stacks.stack_for(here)), 255)]))
        os._exit(0)
    os.waitpid(child, 0)
    inherited, own = os.read(out, 2)
    os.close(out)
    os.close(back)
    assert (inherited, own > 0) == (0, True)
    assert len(stacks.stack_for(here)) > 0


def test_threads_note_their_own_stacks(sock):
    thread = threading.Thread(target=connect_here, args=(sock,))
    thread.start()
    thread.join()
    names = [frame.function for frame in stacks.stack_for(inode(sock))]
    assert names[-1] == "connect_here"
    assert "test_threads_note_their_own_stacks" not in names


STDLIB = sysconfig.get_paths()["stdlib"]
LIBRARY = Frame(f"{STDLIB}/site-packages/requests/api.py", 3, "get")
OWN = Frame("/proj/tests/test_x.py", 12, "test_x")
HELPER = Frame("/elsewhere/helper.py", 4, "fetch")


@pytest.mark.parametrize(
    ("frames", "rootdir", "own"),
    [
        ([OWN, LIBRARY, Frame(f"{STDLIB}/socket.py", 1, "connect")], "/proj", [OWN]),
        ([OWN, HELPER], "/proj/", [OWN]),
        ([OWN, HELPER], "", [OWN, HELPER]),
        ([HELPER, LIBRARY], "/proj", [HELPER]),
        ([Frame("/proj/.venv/lib/python3/site-packages/x.py", 1, "f")], "/proj", []),
        ([Frame("<frozen importlib>", 1, "f"), Frame(stacks.__file__, 1, "f")], "/", []),
        ([LIBRARY], "/proj", []),
    ],
)
def test_relevant(frames, rootdir, own):
    assert relevant(frames, rootdir) == own


def test_place_is_relative_to_rootdir():
    assert OWN.place("/proj") == "tests/test_x.py:12"
    assert OWN.place("/pro") == "/proj/tests/test_x.py:12"
    assert OWN.place() == "/proj/tests/test_x.py:12"
    assert OWN.source == ""
