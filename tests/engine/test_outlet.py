"""The pace of a slow way out, in virtual time."""

import heapq
from collections import Counter

import pytest

from pytest_netcapture.engine.outlet import Outlet

RATE = 100_000


class Clock:
    """A loop whose timers are `late` by as many seconds, and which is nowhere else."""

    def __init__(self, late=0.0):
        self.now = 0.0
        self._late = late
        self._timers = []

    def time(self):
        return self.now

    def call_later(self, delay, callback):
        heapq.heappush(self._timers, (self.now + delay + self._late, id(callback), callback))

    def run(self):
        while self._timers:
            when, _, callback = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            callback()


class Transport:
    """Notes what is written, and when."""

    def __init__(self, clock):
        self.clock = clock
        self.written = []

    def is_closing(self):
        return False

    def write(self, data):
        self.written.append((self.clock.now, bytes(data)))


def slow(late=0.0):
    clock = Clock(late)
    outlet = Outlet()
    outlet.attach(Transport(clock))
    outlet.pace(RATE, clock)
    return clock, outlet


def fastest(written):
    """Return the most bytes in any second of the clock."""
    seconds = Counter()
    for when, data in written:
        seconds[int(when)] += len(data)
    return max(seconds.values())


@pytest.mark.parametrize("late", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("size", [17, 1000, 500_000])
def test_a_rate_is_kept_however_late_timers_are_and_however_small_the_pieces(late, size):
    clock, outlet = slow(late)
    data = bytes(range(250)) * 1600
    outlet.stream(data[at : at + size] for at in range(0, len(data), size))
    clock.run()
    written = outlet.transport.written
    assert b"".join(piece for _, piece in written) == data
    assert clock.now == pytest.approx(len(data) / RATE, rel=0.03)
    assert fastest(written) <= RATE * 1.2


def test_what_comes_after_a_pause_is_not_late():
    clock, outlet = slow(late=0.02)
    for start in (0, 100):
        clock.now = start
        outlet.write(bytes(RATE))
        clock.run()
        assert start + 1 <= clock.now + 0.02 < start + 1.1


def test_many_small_writes_are_no_way_around_it():
    clock, outlet = slow()
    for _ in range(2000):
        outlet.write(bytes(100))
    clock.run()
    assert clock.now == pytest.approx(2, rel=0.03)


def test_a_pace_that_is_lifted_lets_the_rest_go():
    clock, outlet = slow()
    outlet.write(bytes(RATE))
    outlet.pace(0, None)
    clock.run()
    assert sum(len(data) for _, data in outlet.transport.written) == RATE
    assert clock.now < 0.1
