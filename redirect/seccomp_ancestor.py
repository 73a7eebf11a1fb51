"""An ancestor that looks into programs for the engine, where Yama lets nobody else.

1. With kernel.yama.ptrace_scope = 1 a process may look into its descendants only, and the engine
   has none. So the process that is about to run tests splits: its parent half, with the number that
   everybody knows, only waits from then on; the other half runs the tests.
2. The parent half is transparent: it ends as its child does, passes on what is sent to it (not what
   a terminal sends to all of its group), stops and continues with it. When it is killed, so is
   the child (PR_SET_PDEATHSIG).
3. Orphans become its children, so that daemons are its descendants as well; it reaps them.
4. It serves its own descendants only, so that nobody gains what Yama takes from them.
5. It takes one thread: the other half has none of the others. An xdist controller splits for all of
   its workers, who find it by the environment (`VARIABLE`).

Kernel: Documentation/admin-guide/LSM/Yama.rst, prctl(2). Tests: test_seccomp_ancestor.py.
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import resource
import select
import signal
import socket
import struct
import sys
from typing import NoReturn

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect.seccomp_memory import OwnMemory, own_memory
from pytest_netcapture.redirect.seccomp_places import read_start

VARIABLE = "NETCAPTURE_ANCESTOR"
SCOPE_FILE = "/proc/sys/kernel/yama/ptrace_scope"

_READ, _WRITE, _DUPLICATE = 1, 2, 3
_REQUEST = struct.Struct("<BiQQ")
_REPLY = struct.Struct("<i")
_PIECE = 1 << 16
_PATIENCE = struct.pack("@ll", 2, 0)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CAP_SYS_PTRACE = 19
_SIGINFO = struct.Struct("=IiiI112x")
_CREDENTIALS = struct.Struct("=iII")
_OWN_STOPS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT}
_DEEPEST = 64
_libc = ctypes.CDLL(None, use_errno=True)


def ptrace_scope(path: str = SCOPE_FILE) -> int:
    """Return what Yama allows: 0 everything, 1 descendants, 2 privilege only, 3 nothing."""
    try:
        with open(path, "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def is_needed() -> bool:
    """Tell whether only an ancestor may look. Raises `EnvironmentProblem` if nobody may."""
    scope = ptrace_scope()
    if scope == 0 or (scope < 3 and _may_trace()):
        return False
    if scope == 1:
        return True
    raise EnvironmentProblem(
        f"seccomp: kernel.yama.ptrace_scope is {scope}: no program may look into another",
        cure="sudo sysctl -w kernel.yama.ptrace_scope=1 (from 3 only by a reboot)",
        slug="docs/redirectors.md#seccomp",
    )


def answers(name: str) -> bool:
    """Tell whether an ancestor of that name is there, and would serve us."""
    try:
        memory = AncestorsMemory(name)
    except OSError:
        return False
    try:
        memory.read(os.getpid(), 0, 1)
    except ConnectionError:
        return False
    except OSError:  # nothing is at address 0: it has looked
        return True
    finally:
        memory.close()
    return True


def split() -> str:
    """Return, in a new process, the name by which the engine finds the old one.

    The old one never returns. The caller has one thread.
    """
    name = f"netcapture-{os.urandom(16).hex()}"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(f"\0{name}")
    listening.listen(16)
    sys.stdout.flush()
    sys.stderr.flush()
    ours = {int(number) for number in signal.valid_signals()} - _OWN_STOPS
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ours)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    parent = os.getpid()
    child = os.fork()
    if child:
        _Ancestor(child, listening, ours).run()
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    listening.close()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return name


def _may_trace() -> bool:
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"CapEff:"):
                return bool(int(line[7:], 16) >> _CAP_SYS_PTRACE & 1)
    return False


class _Ancestor:
    """The half that waits."""

    def __init__(self, child: int, listening: socket.socket, signals: set[int]) -> None:
        self._child = child
        self._listening = listening
        self._memory = own_memory()
        self._signals = _signal_descriptor(signals)
        self._clients: dict[int, socket.socket] = {}
        self._poll = select.poll()
        self._poll.register(listening, select.POLLIN)
        self._poll.register(self._signals, select.POLLIN)

    def run(self) -> NoReturn:
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._signals:
                    self._take_signal()
                elif descriptor == self._listening.fileno():
                    self._accept()
                else:
                    self._serve(self._clients[descriptor])

    def _take_signal(self) -> None:
        number, _, code, sender = _SIGINFO.unpack(os.read(self._signals, _SIGINFO.size))
        if number == signal.SIGCHLD:
            self._reap()
        elif code <= 0 and sender != self._child:  # sent by a process, not by a terminal
            os.kill(self._child, number)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == self._child:
                _end_alike(status)
            if not pid:
                return

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if is_descendant(_CREDENTIALS.unpack(peer)[0], os.getpid()):
            self._clients[client.fileno()] = client
            self._poll.register(client, select.POLLIN)
        else:
            client.close()

    def _serve(self, client: socket.socket) -> None:
        request = b""
        try:
            request = client.recv(_REQUEST.size + _PIECE)
            if request:
                _answer(client, self._memory, request)
        except OSError:
            request = b""
        if not request:
            self._poll.unregister(client)
            del self._clients[client.fileno()]
            client.close()


def _answer(client: socket.socket, memory: OwnMemory, request: bytes) -> None:
    kind, thread, address, number = _REQUEST.unpack_from(request)
    data, rights = b"", -1
    try:
        if kind == _READ:
            data = memory.read(thread, address, min(number, _PIECE))
        elif kind == _WRITE:
            memory.write(thread, address, request[_REQUEST.size :])
        else:
            rights = memory.duplicate(thread, number)
    except OSError as error:
        client.send(_REPLY.pack(error.errno or errno.EIO))
        return
    if rights < 0:
        client.send(_REPLY.pack(0) + data)
        return
    descriptors = array.array("i", [rights])
    try:
        client.sendmsg([_REPLY.pack(0)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    finally:
        os.close(rights)


def is_descendant(process: int, ancestor: int) -> bool:
    for _ in range(_DEEPEST):
        if process == ancestor:
            return True
        started = read_start(process)
        if started is None or started.parent <= 0:
            return False
        process = started.parent
    return False


def _end_alike(status: int) -> NoReturn:
    """End as the child has ended, without another core."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _signal_descriptor(signals: set[int]) -> int:
    """Return a descriptor that tells of signals, which are blocked (signalfd(2))."""
    mask = bytearray(128)
    for number in signals:
        mask[(number - 1) // 8] |= 1 << (number - 1) % 8
    descriptor = _libc.signalfd(-1, bytes(mask), os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "signalfd")
    return int(descriptor)


class AncestorsMemory:
    """Looks through the ancestor (`Memory`)."""

    def __init__(self, name: str) -> None:
        """Find it by its name. Raises OSError when nobody has that."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
        try:
            self._socket.connect(f"\0{name}")
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def read(self, thread: int, address: int, length: int) -> bytes:
        data = b""
        while len(data) < length:
            wanted = min(length - len(data), _PIECE)
            piece, _ = self._ask(_READ, thread, address + len(data), wanted)
            data += piece
            if len(piece) < wanted:
                break
        return data

    def write(self, thread: int, address: int, data: bytes) -> None:
        for at in range(0, len(data), _PIECE):
            self._ask(_WRITE, thread, address + at, 0, data[at : at + _PIECE])

    def duplicate(self, process: int, descriptor: int) -> int:
        return self._ask(_DUPLICATE, process, 0, descriptor)[1]

    def _ask(
        self, kind: int, thread: int, address: int, number: int, data: bytes = b""
    ) -> tuple[bytes, int]:
        self._socket.send(_REQUEST.pack(kind, thread, address, number) + data)
        reply, ancillary, _, _ = self._socket.recvmsg(
            _REPLY.size + _PIECE, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
        )
        if not reply:
            raise ConnectionError(errno.ECONNRESET, "the ancestor has ended")
        failed = _REPLY.unpack_from(reply)[0]
        if failed:
            raise OSError(failed, os.strerror(failed))
        rights = [content for _, kind_, content in ancillary if kind_ == socket.SCM_RIGHTS]
        descriptor = array.array("i", rights[0][:4])[0] if rights else -1
        return reply[_REPLY.size :], descriptor
