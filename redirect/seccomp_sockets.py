"""The captured programs' own sockets, in the engine's hands.

1. `take` returns a duplicate of a program's socket: what is done to it is done to theirs. `release`
   it as soon as the call is answered: a duplicate keeps open what its program has closed.
2. Where pidfd_getfd(2) is forbidden (Docker's default profile), programs' sockets are made by the
   engine (`make`, in answer to their socket(2)), which keeps a duplicate of each until it is
   connected, or bound to a port: what was closed must not keep its port.
3. A socket that was not made so (it is older than the filter, was bound, or is one too many) is
   replaced at its first use by one that was. It keeps its file flags; its options, its local port
   and its place in an epoll set are lost.
4. Duplicates of UDP sockets are kept for as long as there is room: there is no other way to them
   when their datagrams are received (seccomp_datagrams.py).
5. The inode that is told is that of the socket on which the program's code made its call, so that
   a stack that was noted there is found again (stacks.py).

Kernel: seccomp_unotify(2), socket(7), proc_pid_fdinfo(5).
Tests: test_seccomp.py, test_seccomp_datagrams.py.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections import OrderedDict
from typing import NamedTuple

from pytest_netcapture.redirect.seccomp_listener import Listener, Notification
from pytest_netcapture.redirect.seccomp_memory import Memory

_OURS = 4096
_KEPT = 512
"""How many of the sockets that we made are known, and how many duplicates of them are kept."""

_PROTOCOLS = {
    b"TCP": (socket.AF_INET, socket.SOCK_STREAM),
    b"TCPv6": (socket.AF_INET6, socket.SOCK_STREAM),
    b"MPTCP": (socket.AF_INET, socket.SOCK_STREAM),
    b"MPTCPv6": (socket.AF_INET6, socket.SOCK_STREAM),
    b"UDP": (socket.AF_INET, socket.SOCK_DGRAM),
    b"UDPv6": (socket.AF_INET6, socket.SOCK_DGRAM),
}
"""What the kernel calls a socket's protocol (the attribute `system.sockprotoname`)."""

_UNSEEN = frozenset(
    f"{name}{version}".encode()
    for name in ("RAW", "PING", "SCTP", "UDP-Lite", "UDPLITE", "DCCP")
    for version in ("", "v6")
)
_TCP_CLOSE = 7
_TIME = struct.Struct("@ll")


class Taken(NamedTuple):
    """A program's socket; `inode` is the number that its code knows it by."""

    socket: socket.socket
    inode: int


class Sockets:
    """Gets at the sockets of calls that wait."""

    def __init__(self, listener: Listener, memory: Memory, *, duplicates: bool) -> None:
        self._listener = listener
        self._memory = memory
        self._duplicates = duplicates
        self._ours: OrderedDict[int, None] = OrderedDict()
        self._kept: OrderedDict[int, socket.socket] = OrderedDict()

    def make(self, note: Notification) -> None:
        """Make the socket that a program asks for, and answer its call. Raises OSError."""
        family, kind, protocol = (n & 0xFFFF_FFFF for n in note.arguments[:3])
        sock = socket.socket(family, kind & ~socket.SOCK_CLOEXEC, protocol)
        try:
            self._listener.give(note, sock.fileno(), cloexec=bool(kind & socket.SOCK_CLOEXEC))
        except OSError:
            sock.close()
            raise
        self._keep(sock)

    def take(self, note: Notification, process: int) -> Taken | None:
        """Return the TCP or UDP socket that the call's first argument names; `release` it.

        None: it is ours and has been used; the kernel knows what the call comes to. Raises OSError.
        """
        if self._duplicates:
            sock = socket.socket(fileno=self._memory.duplicate(process, note.descriptor))
            return Taken(sock, os.fstat(sock.fileno()).st_ino)
        inode = inode_of(note)
        kept = self._kept.get(inode)
        if kept is None:
            return None if inode in self._ours else Taken(self._replace(note), inode)
        if kept.type == socket.SOCK_STREAM:
            return Taken(self._kept.pop(inode), inode)
        self._kept.move_to_end(inode)
        return Taken(_duplicate(kept), inode)

    def find(self, process: int, descriptor: int, inode: int) -> socket.socket | None:
        """Return a duplicate, to be closed, of a socket seen before; None if it is gone."""
        if inode in self._kept:
            return _duplicate(self._kept[inode])
        if not self._duplicates:
            return None
        try:
            sock = socket.socket(fileno=self._memory.duplicate(process, descriptor))
        except OSError:
            return None
        if os.fstat(sock.fileno()).st_ino == inode:
            return sock
        sock.close()
        return None

    def release(self, sock: socket.socket, *, unused: bool = False) -> None:
        """Let go of what was taken. `unused`: its program may connect it yet."""
        if unused and not self._duplicates:
            self._keep(sock)
        else:
            sock.close()

    def binds(self, note: Notification, port: int) -> None:
        """Let go of what is about to be bound, and of who may have had the port before."""
        inode = inode_of(note)
        kept = self._kept.get(inode)
        if kept is not None and (port or kept.type == socket.SOCK_STREAM):
            self._drop(inode)
        if port:
            for number in [n for n, one in self._kept.items() if one.getsockname()[1] == port]:
                self._drop(number)

    def close(self) -> None:
        for inode in list(self._kept):
            self._drop(inode)

    def _replace(self, note: Notification) -> socket.socket:
        flags = file_flags(note)
        family, kind = _PROTOCOLS[protocol_of(note)]
        sock = socket.socket(family, kind)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fcntl.fcntl(sock.fileno(), fcntl.F_SETFL, flags & os.O_NONBLOCK)
        try:
            cloexec = bool(flags & os.O_CLOEXEC)
            self._listener.replace(note, sock.fileno(), note.descriptor, cloexec=cloexec)
        except OSError:
            sock.close()
            raise
        if kind == socket.SOCK_DGRAM:
            self._keep(_duplicate(sock))
        else:
            self._know(os.fstat(sock.fileno()).st_ino)
        return sock

    def _keep(self, sock: socket.socket) -> None:
        inode = os.fstat(sock.fileno()).st_ino
        self._know(inode)
        self._kept[inode] = sock
        if len(self._kept) > _KEPT:
            self._drop(next(iter(self._kept)))

    def _know(self, inode: int) -> None:
        self._ours[inode] = None
        if len(self._ours) > _OURS:
            self._ours.popitem(last=False)

    def _drop(self, inode: int) -> None:
        """Forget that it is ours: it will be replaced if it is used after all."""
        self._ours.pop(inode, None)
        self._kept.pop(inode).close()


def _duplicate(sock: socket.socket) -> socket.socket:
    """Return a duplicate. `dup` would set whether the file may wait, for its program as well."""
    return socket.socket(fileno=os.dup(sock.fileno()))


def inode_of(note: Notification) -> int:
    """Return the inode of the socket that the call's first argument names; 0 if it is none."""
    try:
        link = os.readlink(f"/proc/{note.thread}/fd/{note.descriptor}")
    except OSError:
        return 0
    return int(link[8:-1]) if link.startswith("socket:[") else 0


def file_flags(note: Notification) -> int:
    """Return the flags of the call's descriptor, O_CLOEXEC among them. Raises OSError."""
    with open(f"/proc/{note.thread}/fdinfo/{note.descriptor}", "rb") as file:
        for line in file:
            if line.startswith(b"flags:"):
                return int(line[6:], 8)
    return 0


def protocol_of(note: Notification) -> bytes:
    """Return what the kernel calls the protocol of the call's socket; b"" if that is not known."""
    try:
        name = os.getxattr(f"/proc/{note.thread}/fd/{note.descriptor}", "system.sockprotoname")
    except OSError:
        return b""
    return name.rstrip(b"\0")


def is_stream(protocol: bytes) -> bool:
    """Tell whether it is TCP."""
    return protocol in _PROTOCOLS and _PROTOCOLS[protocol][1] == socket.SOCK_STREAM


def is_datagram(protocol: bytes) -> bool:
    """Tell whether it is UDP."""
    return protocol in _PROTOCOLS and _PROTOCOLS[protocol][1] == socket.SOCK_DGRAM


def is_unseen(protocol: bytes) -> bool:
    """Tell whether it is of IP, and neither TCP nor UDP: nothing of it may leave."""
    return protocol in _UNSEEN


def is_fresh(sock: socket.socket) -> bool:
    """Tell whether a TCP socket has never been connected, nor listens (tcp(7), TCP_INFO)."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE


def is_blocking(sock: socket.socket) -> bool:
    """Tell what its program has set: the flag is one for all duplicates."""
    return not fcntl.fcntl(sock.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK


def send_timeout(sock: socket.socket) -> float:
    """Return the seconds that a connect may take (SO_SNDTIMEO), 0 for no limit."""
    value = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIME.size)
    seconds, micro = _TIME.unpack(value)
    return float(seconds + micro / 1e6)


class unblocked:  # noqa: N801 - a context manager
    """Have calls on a program's socket not wait; its own flag comes back afterwards."""

    def __init__(self, sock: socket.socket) -> None:
        self._descriptor = sock.fileno()

    def __enter__(self) -> None:
        self._flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        if not self._flags & os.O_NONBLOCK:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, self._flags | os.O_NONBLOCK)

    def __exit__(self, *_: object) -> None:
        if not self._flags & os.O_NONBLOCK:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, self._flags)
