"""What stands for namespaces where there are none: places, given to tests as namespaces are.

A place costs nothing: none is made ahead, none is used twice. See redirect/seccomp_places.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

from pytest_netcapture.engine.namespaces import EngineNamespace, Pool
from pytest_netcapture.redirect.seccomp_places import Move, Places, read_start
from pytest_netcapture.sandbox import processes

T = TypeVar("T")
HOME = 1


class Place(EngineNamespace):
    """One test's or program's."""

    def __init__(self, identity: int) -> None:
        self.id = identity
        self.fd = -1
        self.inode = 0

    def run(self, function: Callable[[], T]) -> T:
        return function()

    def close(self) -> None:
        """Do nothing."""


class PlacePool(Pool):
    """Gives out places. `directory` is named in the environment of captured programs."""

    def __init__(self, places: Places, directory: str) -> None:
        self._places = places
        self._directory = directory
        self._next = HOME
        self._seen: dict[int, int] = {}
        self.all = {}

    async def make(self) -> EngineNamespace:
        return self.take()

    async def wait(self) -> EngineNamespace:
        return self.take()

    def take(self) -> EngineNamespace:
        place = Place(self._next)
        self._next += 1
        self.all[place.id] = place
        return place

    def give_back(self, namespace: EngineNamespace) -> None:
        self.all.pop(namespace.id, None)

    def fill(self) -> None:
        """Do nothing."""

    def are_empty(self, namespaces: Iterable[EngineNamespace]) -> bool:
        return all(map(self.is_empty, namespaces))

    def is_empty(self, namespace: EngineNamespace) -> bool:
        return not self._places.inside(namespace.id)

    def moved(self, tick: int, last_number: int, identity: int) -> None:
        self._places.moves.add(Move(tick, last_number, identity))

    def remember(self) -> None:
        self._seen = self._places.descendants()

    def end_processes(self, spare: Iterable[int]) -> None:
        """End what the tests have left behind: who was noted, and who has our environment."""
        spared = set(spare)
        left = {pid for pid, tick in self._seen.items() if _started_at(pid) == tick}
        left |= set(_with_environment(self._directory.encode()))
        processes.end(left - spared)

    def close(self) -> None:
        self.all.clear()


class OpenPool(PlacePool):
    """For processes that others have started, and that go on without us."""

    def remember(self) -> None:
        """Do nothing."""

    def end_processes(self, spare: Iterable[int]) -> None:
        """Do nothing."""


def _started_at(pid: int) -> int:
    started = read_start(pid)
    return started.tick if started is not None else -1


def _with_environment(text: bytes) -> Iterable[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if text in file.read():
                        yield int(name)
            except OSError:
                continue
