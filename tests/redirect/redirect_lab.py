"""A process with a network namespace of its own, for one test.

1. `@isolated` runs the whole test body in a forked child. There the main thread is the client: it is
   inside a new network namespace. The engine's side is a thread that stays outside. An
   ordinary user gets a user namespace first.
2. What the body raises is raised again in pytest. Nothing waits for ever: the child has an alarm.
3. `@isolated` alone gives a bare namespace (kernel facts); a body with the argument `lab` gets a running
   `TproxyRedirector`.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import os
import pickle
import queue
import signal
import socket
import struct
import threading
import traceback
import warnings
from concurrent.futures import Future

import pytest
from sink_lab import WAIT, SinkLab

from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect import ruleset
from pytest_netcapture.redirect.poller import Poller
from pytest_netcapture.redirect.tproxy import TproxyRedirector

LIMIT = 10
MACHINE = ("10.1.2.3", "fd00:1::3")
"""What a lab's machine has as its own addresses."""

_libc = ctypes.CDLL(None, use_errno=True)


class Skipped(Exception):
    pass


def isolated(body):
    """Run the test in a child process, in a network namespace."""
    wants_lab = "lab" in inspect.signature(body).parameters

    @functools.wraps(body)
    def test(**arguments):
        arguments.pop("lab", None)
        kind, text = _in_child(lambda: _run(body, arguments, wants_lab=wants_lab))
        if kind == "skip":
            pytest.skip(text)
        if kind != "ok":
            pytest.fail(text, pytrace=False)

    parameters = [p for n, p in inspect.signature(body).parameters.items() if n != "lab"]
    test.__signature__ = inspect.Signature(parameters)
    return test


def _run(body, arguments, *, wants_lab):
    enter_user_namespace()
    if not wants_lab:
        unshare(k.CLONE_NEWNET)
        body(**arguments)
        return
    lab = Lab()
    try:
        body(lab=lab, **arguments)
    finally:
        lab.close()


def _in_child(function):
    # Encoded before the fork, so that each child has it for nothing.
    for gate in (ruleset.NATIVE, ruleset.COMPAT):
        ruleset.batch(gate, ipv6=True)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
        pid = os.fork()
    if not pid:
        os.close(reader)
        _child(function, writer)
    os.close(writer)
    with open(reader, "rb") as file:
        told = file.read()
    _, status = os.waitpid(pid, 0)
    return pickle.loads(told) if told else ("fail", f"the child ended with status {status:#x}")


def _child(function, writer):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LIMIT)
    try:
        function()
        told = ("ok", "")
    except Skipped as skipped:
        told = ("skip", str(skipped))
    except BaseException:
        told = ("fail", traceback.format_exc())
    os.write(writer, pickle.dumps(told))
    os._exit(0)


def unshare(flags):
    if _libc.unshare(flags):
        number = ctypes.get_errno()
        raise Skipped(f"unshare({flags:#x}) is not allowed here: {os.strerror(number)}")


def enter_user_namespace():
    uid, gid = os.getuid(), os.getgid()
    if not uid:
        return
    unshare(k.CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def keep_capabilities(*numbers):
    """Give up all others (capset, version 3)."""
    low = sum(1 << number for number in numbers)
    header = struct.pack("=Ii", 0x20080522, 0)
    if _libc.capset(header, struct.pack("=6I", low, low, 0, 0, 0, 0)):
        raise OSError(ctypes.get_errno(), "capset")


class Space:
    """The namespace of a thread that was started inside it (`Namespace`)."""

    def __init__(self, number):
        self.id = number
        self._jobs = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self):
        while job := self._jobs.get():
            function, future = job
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

    def run(self, function):
        future = Future()
        self._jobs.put((function, future))
        return future.result(WAIT)

    def close(self):
        self._jobs.put(None)
        self.thread.join(WAIT)


class Lab(SinkLab):
    """A redirector with one namespace, which the calling thread enters."""

    def __init__(self, number=1, way=ruleset.NATIVE, kind=TproxyRedirector, **options):
        super().__init__()
        self.redirector = kind(addresses=MACHINE, **options)
        if kind is TproxyRedirector:
            self.redirector._way = way
        self.redirector.start(self.loop, self, Poller(self.loop))
        self._thread.start()
        unshare(k.CLONE_NEWNET)
        self.space = Space(number)
        self.redirector.attach(self.space)
        self.call(self.redirector.watch, self.space)

    def needs_gate(self):
        if not self.redirector.gates:
            raise Skipped("this kernel cannot gate")

    def close(self):
        """End the engine's side; idempotent."""
        if not self._thread.is_alive():
            return
        self.call(self.redirector.stop)
        self.space.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT)
        assert not self.errors, self.errors


def tcp(address, *, timeout=WAIT):
    """Connect to (host, port)."""
    conn = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    conn.settimeout(timeout)
    conn.connect(address)
    return conn


def udp(family=socket.AF_INET, *, timeout=WAIT):
    conn = socket.socket(family, socket.SOCK_DGRAM)
    conn.settimeout(timeout)
    return conn
