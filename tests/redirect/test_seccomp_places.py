"""Which place a process belongs to: as a table, and for real processes."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time

import pytest

from pytest_netcapture.redirect.seccomp_places import (
    TICK_NS,
    Move,
    Moves,
    Places,
    Started,
    parse_stat,
    process_of,
    read_start,
)


@pytest.mark.parametrize(
    ("tick", "number", "place"),
    [
        (5, 100, 1),  # before any move
        (10, 200, 1),  # in the tick of the first move, with a number given out before it
        (10, 201, 2),
        (11, 5, 2),  # numbers start anew at pid_max
        (20, 250, 2),
        (20, 251, 3),
        (20, 260, 3),
        (20, 261, 4),  # two moves in one tick
        (99, 1, 4),
    ],
)
def test_moves(tick, number, place):
    moves = Moves(1)
    for move in (Move(10, 200, 2), Move(20, 250, 3), Move(20, 260, 4)):
        moves.add(move)
    assert moves.at(tick, number) == place
    assert moves.here == 4


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"7 (a b) c)) S 3 " + b"0 " * 17 + b"1234 0", Started(3, 1234)),
        (b"", None),
        (b"7 (x) S 3", None),
        (b"7 (x) S x " + b"0 " * 18, None),
    ],
)
def test_stat(text, found):
    assert parse_stat(text) == found


def here(places, place):
    with open("/proc/loadavg") as file:
        number = int(file.read().split()[-1])
    places.moves.add(Move(time.clock_gettime_ns(time.CLOCK_BOOTTIME) // TICK_NS, number, place))


def sleeper():
    """Start a shell that starts a sleep; return both numbers' holder."""
    command = ["sh", "-c", "sleep 100 & echo $!; wait"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    return child, int(child.stdout.readline())


@pytest.mark.live
def test_processes_belong_where_their_line_was_started():
    caught_up = []
    places = Places(os.getpid(), 1, lambda: caught_up.append(1))
    found = []
    for place in (2, 3, 4):  # all within a tick or two
        here(places, place)
        found.append((place, *sleeper()))
    here(places, 5)
    try:
        assert places.of(os.getpid()) == 5
        for place, child, below in found:
            assert places.of(child.pid) == place
            assert places.of(below) == place
            assert set(places.inside(place)) == {child.pid, below}
        assert places.inside(9) == []
        assert {c.pid for _, c, _ in found} <= set(places.descendants())
        assert caught_up
    finally:
        for _, child, below in found:
            os.kill(below, 9)
            child.communicate()


@pytest.mark.live
def test_who_was_seen_is_known_when_its_parent_has_ended():
    places = Places(os.getpid(), 1, lambda: None)
    here(places, 2)
    child, below = sleeper()
    here(places, 3)
    assert places.of(below) == 2
    child.kill()
    child.wait()
    child.stdout.close()
    try:
        assert read_start(below).parent != child.pid
        assert places.of(below) == 2
        assert places.inside(2) == [below]
    finally:
        left = os.pidfd_open(below)
        os.kill(below, 9)
        select.select([left], [], [])
        os.close(left)


def test_a_process_that_has_ended_is_where_the_test_process_is():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    places = Places(os.getpid(), 7, lambda: None)
    assert read_start(child.pid) is None
    assert places.of(child.pid) == 7


@pytest.mark.live
def test_a_thread_belongs_to_its_process():
    ready = threading.Event()
    waiting = threading.Thread(target=ready.wait)
    waiting.start()
    try:
        native = waiting.native_id
        assert process_of(native, os.getpid()) == os.getpid()
        assert process_of(native, 1) == os.getpid()
    finally:
        ready.set()
        waiting.join()
    assert process_of(2**22 - 1, 1) == 2**22 - 1
