"""Receiving on a diverted UDP socket, with the server's address in the place of ours.

1. Only calls that want an address come here (`recvfrom`, `recvmsg`, `recvmmsg`), and only those on
   a socket with a path (seccomp_datagrams.py) are done here; the kernel does all others.
2. The engine receives from the program's socket and writes into its memory: data, address, control
   messages, flags. `recvmmsg` returns one message.
3. A call that may wait does so here, until something comes, or the socket's own time-out
   (SO_RCVTIMEO). Nothing is taken from the socket for a call that waits no more (a signal came).
4. The loop must not watch a program's socket itself: libuv would make it non-blocking, for the
   program, too. It watches an epoll(7) set of them.

Tests: test_seccomp_datagrams.py.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from typing import Any, NamedTuple

from pytest_netcapture.redirect import seccomp_messages as messages
from pytest_netcapture.redirect.seccomp_datagrams import Datagrams
from pytest_netcapture.redirect.seccomp_listener import Listener, Notification
from pytest_netcapture.redirect.seccomp_memory import Memory
from pytest_netcapture.redirect.seccomp_sending import pieces_of
from pytest_netcapture.redirect.seccomp_sockets import is_blocking

_MOST = 1 << 16
_LOOK_AROUND = 5.0
"""Seconds between looks for calls that were withdrawn while they waited."""

_TIME = struct.Struct("@ll")
_LENGTH = struct.Struct("<I")
_PASSED_ON = socket.MSG_PEEK | socket.MSG_TRUNC


class _Wanted(NamedTuple):
    """Where the program wants what; an address of 0 means nowhere."""

    pieces: tuple[tuple[int, int], ...]
    name: int
    name_room: int
    name_length_at: int
    control: int = 0
    control_room: int = 0
    header: int = 0
    several: bool = False

    @property
    def size(self) -> int:
        return min(sum(length for _, length in self.pieces), _MOST)


class Receiving:
    """Deals with receiving calls on sockets that have a path."""

    def __init__(self, loop: Any, listener: Listener, memory: Memory, datagrams: Datagrams) -> None:
        self._loop = loop
        self._listener = listener
        self._memory = memory
        self._datagrams = datagrams
        self._waiting: dict[int, _Wait] = {}
        """By the descriptor of the duplicate."""
        self._epoll = select.epoll()
        loop.add_reader(self._epoll.fileno(), self._readable)

    def receive(self, note: Notification, theirs: socket.socket, inode: int) -> None:
        """Answer the call, now or when something has come. Owns `theirs`, a duplicate."""
        wanted = self._read(note)
        flags = _flags(note)
        call = _Call(note, theirs, inode, wanted, flags)
        if not self._attempt(call):
            if not flags & socket.MSG_DONTWAIT and is_blocking(theirs):
                self._wait(call)
                return
            self._listener.fail(note, errno.EAGAIN)
        theirs.close()

    def close(self) -> None:
        for wait in list(self._waiting.values()):
            self._stop(wait)
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _attempt(self, call: _Call) -> bool:
        """Return False when there is nothing to receive yet."""
        note, theirs, inode, wanted, flags = call
        passed = flags & _PASSED_ON | socket.MSG_DONTWAIT
        try:
            data, control, told, peer = theirs.recvmsg(wanted.size, wanted.control_room, passed)
        except BlockingIOError:
            return False
        except OSError as error:
            self._listener.fail(note, error.errno or errno.EIO)
            return True
        came = _Came(data, control, told, self._name(theirs, inode, peer))
        try:
            self._write(note, wanted, came)
        except OSError as error:
            self._listener.fail(note, error.errno or errno.EFAULT)
        else:
            self._listener.succeed(note, 1 if wanted.several else len(data))
        return True

    def _name(self, theirs: socket.socket, inode: int, peer: Any) -> bytes:
        if not peer:
            return b""
        address = peer[0].removeprefix("::ffff:"), peer[1]
        server = self._datagrams.server_at(inode, address) or address
        return messages.encode(theirs.family, server)

    def _wait(self, call: _Call) -> None:
        wait = _Wait(call)
        descriptor = call.theirs.fileno()
        self._waiting[descriptor] = wait
        self._epoll.register(descriptor, select.EPOLLIN)

        def late() -> None:
            self._listener.fail(call.note, errno.EAGAIN)
            self._stop(wait)

        option = call.theirs.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIME.size)
        seconds, micro = _TIME.unpack(option)
        if seconds or micro:
            wait.timer = self._loop.call_later(seconds + micro / 1e6, late)
        if len(self._waiting) == 1:
            self._loop.call_later(_LOOK_AROUND, self._drop_withdrawn)

    def _readable(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            wait = self._waiting.get(descriptor)
            if wait is None:
                continue
            if not self._listener.valid(wait.call.note) or self._attempt(wait.call):
                self._stop(wait)

    def _drop_withdrawn(self) -> None:
        """Forget calls that no longer wait."""
        for wait in list(self._waiting.values()):
            if not self._listener.valid(wait.call.note):
                self._stop(wait)
        if self._waiting:
            self._loop.call_later(_LOOK_AROUND, self._drop_withdrawn)

    def _stop(self, wait: _Wait) -> None:
        theirs = wait.call.theirs
        if self._waiting.get(theirs.fileno()) is wait:
            del self._waiting[theirs.fileno()]
            self._epoll.unregister(theirs.fileno())
            theirs.close()
            if wait.timer is not None:
                wait.timer.cancel()

    def _read(self, note: Notification) -> _Wanted:
        _, first, second, _, fifth, sixth = note.arguments
        thread, memory = note.thread, self._memory
        if note.call == "recvfrom":
            room = _LENGTH.unpack(memory.read(thread, sixth, 4).ljust(4, b"\0"))[0] if sixth else 0
            return _Wanted(((first, second),), fifth, room, sixth)
        data = memory.read(thread, first, messages.HEADER.size)
        if len(data) < messages.HEADER.size:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        header = messages.parse_header(data)
        return _Wanted(
            pieces=pieces_of(memory, thread, header),
            name=header.name,
            name_room=header.name_length,
            name_length_at=first + messages.NAME_LENGTH_AT,
            control=header.control,
            control_room=min(header.control_length, 4096),
            header=first,
            several=note.call == "recvmmsg",
        )

    def _write(self, note: Notification, wanted: _Wanted, came: _Came) -> None:
        writes = messages.scatter(came.data, wanted.pieces)
        if wanted.name:
            writes.append((wanted.name, came.name[: wanted.name_room]))
        if wanted.name_length_at and (wanted.name or wanted.header):
            length = len(came.name) if wanted.name else 0
            writes.append((wanted.name_length_at, _LENGTH.pack(length)))
        if wanted.header:
            packed = messages.encode_control(came.control)[: wanted.control_room]
            writes += [
                (wanted.control, packed),
                (wanted.header + messages.CONTROL_LENGTH_AT, len(packed).to_bytes(8, "little")),
                (wanted.header + messages.FLAGS_AT, _LENGTH.pack(came.flags & 0xFFFF_FFFF)),
            ]
        if wanted.several:
            writes.append((wanted.header + messages.MOVED_AT, _LENGTH.pack(len(came.data))))
        for address, piece in writes:
            if piece:
                self._memory.write(note.thread, address, piece)


class _Came(NamedTuple):
    """A datagram, and the name that its sender has for the program."""

    data: bytes
    control: list[tuple[int, int, bytes]]
    flags: int
    name: bytes


class _Call(NamedTuple):
    """One receiving call, and the duplicate of its socket."""

    note: Notification
    theirs: socket.socket
    inode: int
    wanted: _Wanted
    flags: int


class _Wait:
    """A call that waits for something to come."""

    def __init__(self, call: _Call) -> None:
        self.call = call
        self.timer: Any = None


def _flags(note: Notification) -> int:
    """Return the call's flags: the fourth argument, but of `recvmsg` the third."""
    return note.arguments[2 if note.call == "recvmsg" else 3] & 0xFFFF_FFFF
