"""A program under the seccomp filter, and a supervisor that writes down what it sees.

`lab.run(function)` forks; the child installs the filter, hands its listener over and runs the
function, which may start any program. The supervisor's loop is a thread here. What the function
returns comes back; what it raises is raised here.
"""

from __future__ import annotations

import os
import queue
import socket
import warnings

from forked import Forked, tell
from sink_lab import WAIT, SinkLab

from pytest_netcapture.redirect import seccomp_filter, seccomp_listener
from pytest_netcapture.redirect.poller import Poller
from pytest_netcapture.redirect.seccomp import SeccompRedirector
from pytest_netcapture.redirect.seccomp_memory import OwnMemory
from pytest_netcapture.redirect.seccomp_places import Places

HOME = 1
OUTSIDE = ("198.51.100.7", 8080)
"""Nobody is there (RFC 5737): a connection to it that is not diverted cannot succeed."""


class Program(Forked):
    """A forked child under a filter."""

    def __init__(self, lab, function):
        reader, writer = os.pipe()
        super().__init__(reader)
        ours, theirs = socket.socketpair()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
            self.pid = os.fork()
        if not self.pid:
            os.close(reader)
            ours.close()
            _child(function, writer, theirs, sockets=lab.makes_sockets)
        os.close(writer)
        theirs.close()
        listener = seccomp_listener.receive(ours)
        ours.close()
        if listener >= 0:
            lab.supervise(listener, self.pid)


def _child(function, writer, handover, *, sockets):
    def prepare():
        listener = seccomp_filter.install(sockets=sockets)
        seccomp_listener.hand_over(listener, handover)
        handover.close()

    tell(writer, prepare, function)


class Lab(SinkLab):
    """A supervisor; `alone` is what it says of connections within the machine."""

    def __init__(
        self, *, duplicates=True, makes_sockets=False, name_servers=("192.0.2.53",), memory=None
    ):
        super().__init__()
        self.alone = True
        self.left = queue.SimpleQueue()
        self.unreadable_ones = queue.SimpleQueue()
        self._streams = []
        self.duplicates = duplicates
        self.makes_sockets = makes_sockets
        self._name_servers = name_servers
        self._memory = memory or OwnMemory()
        self.redirectors = []
        self._thread.start()

    def supervise(self, listener, pid):
        self.places = Places(pid, HOME, lambda: None)
        redirector = SeccompRedirector(
            self.places,
            self._memory,
            duplicates=self.duplicates,
            name_servers=self._name_servers,
        )
        self.redirectors.append(redirector)
        redirector.start(self.loop, self, Poller(self.loop))
        self.call(redirector.supervise, listener)

    def start(self, function):
        return Program(self, function)

    def run(self, function):
        return self.start(function).result()

    def answer(self, syn, verdict):
        self.call(syn.answer, verdict)

    # the sink
    def stream_opened(self, stream):
        self._streams.append(stream)
        super().stream_opened(stream)

    def left_alone(self, syn):
        self.left.put(syn)
        return self.alone

    def unreadable(self, namespace, process):
        self.unreadable_ones.put((namespace, process))

    # what tests ask
    def syn(self):
        """Return the next question, when all that the redirector does for it by itself is done."""
        syn = super().syn()
        self.call(lambda: None)
        return syn

    def close(self):
        def stop():
            for redirector in self.redirectors:
                redirector.stop()

        self.call(stop)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT)
        self.loop.close()
        for stream in self._streams:
            stream.socket.close()
        assert not self.errors, self.errors
