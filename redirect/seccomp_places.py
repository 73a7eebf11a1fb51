"""Which sandbox a process belongs to where sandboxes are not namespaces: the one it was started in.

1. A *place* stands for what a namespace is elsewhere: a test's, a program's, or the session's own.
   The test process says each time that it moves (`move`), with the time and the number that the
   kernel gave out last; it is itself always where it said last.
2. A process belongs to where the test process was when the first of its line, the test process's
   own child, was started. Of two moves within one tick (10 ms) of that, numbers decide.
3. A process whose line is broken (its parent has ended) keeps what was known of it; else its own
   start counts.
4. `Moves` decides and reads nothing; `Places` reads /proc.

Kernel: proc_pid_stat(5), fields 4 and 22; proc_loadavg(5). Tests: test_seccomp_places.py.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

from pytest_netcapture.redirect.processes import all_pids

TICK_NS = 10_000_000
_MOVES = 4096
_KNOWN = 4096
_DEEPEST = 64


class Move(NamedTuple):
    """The test process went to `place` at `tick` (of the machine's uptime)."""

    tick: int
    last_number: int
    place: int


class Started(NamedTuple):
    """A process: its parent, and the tick at which it was started."""

    parent: int
    tick: int


class Moves:
    """Where the test process was, when."""

    def __init__(self, first: int) -> None:
        self.here = first
        self._moves: deque[Move] = deque([Move(0, 0, first)], maxlen=_MOVES)

    def add(self, move: Move) -> None:
        self.here = move.place
        self._moves.append(move)

    def at(self, tick: int, number: int) -> int:
        """Return the place in which process `number` was started at `tick`."""
        for move in reversed(self._moves):
            if move.tick < tick or (move.tick == tick and move.last_number < number):
                return move.place
        return self._moves[0].place


class Places:
    """Tells each process's place. `catch_up` reads the moves that were sent, before one is told."""

    def __init__(self, test_process: int, first: int, catch_up: Callable[[], object]) -> None:
        self.test_process = test_process
        self.moves = Moves(first)
        self._catch_up = catch_up
        self._known: OrderedDict[int, tuple[Started, int]] = OrderedDict()

    def of(self, process: int) -> int:
        self._catch_up()
        if process == self.test_process:
            return self.moves.here
        started = read_start(process)
        if started is None:
            return self.moves.here
        known = self._known.get(process)
        if known is not None and known[0].tick == started.tick:
            return known[1]
        place = self._place(process, started)
        self._known[process] = started, place
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        return place

    def inside(self, place: int) -> list[int]:
        """Return the processes that are left in a place. Reads all of /proc."""
        table = {pid: found for pid in all_pids() if (found := read_start(pid)) is not None}
        return [pid for pid in table if self._is_in(pid, table, place)]

    def descendants(self) -> dict[int, int]:
        """Return the test process's children, theirs, and who was seen to be one: pid to tick."""
        table = {pid: found for pid in all_pids() if (found := read_start(pid)) is not None}
        return {
            pid: started.tick
            for pid, started in table.items()
            if pid != self.test_process
            and (self._is_known(pid, started) or self._first(pid, table) is not None)
        }

    def _is_in(self, pid: int, table: dict[int, Started], place: int) -> bool:
        started = table[pid]
        if self._is_known(pid, started):
            return self._known[pid][1] == place
        first = self._first(pid, table)
        return first is not None and self.moves.at(table[first].tick, first) == place

    def _is_known(self, pid: int, started: Started) -> bool:
        known = self._known.get(pid)
        return known is not None and known[0].tick == started.tick

    def _first(self, pid: int, table: dict[int, Started]) -> int | None:
        """Return the test process's child from which `pid` descends."""
        for _ in range(_DEEPEST):
            started = table.get(pid)
            if started is None or pid == self.test_process:
                return None
            if started.parent == self.test_process:
                return pid
            pid = started.parent
        return None

    def _place(self, process: int, started: Started) -> int:
        first, its = process, started
        for _ in range(_DEEPEST):
            if its.parent == self.test_process:
                return self.moves.at(its.tick, first)
            known = self._known.get(its.parent)
            above = read_start(its.parent)
            if above is None or its.parent <= 1:
                break
            if known is not None and known[0].tick == above.tick:
                return known[1]
            first, its = its.parent, above
        return self.moves.at(started.tick, process)


def read_start(process: int) -> Started | None:
    """Read a process's parent and start; None if it has ended."""
    try:
        descriptor = os.open(f"/proc/{process}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return parse_stat(os.read(descriptor, 4096))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def parse_stat(text: bytes) -> Started | None:
    """Read /proc/PID/stat; the name in it may hold anything, `)` too."""
    words = text.rpartition(b")")[2].split(None, 20)
    try:
        return Started(int(words[1]), int(words[19]))
    except (IndexError, ValueError):
        return None


def process_of(thread: int, likely: int) -> int:
    """Return the process of a thread; whether it is the `likely` one is quick to see."""
    if os.path.exists(f"/proc/{likely}/task/{thread}"):
        return likely
    try:
        with open(f"/proc/{thread}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Tgid:"):
                    return int(line[5:])
    except OSError:
        pass
    return thread
