"""A program under the seccomp filter, and a supervisor that writes down what it sees.

`lab.run(function)` forks; the child installs the filter, hands its listener over and runs the
function, which may start any program. The supervisor's loop is a thread here. What the function
returns comes back; what it raises is raised here.
"""

from __future__ import annotations

import os
import pickle
import queue
import select
import signal
import socket
import traceback
import warnings

import pytest
from sink_lab import WAIT, SinkLab

from pytest_netcapture.redirect import seccomp_filter, seccomp_listener
from pytest_netcapture.redirect.poller import Poller
from pytest_netcapture.redirect.seccomp import SeccompRedirector
from pytest_netcapture.redirect.seccomp_memory import OwnMemory
from pytest_netcapture.redirect.seccomp_places import Places

LIMIT = 20
HOME = 1
OUTSIDE = ("198.51.100.7", 8080)
"""Nobody is there (RFC 5737): a connection to it that is not diverted cannot succeed."""


class Program:
    """A forked child. `result()` waits for what its function returned."""

    def __init__(self, lab, function):
        self.reader, writer = os.pipe()
        ours, theirs = socket.socketpair()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
            self.pid = os.fork()
        if not self.pid:
            os.close(self.reader)
            ours.close()
            _child(function, writer, theirs, sockets=lab.makes_sockets)
        os.close(writer)
        theirs.close()
        listener = seccomp_listener.receive(ours)
        ours.close()
        if listener >= 0:
            lab.supervise(listener, self.pid)

    def result(self):
        poll = select.poll()
        poll.register(self.reader, select.POLLIN | select.POLLHUP)
        data = b""
        try:
            while poll.poll(LIMIT * 1000):
                piece = os.read(self.reader, 1 << 16)
                if not piece:
                    break
                data += piece
            else:
                os.kill(self.pid, signal.SIGKILL)
        finally:
            os.close(self.reader)
            os.waitpid(self.pid, 0)
        assert data, "the program said nothing in time"
        kind, value = pickle.loads(data)
        if kind == "skip":
            pytest.skip(value)
        assert kind == "ok", value
        return value


def _child(function, writer, handover, *, sockets):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LIMIT + 5)
    try:
        listener = seccomp_filter.install(sockets=sockets)
        seccomp_listener.hand_over(listener, handover)
        handover.close()
        told = ("ok", function())
    except pytest.skip.Exception as skip:
        told = ("skip", str(skip))
    except BaseException:
        told = ("fail", traceback.format_exc())
    os.write(writer, pickle.dumps(told))
    os._exit(0)


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
