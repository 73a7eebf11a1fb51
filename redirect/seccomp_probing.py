"""Finds out whether a seccomp filter can be supervised here, by doing it to a process of its own.

1. Never raises and changes nothing: a process of one thread is started, whose child installs the
   filter, hands its listener over and connects; the parent does all that the engine would do.
2. What is reported works under Yama as well: there the engine looks through an ancestor, too.

Tests: test_seccomp_probing.py.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from dataclasses import asdict

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import seccomp_ancestor, seccomp_filter
from pytest_netcapture.redirect.base import Support
from pytest_netcapture.redirect.seccomp_listener import Listener, hand_over, receive
from pytest_netcapture.redirect.seccomp_memory import OwnMemory, own_memory, unreadable
from pytest_netcapture.redirect.seccomp_routes import has_ipv6
from pytest_netcapture.redirect.seccomp_sending import read_name
from pytest_netcapture.redirect.seccomp_sockets import Sockets

NAME = "seccomp"
_TIMEOUT = 30
_PATIENCE_MS = 5000
_SERVER = ("192.0.2.1", 9)
_NO_DUPLICATES = (
    "pidfd_getfd is forbidden (as by Docker's default profile), so programs' sockets are made by "
    "the engine: of those that are bound before they connect, options and port are lost"
)
_YAMA = (
    "kernel.yama.ptrace_scope is 1: pytest splits, and the process that it was started as only "
    "waits"
)
_NO_IPV6 = "there is no ::1 here: only IPv4 is captured"


def probe() -> Support:
    """Try it in a process of its own. Takes 0.2 s."""
    import json
    import subprocess
    import sys

    code = "from pytest_netcapture.redirect.seccomp_probing import child; child()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, timeout=_TIMEOUT, check=False
        )
        told = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return _no(f"the probe took more than {_TIMEOUT} s")
    except ValueError:
        tail = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return _no(f"the probe's process failed: {tail}")
    except OSError as error:
        return _no(f"no process can be started: {error.strerror}")
    return Support(**{**told, "notes": tuple(told["notes"])})


def child() -> None:
    """Try, and print the result as JSON."""
    import json

    try:
        support = _try()
    except EnvironmentProblem as problem:
        support = _no(problem.message, problem.cure)
    except Exception as error:
        support = _no(f"the probe failed: {error!r}")
    print(json.dumps(asdict(support)))


def _no(reason: str, cure: str = "") -> Support:
    return Support(NAME, available=False, reason=reason, cure=cure)


def _try() -> Support:
    notes = [_YAMA] if seccomp_ancestor.is_needed() else []
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _be_supervised(theirs, writer)
    theirs.close()
    os.close(writer)
    try:
        listener = receive(ours)
        duplicates = listener >= 0 and _supervise(Listener(listener), pid)
        told = os.read(reader, 4096).decode()
    finally:
        os.waitpid(pid, 0)
    if told != errno.errorcode[errno.ECONNREFUSED]:
        reason, _, cure = told.partition("\0")
        return _no(reason or "the supervised process said nothing", cure)
    notes += [] if duplicates else [_NO_DUPLICATES]
    notes += [] if has_ipv6() else [_NO_IPV6]
    return Support(NAME, available=True, notes=tuple(notes))


def _be_supervised(theirs: socket.socket, writer: int) -> None:
    """Connect; say what came of it. Never returns."""
    try:
        hand_over(seccomp_filter.install(), theirs)
        theirs.close()
        with socket.socket() as sock:
            number = sock.connect_ex(_SERVER)
        told = errno.errorcode.get(number, str(number))
    except EnvironmentProblem as problem:
        told = f"{problem.message}\0{problem.cure}"
    except BaseException as error:
        told = repr(error)
    os.write(writer, told.encode())
    os._exit(0)


def _supervise(listener: Listener, process: int) -> bool:
    """Refuse one connect, having looked at all of it; tell whether its socket was duplicated."""
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    try:
        while poll.poll(_PATIENCE_MS):
            note = listener.take()
            if note is None:
                continue
            if note.call != "connect":
                listener.go_on(note)
                continue
            memory = own_memory()
            try:
                name = read_name(memory, note.thread, note.arguments[1], note.arguments[2])
            except OSError as error:
                raise unreadable(error) from error
            if name is None or name.address != _SERVER:
                raise EnvironmentProblem(f"seccomp: connect({_SERVER}) was seen as {name}")
            duplicates = _may_duplicate(memory, process, note.descriptor)
            sockets = Sockets(listener, memory, duplicates=duplicates)
            if sockets.take(note, process) is None:
                raise EnvironmentProblem("seccomp: a program's socket cannot be reached")
            listener.fail(note, errno.ECONNREFUSED)
            return duplicates
        raise EnvironmentProblem("seccomp: the kernel told nothing of a connect")
    finally:
        listener.close()


def _may_duplicate(memory: OwnMemory, process: int, descriptor: int) -> bool:
    try:
        os.close(memory.duplicate(process, descriptor))
    except OSError:
        return False
    return True
