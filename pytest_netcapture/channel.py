"""The test process's end of the control channel: blocking, one request at a time.

1. Tests patch `socket`, freeze time and fork: every function used here is bound at import, no
   clock is read, and a forked child that inherits the channel is refused.
2. A reply that does not come because the engine is gone raises `EngineGone` with the engine's log.
3. Whoever waits may be interrupted (Ctrl-C, pytest-timeout's signal): requests are numbered, so the
   reply to one that was given up is not taken for the next one's.
4. Tests close descriptors that they did not open, and others get their numbers: nothing is written
   to what is not the channel any more.
"""

from __future__ import annotations

import array
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import msgspec

from pytest_netcapture import errors
from pytest_netcapture.messages import FRAME, Failed, Page, Reply, Request, encode

_close, _fstat, _getpid = os.close, os.fstat, os.getpid
_CHILDS = 1 << 20
_poll = select.poll
_CLOEXEC = socket.MSG_CMSG_CLOEXEC
_CMSG_SPACE = socket.CMSG_SPACE(16 * 4)
_SOL_SOCKET, _SCM_RIGHTS = socket.SOL_SOCKET, socket.SCM_RIGHTS

R = TypeVar("R")
Answer: TypeAlias = tuple[Reply, list[int]]


class Channel:
    """One connected Unix stream socket. `log` returns the engine's last words for `EngineGone`."""

    def __init__(self, sock: socket.socket, page: Page, log: Callable[[], str]) -> None:
        self._page = page
        self._socket = sock
        self._recvmsg, self._sendall = sock.recvmsg, sock.sendall
        self._log = log
        self._inode = _fstat(sock.fileno()).st_ino
        self._pid = _getpid()
        self._lock = threading.RLock()
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._number = 0
        self._held = b""
        self._posted: dict[int, Answer | None] = {}
        self._decoder = msgspec.msgpack.Decoder(Reply)

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self, request: Request, kind: type[R]) -> tuple[R, list[int]]:
        """Send `request`; return the reply, which is a `kind`, and its descriptors.

        Raises the error that the engine reports, or `EngineGone`.
        """
        if _getpid() != self._pid:
            raise errors.UsageError(
                "the netcapture fixture was used in a forked child of the test process",
                cure="use it in the test itself; the child's traffic is captured all the same",
            )
        with self._lock:
            self.tell(request)
            return self.receive(kind)

    def tell(self, request: Request, *, hold: bool = False) -> int:
        """Send a request without waiting; return its number. Raises `EngineGone`.

        One that is on `hold` goes out with the next, which has to follow at once.
        """
        with self._lock:
            self._number += 1
            self._page.ask()
            data = self._held + encode(request, self._number)
            self._held = data if hold else b""
            if not hold:
                try:
                    ours = _fstat(self._socket.fileno()).st_ino == self._inode
                    if ours:
                        self._sendall(data)
                except OSError as error:
                    raise self._gone(str(error)) from None
                if not ours:
                    raise self._gone("a test has closed its descriptor")
            return self._number

    def post(self, request: Request) -> int:
        """Send a request whose reply is collected later. Raises `EngineGone`."""
        with self._lock:
            number = self.tell(request)
            self._posted[number] = None
            return number

    def collect(self, number: int, kind: type[R]) -> tuple[R, list[int]]:
        """Return the reply to what was posted, waiting if need be. Raises as `ask`."""
        with self._lock:
            answer = self._posted.pop(number, None) or self._next(number)
            return self._checked(answer, kind)

    def receive(self, kind: type[R]) -> tuple[R, list[int]]:
        """Return the next message. Raises as `ask`."""
        with self._lock:
            return self._checked(self._next(self._number), kind)

    @staticmethod
    def _checked(answer: Answer, kind: type[R]) -> tuple[R, list[int]]:
        reply, fds = answer
        if isinstance(reply, Failed):
            raise _error_from(reply)
        if not isinstance(reply, kind):
            raise TypeError(f"engine replied {type(reply).__name__}, not {kind.__name__}")
        return reply, fds

    def adopt(self) -> None:
        """Take over in a forked child, whose parent asks nothing meanwhile."""
        self._pid = _getpid()

    def skip(self) -> None:
        """Go on with numbers that no child can have used."""
        self._number += _CHILDS

    def alive(self) -> bool:
        """Tell whether the engine still holds its end, without waiting."""
        poll = _poll()
        poll.register(self._socket, select.POLLIN | select.POLLRDHUP)
        return not any(
            e & (select.POLLHUP | select.POLLRDHUP | select.POLLERR) for _, e in poll.poll(0)
        )

    def close(self) -> None:
        self._socket.close()

    def _next(self, wanted: int) -> Answer:
        """Return the reply to request `wanted`; drop those of requests that were given up."""
        while True:
            number, reply = self._read()
            count = getattr(reply, "fds", 0)
            fds, self._fds = self._fds[:count], self._fds[count:]
            if number == wanted:
                return reply, fds
            if number in self._posted:
                self._posted[number] = reply, fds
                continue
            for descriptor in fds:
                _close(descriptor)

    def _read(self) -> tuple[int, Reply]:
        buffer, start = self._buffer, FRAME.size
        while len(buffer) < start or len(buffer) < start + FRAME.unpack_from(buffer)[0]:
            self._fill()
        length, number = FRAME.unpack_from(buffer)
        end = start + length
        reply: Reply = self._decoder.decode(memoryview(buffer)[start:end].tobytes())
        del buffer[:end]
        return number, reply

    def _fill(self) -> None:
        try:
            data, ancillary, _, _ = self._recvmsg(1 << 16, _CMSG_SPACE, _CLOEXEC)
        except OSError as error:
            raise self._gone(str(error)) from None
        if not data:
            raise self._gone("its control channel closed")
        for level, kind, content in ancillary:
            if level == _SOL_SOCKET and kind == _SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                self._fds.extend(fds)
        self._buffer += data

    def _gone(self, why: str) -> errors.EngineGone:
        log = self._log().strip()
        return errors.EngineGone(
            f"the capture engine ended in the middle of the session ({why})"
            + (f"; its last words:\n{log}" if log else "; it left no log"),
            cure="run again; if it happens again, report the lines above",
            slug="docs/limits.md#engine-gone",
        )


def _error_from(failed: Failed) -> Exception:
    kind = getattr(errors, failed.blame, errors.NetcaptureError)
    error: Exception = kind(failed.message, cure=failed.cure, slug=failed.slug)
    return error
