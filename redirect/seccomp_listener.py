"""The supervisor's end of the filter: take a notification, answer it.

1. A notification is a thread of a captured program that waits in a system call. It is answered
   once: with a result, with an error, or with "go on", and then the kernel does the call itself.
2. A thread may be gone before it is answered (killed, or a signal came): every answer can fail with
   ENOENT, which is no error of ours. `valid` tells whether it still waits.
3. After "go on" the kernel reads the program's memory again: what was looked at may have changed.
   So it is for calls whose address does not matter, or is left alone (seccomp_unotify(2)).
4. `take` is called when the listener is readable and never waits: what was withdrawn in between is
   ENOENT.

Tests: test_seccomp.py, test_seccomp_probing.py.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket
import threading
from contextlib import suppress
from typing import NamedTuple

from pytest_netcapture.redirect import seccomp_abi as abi

_RIGHTS = socket.CMSG_SPACE(4)


class Notification(NamedTuple):
    """A system call that waits. `thread` made it; `arguments` are as in its manual page."""

    id: int
    thread: int
    call: str
    arguments: tuple[int, ...]

    @property
    def descriptor(self) -> int:
        """The first argument: of each call that is stopped it is a socket."""
        return self.arguments[0] & 0xFFFF_FFFF


class Listener:
    """A filter's listener. Used on the loop's thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._names = {number: name for name, number in abi.machine().calls.items()}
        with suppress(OSError):  # Linux 6.6: hands the processor over, as a pipe does
            wake = abi.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
            fcntl.ioctl(descriptor, abi.NOTIF_SET_FLAGS, wake)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        """Let go: calls that wait, and later ones, fail with ENOSYS."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def take(self) -> Notification | None:
        """Return the call that has waited longest; None if it has been withdrawn."""
        buffer = bytearray(abi.NOTIF.size)
        try:
            fcntl.ioctl(self._descriptor, abi.NOTIF_RECV, buffer)
        except OSError:
            return None
        identity, thread, _, number, _, _, *arguments = abi.NOTIF.unpack(buffer)
        return Notification(identity, thread, self._names.get(number, ""), tuple(arguments))

    def go_on(self, note: Notification) -> None:
        """Have the kernel do the call as if nobody had looked."""
        self._answer(note, 0, 0, abi.SECCOMP_USER_NOTIF_FLAG_CONTINUE)

    def succeed(self, note: Notification, value: int = 0) -> None:
        self._answer(note, value, 0, 0)

    def fail(self, note: Notification, number: int) -> None:
        """Let the call fail with this errno."""
        self._answer(note, 0, -number, 0)

    def valid(self, note: Notification) -> bool:
        """Tell whether the thread still waits: what was read of its memory was its own."""
        try:
            fcntl.ioctl(self._descriptor, abi.NOTIF_ID_VALID, note.id.to_bytes(8, "little"))
        except OSError:
            return False
        return True

    def replace(self, note: Notification, ours: int, theirs: int, *, cloexec: bool) -> None:
        """Put a duplicate of `ours` in the place of the program's descriptor `theirs`."""
        flags = os.O_CLOEXEC if cloexec else 0
        request = abi.NOTIF_ADDFD_STRUCT.pack(
            note.id, abi.SECCOMP_ADDFD_FLAG_SETFD, ours, theirs, flags
        )
        fcntl.ioctl(self._descriptor, abi.NOTIF_ADDFD, request)

    def give(self, note: Notification, ours: int, *, cloexec: bool) -> None:
        """Answer the call with a new descriptor, which is a duplicate of `ours`."""
        flags = os.O_CLOEXEC if cloexec else 0
        try:
            fields = note.id, abi.SECCOMP_ADDFD_FLAG_SEND, ours, 0, flags
            fcntl.ioctl(self._descriptor, abi.NOTIF_ADDFD, abi.NOTIF_ADDFD_STRUCT.pack(*fields))
        except OSError as error:
            if error.errno != errno.EINVAL:  # before Linux 5.14 it takes two steps
                raise
            fields = note.id, 0, ours, 0, flags
            request = abi.NOTIF_ADDFD_STRUCT.pack(*fields)
            self.succeed(note, fcntl.ioctl(self._descriptor, abi.NOTIF_ADDFD, bytearray(request)))

    def _answer(self, note: Notification, value: int, error: int, flags: int) -> None:
        with suppress(OSError):  # the thread is gone
            response = abi.NOTIF_RESP.pack(note.id, value, error, flags)
            fcntl.ioctl(self._descriptor, abi.NOTIF_SEND, response)


def hand_over(listener: int, to: socket.socket) -> None:
    """Send the listener over a Unix socket, and close it here.

    Sending a descriptor is itself a call that the filter stops: so a thread sends, and what any
    thread does meanwhile goes on unseen.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))]
    sender = threading.Thread(target=to.sendmsg, args=([b"\0"], rights), daemon=True)
    own = Listener(listener)
    sender.start()
    _let_pass(own, sender)
    own.close()


def _let_pass(own: Listener, sender: threading.Thread) -> None:
    poll = select.poll()
    poll.register(own.fileno(), select.POLLIN)
    while sender.is_alive():
        if poll.poll(1):
            note = own.take()
            if note is not None:
                own.go_on(note)
    sender.join()


def receive(source: socket.socket) -> int:
    """Return the listener that `hand_over` sent; -1 if the other side is gone."""
    try:
        data, ancillary, _, _ = source.recvmsg(1, _RIGHTS, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return -1
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return int(array.array("i", content[:4])[0])
    return -1 if not data else receive(source)
