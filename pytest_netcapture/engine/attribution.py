"""Who made a connection, found while it lasts.

1. The question is asked when the connection is made, in a thread, and answered before the client's
   connect(2) returns, where the gate can hold it: some clients close as soon as they are connected.
   The loop waits for `_MOMENT`, which is mostly enough, the client for `_PATIENCE` at most.
2. The socket's inode comes from sock_diag(7), its process from /proc (`redirect.owners`).
3. A program that connects again tends to get the same descriptor or the next one. Looking whether
   that is so takes 5 µs, a thread and a search 200; so it comes first, on the loop's thread. The
   parent of a forked process has to be without a socket that it had at first, or else it made it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from pytest_netcapture.flows import Address, Process
from pytest_netcapture.redirect.owners import Owners
from pytest_netcapture.redirect.processes import describe, parse_parent

_PATIENCE = 0.25
"""Seconds that one answer may hold up loop or client; a process not found by then stays unknown."""


TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP


_MOMENT = 0.002
_GUESSES = 8
"""How many descriptors are looked at before a search."""

Found = tuple[int, Process]
Describe = Callable[[int], Process]


class Owner:
    """The owner of one client socket, as it becomes known."""

    found = False
    """The process is known already; the description of one that ends now is not lost."""

    def __init__(self, future: Future[Found], test_pid: int) -> None:
        self._future = future
        self._test_pid = test_pid
        self._known: Found | None = None

    @property
    def inode(self) -> int:
        return self._result()[0]

    def process(self) -> Process:
        return self._result()[1]

    def is_test_process(self) -> bool:
        return self._result()[1].pid == self._test_pid

    def when_known(self, loop: Any, callback: Callable[[], None]) -> None:
        """Call back once the process is known or will not be: now, or on the loop's thread."""
        if self._future.done():
            callback()
            return
        waiting = [callback]

        def once() -> None:
            if waiting:
                waiting.pop()()

        def known(_: Future[Found]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(once)

        loop.call_later(_PATIENCE, once)
        self._future.add_done_callback(known)

    def _result(self) -> Found:
        if self._known is None:
            try:
                self._known = self._future.result(_PATIENCE)
            except (FutureTimeout, OSError):
                self._known = 0, Process()
        return self._known


class KnownOwner(Owner):
    """The owner of a socket that was found at once; `describe` reads its command line."""

    found = True

    def __init__(self, inode: int, pid: int, test_pid: int, describe: Describe) -> None:
        self._inode = inode
        self._pid = pid
        self._test_pid = test_pid
        self._describe: Describe = describe
        self._known = None

    @property
    def inode(self) -> int:
        return self._inode

    def is_test_process(self) -> bool:
        return self._pid == self._test_pid

    def when_known(self, loop: Any, callback: Callable[[], None]) -> None:
        del loop
        callback()

    def _result(self) -> Found:
        if self._known is None:
            self._known = self._inode, self._describe(self._pid)
        return self._known


class _Seen:
    """A process that is looked at often; through files that stay open it takes half the time."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._folder = _open(f"/proc/{pid}/fd", os.O_PATH | os.O_DIRECTORY)
        self._file = _open(f"/proc/{pid}/cmdline", os.O_RDONLY)
        self._words = b""
        self._process = Process(pid)

    def has(self, descriptor: int, link: str) -> bool:
        try:
            return self._folder >= 0 and os.readlink(str(descriptor), dir_fd=self._folder) == link
        except OSError:
            return False

    def describe(self) -> Process:
        """Describe it as it is now: it may have become another program (execve(2))."""
        try:
            words = os.pread(self._file, 1 << 16, 0)
        except OSError:
            words = b""
        if words and words != self._words:  # it has not ended
            self._words, self._process = words, describe(self.pid)
        return self._process

    def close(self) -> None:
        for descriptor in (self._folder, self._file):
            if descriptor >= 0:
                os.close(descriptor)
        self._folder = self._file = -1


class Guesses:
    """Which descriptors the program that connected last has used for it, the last one first."""

    def __init__(self) -> None:
        self._last = _Seen(0)
        self._parent = _Seen(0)
        self._first: Collection[str] = ()
        self._descriptors: list[int] = []

    def learn(self, pid: int, link: str) -> None:
        """Note where `pid` has the socket."""
        descriptors = _descriptors_of(pid)
        descriptor = descriptors.get(link, -1)
        if descriptor < 0:
            return
        if pid != self._last.pid:
            self.close()
            self._last, self._parent, self._descriptors = _Seen(pid), _Seen(_parent_of(pid)), []
            self._first = descriptors.keys()
        self._descriptors = [descriptor, *self._descriptors[: _GUESSES - 1]]

    def close(self) -> None:
        self._last.close()
        self._parent.close()

    def describe(self, pid: int) -> Process:
        """Describe a process that `find` has returned; an empty command when it has ended."""
        return self._last.describe() if pid == self._last.pid else describe(pid)

    def find(self, link: str) -> int:
        """Return the process that has the socket where it is likely to be, or 0."""
        known = self._descriptors
        for descriptor in (*known, known[0] + 1) if known else ():
            if self._last.has(descriptor, link):
                if link in self._first and self._parent.has(descriptor, link):
                    return 0
                if descriptor != known[0]:
                    others = [d for d in known if d != descriptor]
                    self._descriptors = [descriptor, *others[: _GUESSES - 1]]
                return self._last.pid
        return 0


class Attribution:
    """Asks `Owners`: at once where that is quick, else in one thread."""

    def __init__(self, owners: Owners, test_pid: int) -> None:
        self._owners = owners
        self._test_pid = test_pid
        self._recent: list[int] = [test_pid]
        self._described: dict[int, Process] = {}
        self._guesses = Guesses()
        self._thread = ThreadPoolExecutor(1, "netcapture-owners")
        self._asking = threading.Lock()

    def owner(self, namespace: int, protocol: int, client: Address, server: Address) -> Owner:
        with self._asking:
            inode = self._owners.inode(namespace, protocol, client, server)
        pid = self._guesses.find(_link(inode)) if inode else 0
        if pid:
            return KnownOwner(inode, pid, self._test_pid, self._describe)
        future = self._thread.submit(self._find, inode, (namespace, protocol, client, server))
        with contextlib.suppress(FutureTimeout, OSError):
            future.result(_MOMENT)
        return Owner(future, self._test_pid)

    def listens(self, namespace: int, address: Address) -> bool:
        """Tell whether somebody in `namespace` would accept a connection to `address`."""
        anybody = ("::" if ":" in address[0] else "0.0.0.0", 0)
        with self._asking:
            return bool(self._owners.inode(namespace, TCP, address, anybody))

    def sockets_left(self, namespace: int) -> int:
        with self._asking:
            return self._owners.sockets_left(namespace)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._guesses.close()

    def _describe(self, pid: int) -> Process:
        """Describe a process that was seen before, even if it has ended since."""
        known = self._described.get(pid)
        if known is not None and pid == self._test_pid:
            return known
        process = self._guesses.describe(pid)
        return process if process.command or known is None else known

    def _find(self, inode: int, socket_: tuple[int, int, Address, Address]) -> Found:
        with self._asking:
            gone = not inode or self._owners.inode(*socket_) != inode
        if gone:  # nobody has it any more: do not search all processes
            return inode, Process()
        process = self._owners.find_process(inode, tuple(self._recent), self._test_pid)
        if process.pid and process.pid not in self._recent:
            self._recent = [self._test_pid, process.pid, *self._recent[1:3]]
        if process.pid:
            self._described[process.pid] = process
            self._guesses.learn(process.pid, _link(inode))
        return inode, process


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError:
        return -1


def _link(inode: int) -> str:
    return f"socket:[{inode}]"


def _parent_of(pid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return parse_parent(file.read())
    return 0


def _descriptors_of(pid: int) -> dict[str, int]:
    """Return what a process has open, by the link in its /proc/PID/fd."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found[os.readlink(f"/proc/{pid}/fd/{name}")] = int(name)
    return found
