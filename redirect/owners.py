"""Whose sockets are in a namespace: by address, and how many a test has left behind.

1. One diagnostic socket a namespace, made inside it; asking takes no hop into the namespace. Attach
   when the engine's sockets are there and no others yet.
2. `inode` is one exact query, answered by a hash lookup in the kernel. Ask while the connection is
   there: during `Connecting` the client's socket already has its addresses.
3. Sockets with ENGINE_MARK are the engine's. Those without inode are the kernel's own: closed by
   their process, or not accepted yet. Neither counts as left over.
4. A dump walks all of the kernel's hash table, which takes 0.1 ms each. So `sockets_left` first
   reads the namespace's own counters: as at `attach`, then nothing is left.
5. Nothing here raises once attached: what cannot be told is 0.

Tests: test_owners.py.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from pytest_netcapture.flows import Process
from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect import processes, sockdiag
from pytest_netcapture.redirect.base import Address, Namespace

_TIMEOUT = struct.pack("@ll", 1, 0)  # struct timeval, one second
_IN_USE = re.compile(rb"^(?:TCP|UDP)6?: inuse (\d+)", re.MULTILINE)
_COUNTERS = ("sockstat", "sockstat6")
_DUMPS = tuple(
    sockdiag.encode_dump(family, protocol)
    for family in (socket.AF_INET, socket.AF_INET6)
    for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
)


class Counters:
    """How many sockets the calling thread's namespace has, and had when this was made.

    The files stay those of the namespace, whoever reads them.
    """

    def __init__(self) -> None:
        self._files: list[int] = []
        for name in _COUNTERS:
            with suppress(OSError):
                path = f"/proc/thread-self/net/{name}"
                self._files.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        self._first = self._read()

    def as_at_first(self) -> bool:
        """Tell whether there are as many as at first; False when that cannot be known."""
        return bool(self._first) and self._read() == self._first

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop())

    def _read(self) -> list[int]:
        try:
            return [n for file in self._files for n in parse_counters(os.pread(file, 4096, 0))]
        except OSError:
            return []


def parse_counters(text: bytes) -> list[int]:
    """Return how many TCP and UDP sockets are in use, of /proc/net/sockstat or sockstat6."""
    return [int(n) for n in _IN_USE.findall(text)]


class Owners:
    """Attribution for any number of namespaces; any thread may ask, one at a time is answered."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._counters: dict[int, Counters] = {}
        self._lock = threading.Lock()

    def attach(self, namespace: Namespace) -> None:
        """Open a diagnostic socket in `namespace`. Blocking."""
        namespace.run(lambda: self.attach_here(namespace.id))

    def attach_here(self, namespace: int) -> None:
        """Open it in the calling thread's namespace, known as `namespace` from now on."""
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        conn: Any = socket.socket(socket.AF_NETLINK, flags, k.NETLINK_SOCK_DIAG)
        # Not `settimeout`, which polls before each call: the kernel has answered when send returns.
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
        self._sockets[namespace] = conn
        self._counters[namespace] = Counters()

    def detach(self, namespace: int) -> None:
        with self._lock:
            conn = self._sockets.pop(namespace, None)
            if conn is not None:
                conn.close()
                self._counters.pop(namespace).close()

    def inode(self, namespace: int, protocol: int, client: Address, server: Address) -> int:
        """Return the inode of the client's socket; `protocol` is IPPROTO_TCP or IPPROTO_UDP."""
        return self.identity(namespace, protocol, client, server)[0]

    def identity(
        self, namespace: int, protocol: int, client: Address, server: Address
    ) -> tuple[int, int]:
        """Return the inode and the cookie (SO_COOKIE) of the client's socket."""
        request = sockdiag.encode_exact(protocol, client, server)
        with self._lock:
            conn = self._sockets.get(namespace)
            if conn is None:
                return 0, 0
            try:
                conn.send(request)
                answer = conn.recv(4096)
            except OSError:
                return 0, 0
        return sockdiag.parse_inode(answer), sockdiag.parse_cookie(answer)

    def find_process(self, inode: int, hints: Sequence[int], root_pid: int) -> Process:
        return processes.find_process(inode, hints, root_pid)

    def sockets_left(self, namespace: int) -> int:
        """Count TCP and UDP sockets of processes, the engine's and TIME_WAIT left out."""
        with self._lock:
            conn = self._sockets.get(namespace)
            if conn is None or self._counters[namespace].as_at_first():
                return 0
            return sum(self._count(conn, request) for request in _DUMPS)

    def peer_ports(self, namespace: int, family: int) -> set[int]:
        """Return the ports that UDP sockets of a family are connected to."""
        with self._lock:
            conn = self._sockets.get(namespace)
            if conn is None:
                return set()
            request = sockdiag.encode_dump(family, socket.IPPROTO_UDP)
            return {found.peer_port for found in self._dump(conn, request)}

    def _dump(self, conn: Any, request: bytes) -> Iterator[sockdiag.Found]:
        with suppress(OSError):
            conn.send(request)
            while True:
                data = conn.recv(65536)
                yield from sockdiag.parse_sockets(data)
                if sockdiag.is_last(data):
                    return

    def _count(self, conn: Any, request: bytes) -> int:
        return sum(
            1 for found in self._dump(conn, request) if found.inode and found.mark != k.ENGINE_MARK
        )
