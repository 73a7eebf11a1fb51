"""Ends the connections of namespaces whose engine was killed: without its device nobody else would.

1. It is a process, as it has to outlive the engine; one for all namespaces, started with the first.
   It sleeps until the engine's end of their socket closes, ends what there is, and ends.
2. For each namespace it is given a diagnostic socket, by which the kernel can be told to abort
   connections (SOCK_DESTROY): the programs see ECONNABORTED.
3. A connection whose other end is in the namespace, too, goes on.
4. A kernel without CONFIG_INET_DIAG_DESTROY refuses; a client that only reads then waits until the
   run stops.

Kernel: include/uapi/linux/sock_diag.h. Tests: tests/conformance.
"""

from __future__ import annotations

import array
import contextlib
import socket
import struct
import subprocess
import sys

from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect import netlink, sockdiag

_NUMBER = struct.Struct("=q")
_REQUEST = struct.Struct("=BBBBI")
_CODE = "import sys; sys.path[:] = sys.argv[1:]; from {0} import main; main()"
_ID_AT, _ID_END = 4, 52
_OVER = frozenset({k.TCP_TIME_WAIT, k.TCP_CLOSE, k.TCP_LISTEN})


class Guard:
    """The engine's end."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        command = [sys.executable, "-I", "-S", "-c", _CODE.format(__name__), *sys.path]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def watch(self, namespace: int) -> None:
        """Guard the calling thread's namespace, known as `namespace` from now on."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        with socket.socket(socket.AF_NETLINK, kind, k.NETLINK_SOCK_DIAG) as diag:
            given = array.array("i", [diag.fileno()])
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, given)]
            with contextlib.suppress(OSError):
                self._socket.sendmsg([_NUMBER.pack(namespace)], rights)

    def forget(self, namespace: int) -> None:
        with contextlib.suppress(OSError):
            self._socket.send(_NUMBER.pack(namespace))

    def close(self) -> None:
        """Let it end what it still guards, and wait until it has; idempotent."""
        if self._socket.fileno() >= 0:
            self._socket.close()
            self._process.wait()


def main() -> None:
    """Be the process; standard input is the socket."""
    engine = socket.socket(fileno=0)
    guarded: dict[int, socket.socket] = {}
    while True:
        data, given, _, _ = socket.recv_fds(engine, _NUMBER.size, 1)
        if len(data) < _NUMBER.size:
            break
        (namespace,) = _NUMBER.unpack(data)
        if given:
            guarded[namespace] = socket.socket(fileno=given[0])
        else:
            guarded.pop(namespace).close()
    for diag in guarded.values():
        with contextlib.suppress(OSError):
            _end_connections(diag)


def _end_connections(diag: socket.socket) -> None:
    found = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        found.update({_ends(identity): (family, identity) for identity in _dump(diag, family)})
    for ends, (family, identity) in found.items():
        if _turned(ends) not in found:
            head = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, k.TCP_ALL_STATES)
            diag.send(netlink.message(k.SOCK_DESTROY, head + identity))
            with contextlib.suppress(BlockingIOError):
                diag.recv(4096, socket.MSG_DONTWAIT)


def _dump(diag: socket.socket, family: int) -> list[bytes]:
    """Return what the kernel names each connection of a family by (struct inet_diag_sockid)."""
    found: list[bytes] = []
    diag.send(sockdiag.encode_dump(family, socket.IPPROTO_TCP))
    while True:
        data = diag.recv(65536)
        for kind, _, body in netlink.messages(data):
            if kind == k.SOCK_DIAG_BY_FAMILY and len(body) >= _ID_END and body[1] not in _OVER:
                found.append(bytes(body[_ID_AT:_ID_END]))
        if sockdiag.is_last(data):
            return found


def _ends(identity: bytes) -> tuple[bytes, bytes]:
    return identity[:2] + identity[4:20], identity[2:4] + identity[20:36]


def _turned(ends: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    return ends[1], ends[0]
