"""What this process may have sent that nobody awaits an answer to, and the engine has not read yet.

1. Who sends a datagram goes on at once; the shared page knows of it when the engine has read it. So
   whoever looks at flows or problems after that must ask the engine, which then reads first.
2. Asking costs a round trip, so it takes a sign: Python code of this process has sent a datagram or
   connected a socket for datagrams, such a socket lives, or the test has started a process.
3. What leaves no sign: datagrams of C libraries and uvloop. They are seen when they are read, a
   moment later.
4. A socket may be closed before the engine can ask whose it is. Then it is this process's if Python
   code of this process was the last to send to that destination.

The audit hook is that of stacks.py. Proved by tests/test_unanswered.py, plugin/test_datagrams.py.
"""

from __future__ import annotations

import _socket
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from pytest_netcapture.flows import AnyFlow, Process, UdpFlow

PROCESSES = frozenset(
    {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"}
)
"""Audit events by which a process starts another."""

_REMEMBERED = 256
_kind_of: Any = vars(_socket.socket)["type"].__get__
_DATAGRAM = _socket.SOCK_DGRAM
_getpid = os.getpid  # tests patch it


class Signs:
    """Two counters that only grow, the connected sockets, and who sent where last."""

    def __init__(self) -> None:
        self.sent = 0
        self.started = 0
        self._connected: weakref.WeakSet[Any] = weakref.WeakSet()
        self._recipients: OrderedDict[tuple[Any, ...], int] = OrderedDict()
        self._process = Process()

    def starts(self) -> None:
        """Note that a process was started."""
        self.started += 1

    def sends(self, address: tuple[Any, ...], inode: int) -> None:
        """Note that a socket sends a datagram."""
        self.sent += 1
        self._recipients[address[:2]] = inode
        if len(self._recipients) > _REMEMBERED:
            self._recipients.popitem(last=False)

    def connects(self, sock: Any, address: tuple[Any, ...], inode: int) -> None:
        """Note a connect: what a socket for datagrams sends after that leaves no sign."""
        if _kind_of(sock) == _DATAGRAM:
            self.sends(address, inode)
            with suppress(TypeError):  # of another make
                self._connected.add(sock)

    def has_connected(self) -> bool:
        return bool(self._connected)

    def claim(self, flows: Iterable[AnyFlow | None]) -> None:
        """Name this process in the flows that rule 4 is about."""
        for flow in flows:
            if isinstance(flow, UdpFlow) and not flow.process.pid:
                known = self._recipients
                places = (flow.address or ("", 0), (flow.host, flow.port))
                inode = next((known[place] for place in places if place in known), 0)
                if inode:
                    flow.process, flow.inode = self._own_process(), inode

    def _own_process(self) -> Process:
        if self._process.pid != _getpid():
            from pytest_netcapture.redirect.processes import describe

            self._process = describe(_getpid())
        return self._process


signs = Signs()
