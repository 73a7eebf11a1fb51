"""Descriptors of the packet path, watched through epoll(7) sets of our own.

1. An event loop's watcher costs a handle and several epoll_ctl(2) calls, which a connection that
   only looks whether a port is open pays four times; here it is one call each way.
2. Urgent descriptors (the gates: a client waits in connect(2)) are looked at before each other one.
3. Level-triggered: who reads less than there is, is called again. A number may have been another
   descriptor's when the kernel looked, so a callback must not block.
4. A peer that is gone wakes reader and writer alike: reading or writing tells what happened.

Tests: test_poller.py.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_BATCH = 64

Callback = Callable[..., None]
_Watched = dict[int, tuple[Callback, tuple[Any, ...]]]


class Poller:
    """`add_reader` and its kin as an event loop has them, for descriptors that come and go."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._readers: _Watched = {}
        self._writers: _Watched = {}
        self._gates: _Watched = {}
        self._urgent = select.epoll()
        self._epoll = select.epoll()
        loop.add_reader(self._urgent.fileno(), self._serve_urgent)
        loop.add_reader(self._epoll.fileno(), self._ready)

    def add_reader(self, fd: int, callback: Callback, *args: Any) -> None:
        """Call `callback(*args)` while there is something to read, until `remove_reader`."""
        self._readers[fd] = callback, args
        self._watch(fd, also=self._writers)

    def add_writer(self, fd: int, callback: Callback, *args: Any) -> None:
        """Call `callback(*args)` while there is room to write, until `remove_writer`."""
        self._writers[fd] = callback, args
        self._watch(fd, also=self._readers)

    def add_urgent(self, fd: int, callback: Callback, *args: Any) -> None:
        """As `add_reader`, before all others."""
        self._gates[fd] = callback, args
        self._urgent.register(fd, select.EPOLLIN)

    def remove_reader(self, fd: int) -> None:
        """Stop, before the descriptor is closed; does nothing for one that is not watched."""
        if self._readers.pop(fd, None) is not None:
            self._unwatch(fd)

    def remove_writer(self, fd: int) -> None:
        if self._writers.pop(fd, None) is not None:
            self._unwatch(fd)

    def remove_urgent(self, fd: int) -> None:
        if self._gates.pop(fd, None) is not None:
            with suppress(OSError):
                self._urgent.unregister(fd)

    def close(self) -> None:
        if not self._epoll.closed:
            for watched in (self._epoll, self._urgent):
                self._loop.remove_reader(watched.fileno())
                watched.close()

    def _mask(self, fd: int) -> int:
        readable = select.EPOLLIN if fd in self._readers else 0
        return readable | (select.EPOLLOUT if fd in self._writers else 0)

    def _watch(self, fd: int, *, also: _Watched) -> None:
        if fd not in also:
            with suppress(FileExistsError):
                self._epoll.register(fd, self._mask(fd))
                return
        self._epoll.modify(fd, self._mask(fd))

    def _unwatch(self, fd: int) -> None:
        mask = self._mask(fd)
        with suppress(OSError):  # closed already, and with it no longer watched
            if mask:
                self._epoll.modify(fd, mask)
            else:
                self._epoll.unregister(fd)

    def _serve_urgent(self) -> None:
        for fd, _ in self._urgent.poll(0, _BATCH):
            _call(self._gates.get(fd))

    def _ready(self) -> None:
        for fd, events in self._epoll.poll(0, _BATCH):
            self._serve_urgent()
            if events & ~select.EPOLLOUT:
                _call(self._readers.get(fd))
            if events & ~select.EPOLLIN:
                _call(self._writers.get(fd))


def _call(watched: tuple[Callback, tuple[Any, ...]] | None) -> None:
    if watched is not None:
        callback, args = watched
        callback(*args)
