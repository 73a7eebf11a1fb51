"""The redirector for where no user namespace may be made: a seccomp filter asks the engine.

1. The filter (seccomp_filter.py) stops the calls by which a program reaches the network; each
   waits for an answer (seccomp_calls.py). Nothing else of a program is touched, and no privilege
   is needed.
2. There are no namespaces: a *place* (seccomp_places.py) stands for each.
3. A program that may not be looked into (seccomp_memory.py) is refused what looks like a connection
   (EACCES), and the engine is told.
4. Every call is answered, at once or by who took it over; a bug of ours is EIO and a traceback.
   With the engine dead the kernel answers ENOSYS to all of them.

Kernel: seccomp_unotify(2). Tests: test_seccomp.py.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from pytest_netcapture.redirect.base import Address, Namespace, Sink
from pytest_netcapture.redirect.poller import Poller
from pytest_netcapture.redirect.seccomp_calls import Calls
from pytest_netcapture.redirect.seccomp_listener import Listener, Notification
from pytest_netcapture.redirect.seccomp_memory import Memory
from pytest_netcapture.redirect.seccomp_places import Places
from pytest_netcapture.redirect.seccomp_probing import probe

__all__ = ["SeccompRedirector", "probe"]

_ADDRESS_LENGTHS = frozenset({16, 28})
_LONGEST_UNIX = 110
_ITS_OWN = frozenset({errno.EFAULT, errno.ESRCH, errno.ENOENT, errno.EBADF})
"""Bad arguments, or the program has ended: the kernel finds the same and says so."""


class SeccompRedirector:
    """Captures what the processes under one filter connect to (`Redirector`)."""

    name = "seccomp"
    gates = True
    isolates = False

    def __init__(
        self, places: Places, memory: Memory, *, duplicates: bool, name_servers: Sequence[str]
    ) -> None:
        """`duplicates`: pidfd_getfd(2) is allowed. `name_servers`: of resolv.conf."""
        self._places = places
        self._memory = memory
        self._duplicates = duplicates
        self._name_servers = name_servers
        self._loop: Any = None
        self._sink: Sink | None = None
        self._listener: Listener | None = None
        self._calls: Calls | None = None

    def start(self, loop: Any, sink: Sink, poller: Poller) -> None:
        del poller  # its own descriptors are few and stay
        self._loop, self._sink = loop, sink

    def supervise(self, descriptor: int) -> None:
        """Begin to answer for a filter, whose listener this is. Called once, after `start`."""
        assert self._sink is not None, "start comes before supervise"
        self._listener = Listener(descriptor)
        self._calls = Calls(
            self._loop,
            self._sink,
            self._listener,
            self._memory,
            self._places,
            duplicates=self._duplicates,
            name_servers=self._name_servers,
        )
        self._loop.add_reader(descriptor, self._readable, self._listener, self._calls)

    def attach(self, namespace: Namespace) -> None:
        """Do nothing: a place is no namespace, and the filter is there from the start."""

    def watch(self, namespace: Namespace) -> None:
        """Do nothing."""

    def drain(self, namespace: Namespace) -> None:
        del namespace
        if self._calls is not None:
            self._calls.drain()

    def renew(self, namespace: Namespace) -> None:
        """Do nothing: no place is used twice."""

    def detach(self, namespace: Namespace) -> None:
        """Do nothing."""

    def stop(self) -> None:
        if self._listener is not None and self._calls is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._calls.close()
            self._listener = self._calls = None

    def owner(self, protocol: int, client: Address) -> tuple[int, int]:
        """Return the inode and the process of a client's socket, (0, 0) when it is not known."""
        return self._calls.owner(protocol, client) if self._calls is not None else (0, 0)

    def _readable(self, listener: Listener, calls: Calls) -> None:
        note = listener.take()
        if note is None:
            return
        try:
            calls.handlers[note.call](note)
        except PermissionError:
            self._unreadable(note, listener, calls)
        except OSError as error:
            if error.errno in _ITS_OWN:
                listener.go_on(note)
            else:
                listener.fail(note, error.errno or errno.EIO)
        except Exception:
            import traceback

            traceback.print_exc()
            listener.fail(note, errno.EIO)

    def _unreadable(self, note: Notification, listener: Listener, calls: Calls) -> None:
        length = note.arguments[{"connect": 2, "sendto": 5}.get(note.call, 0)] & 0xFFFF_FFFF
        if note.call not in {"connect", "sendto"} or not (
            length in _ADDRESS_LENGTHS or length > _LONGEST_UNIX
        ):
            listener.go_on(note)
            return
        listener.fail(note, errno.EACCES)
        caller = calls.caller(note)
        assert self._sink is not None
        self._sink.unreadable(caller.place, caller.process)
