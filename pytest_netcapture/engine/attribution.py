"""Who made a connection, found while it lasts.

1. The question is asked when the connection is made, in a thread, and answered before the client
   sees the answer that completes its first flow: until then it cannot have exited.
2. The socket's inode comes from sock_diag(7), its process from /proc (`redirect.owners`).
"""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout

from pytest_netcapture.flows import Address, Process
from pytest_netcapture.redirect.owners import Owners

_PATIENCE = 0.25
"""Seconds that one answer may hold up the loop; a process not found by then stays unknown."""


TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP


class Owner:
    """The owner of one client socket, as it becomes known."""

    def __init__(self, future: Future[tuple[int, Process]], test_pid: int) -> None:
        self._future = future
        self._test_pid = test_pid
        self._known: tuple[int, Process] | None = None

    @property
    def inode(self) -> int:
        return self._result()[0]

    def process(self) -> Process:
        return self._result()[1]

    def is_test_process(self) -> bool:
        return self._result()[1].pid == self._test_pid

    def _result(self) -> tuple[int, Process]:
        if self._known is None:
            try:
                self._known = self._future.result(_PATIENCE)
            except (FutureTimeout, OSError):
                self._known = 0, Process()
        return self._known


class Attribution:
    """Asks `Owners` in one thread."""

    def __init__(self, owners: Owners, test_pid: int) -> None:
        self._owners = owners
        self._test_pid = test_pid
        self._recent: list[int] = [test_pid]
        self._thread = ThreadPoolExecutor(1, "netcapture-owners")
        self._asking = threading.Lock()

    def owner(self, namespace: int, protocol: int, client: Address, server: Address) -> Owner:
        return Owner(
            self._thread.submit(self._find, namespace, protocol, client, server), self._test_pid
        )

    def sockets_left(self, namespace: int) -> int:
        with self._asking:
            return self._owners.sockets_left(namespace)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _find(
        self, namespace: int, protocol: int, client: Address, server: Address
    ) -> tuple[int, Process]:
        with self._asking:
            inode = self._owners.inode(namespace, protocol, client, server)
        if not inode:
            return 0, Process()
        process = self._owners.find_process(inode, tuple(self._recent), self._test_pid)
        if process.pid and process.pid not in self._recent:
            self._recent = [self._test_pid, process.pid, *self._recent[1:3]]
        return inode, process
