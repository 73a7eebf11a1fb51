"""Programs in a control group of their own, and a redirector that captures there and nowhere else.

`lab.run(function)` forks; the child enters the control group and runs the function, which may start any
program. The redirector's loop is a thread here. What the function returns comes back; what it raises is
raised here. No program of the kernel's is ever attached to a group that was not made here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import tempfile
import threading
import warnings

import pytest
from forked import Forked, tell
from sink_lab import WAIT, SinkLab

from pytest_netcapture.redirect import ebpf_calls, ebpf_probing
from pytest_netcapture.redirect.ebpf import EbpfRedirector
from pytest_netcapture.redirect.ebpf_targets import parse
from pytest_netcapture.redirect.poller import Poller
from pytest_netcapture.sandbox import cgroups

HOME = 1
OUTSIDE = ("198.51.100.7", 8080)
OUTSIDE_V6 = ("2001:db8:1::7", 8080)
"""Nobody is there (RFC 5737, RFC 3849): a connection to them that is not diverted cannot succeed."""


KINDS = (3, 10, 11, 14, 15, 19, 20, 29, 30, 31, 32)
ATTACHED = len(KINDS)
"""Of each kind of program (bpf_attach_type) one is attached."""


def needs_ebpf():
    """Skip where it does not work, with the true reason."""
    if os.geteuid():
        pytest.skip("needs real root")
    support = ebpf_probing.probe()
    if not support.available:
        pytest.skip(f"needs ebpf: {support.reason}")


class Group:
    """A control group that exists for one test."""

    def __init__(self):
        self.path = tempfile.mkdtemp(prefix="netcapture-test-", dir=cgroups.root())
        os.chmod(self.path, 0o755)  # as the kernel makes them

    def enter(self):
        """Move the calling process into it."""
        with open(f"{self.path}/cgroup.procs", "w") as file:
            file.write("0")

    def command(self, *command):
        """Return a command that runs another one in it."""
        return ["sh", "-c", 'echo $$ >"$0/cgroup.procs"; exec "$@"', self.path, *command]

    def pids(self):
        with open(f"{self.path}/cgroup.procs") as file:
            return [int(line) for line in file]

    def attached(self):
        """Count the programs that are attached to it (BPF_PROG_QUERY)."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return sum(ebpf_calls.attached(descriptor, kind) for kind in KINDS)
        finally:
            os.close(descriptor)

    def close(self):
        """Remove it, ending who is left: only what a test has started can be in it."""
        for _ in range(1000):
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
            try:
                os.rmdir(self.path)
                return
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
            select.select([], [], [], 0.01)
        raise AssertionError(f"{self.path} cannot be removed")


class Real:
    """A server that the machine really has; each connection is told that it is real."""

    def __init__(self):
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = self._server.getsockname()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join(WAIT)
        self._server.close()

    def ask(self):
        with socket.create_connection(self.address, timeout=WAIT) as conn:
            conn.sendall(b"question")
            return conn.recv(100).strip()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                conn, _ = self._server.accept()
                with conn:
                    conn.recv(100)
                    conn.sendall(b"real\n")


class Program(Forked):
    """A forked child in a group."""

    def __init__(self, function, group):
        reader, writer = os.pipe()
        super().__init__(reader)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
            self.pid = os.fork()
        if not self.pid:
            os.close(reader)
            tell(writer, lambda: group and group.enter(), function)
        os.close(writer)


class Lab(SinkLab):
    """A redirector that captures in `group`; `rules` as `netcapture local` has them."""

    def __init__(self, rules="", *, capture_loopback=False, group=None, made=None):
        super().__init__()
        self.group = group or Group()
        self._streams = []
        self._thread.start()
        self.places = {}
        try:
            self._capture(rules, capture_loopback, made)
        except BaseException:
            self.group.close()
            raise

    def _capture(self, rules, capture_loopback, made):
        self.redirector = EbpfRedirector(
            parse([rules]),
            self.group.path,
            lambda process: self.places.get(process, HOME),
            capture_loopback=capture_loopback,
            made=made,
        )
        self.call(self.redirector.start, self.loop, self, Poller(self.loop))

    def start(self, function, *, outside=False):
        return Program(function, None if outside else self.group)

    def run(self, function, *, outside=False):
        return self.start(function, outside=outside).result()

    def answer(self, syn, verdict):
        self.call(syn.answer, verdict)

    def stream_opened(self, stream):
        self._streams.append(stream)
        super().stream_opened(stream)

    def close(self):
        self.call(self.redirector.stop)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT)
        self.loop.close()
        for stream in self._streams:
            stream.socket.close()
        self.group.close()
        assert not self.errors, self.errors
