"""The engine's end of the control channel.

1. The kernel orders a test's `Begin` before its first packet, but an event loop may see the packet
   first. So `catch_up` reads and handles what has been said so far, and everything that attributes
   a packet to a scope calls it before it looks. A question about what has been seen waits until
   that packet is among it.
2. Handlers answer at once or return an awaitable; the test process waits for each reply, so at most
   one request is ever open.
"""

from __future__ import annotations

import array
import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from pytest_netcapture.errors import NetcaptureError
from pytest_netcapture.fault_messages import GetSchedule
from pytest_netcapture.messages import (
    FRAME,
    Close,
    End,
    Failed,
    GetCassette,
    GetFlows,
    GetProblems,
    Page,
    Reply,
    Request,
    Update,
    WaitChange,
    encode,
)
from pytest_netcapture.mock_messages import GetCalls, GetUnused

Answer = tuple[Reply, Sequence[int]]
Handler = Callable[[Request], "Answer | Awaitable[Answer] | None"]
"""None: there is no reply."""

_LOOKS = (
    Close,
    End,
    GetCalls,
    GetCassette,
    GetFlows,
    GetProblems,
    GetSchedule,
    GetUnused,
    Update,
    WaitChange,
)
"""Requests whose maker waits, and that are about all that it has done before."""


class Control:
    """Read requests, send replies. `closed` is called when the test process is gone."""

    def __init__(
        self, sock: socket.socket, page: Page, handler: Handler, closed: Callable[[], None]
    ) -> None:
        self._page = page
        self.handled = 0
        """Requests handled so far: a scope looked up at the same count is still the right one."""
        sock.setblocking(False)
        self._socket = sock
        self._handler = handler
        self._closed = closed
        self._buffer = bytearray()
        self._waiting: deque[tuple[Request, int]] = deque()
        self._decoder = msgspec.msgpack.Decoder(Request)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        loop.add_reader(self._socket.fileno(), self.drain)

    def catch_up(self) -> int:
        """Handle what the test process has asked by now; return how many requests that makes."""
        if self._page.asked != self.handled:
            self._read()
            self._handle_waiting(looks=False)
        return self.handled

    def drain(self) -> None:
        self._read()
        self._handle_waiting(looks=True)

    def _read(self) -> None:
        while not self._ended:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._end()
                return
            self._buffer += data
            self._decode_frames()

    def send(self, reply: Reply, fds: Sequence[int] = (), number: int = 0) -> None:
        """Send one message, descriptors on its first byte. Blocks: the reader waits for it.

        `number` is that of the request it answers.
        """
        data = memoryview(encode(reply, number))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._socket.setblocking(True)
        try:
            sent = self._socket.sendmsg([data], rights)
            self._socket.sendall(data[sent:])
        except OSError:
            self._end()
        finally:
            if not self._ended:
                self._socket.setblocking(False)

    def close(self) -> None:
        if not self._ended:
            self._ended = True
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _decode_frames(self) -> None:
        buffer = self._buffer
        while len(buffer) >= FRAME.size:
            length, number = FRAME.unpack_from(buffer)
            end = FRAME.size + length
            if len(buffer) < end:
                return
            frame = bytes(buffer[FRAME.size : end])
            del buffer[:end]
            try:
                self._waiting.append((self._decoder.decode(frame), number))
            except msgspec.MsgspecError as error:
                self.handled += 1
                self.send(_failed(error), (), number)

    def _handle_waiting(self, *, looks: bool) -> None:
        while self._waiting and not self._ended:
            request, number = self._waiting[0]
            if isinstance(request, _LOOKS) and not looks:
                self._loop.call_soon(self.drain)
                return
            self._waiting.popleft()
            self._handle(request, number)

    def _handle(self, request: Request, number: int) -> None:
        self.handled += 1
        try:
            answer = self._handler(request)
        except Exception as error:
            self.send(_failed(error), (), number)
            return
        if answer is None:
            return
        if isinstance(answer, tuple):
            self.send(*answer, number)
            return
        task = self._loop.create_task(self._later(answer, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _later(self, answer: Awaitable[Answer], number: int) -> None:
        try:
            reply, fds = await answer
        except Exception as error:
            self.send(_failed(error), (), number)
        else:
            self.send(reply, fds, number)

    def _end(self) -> None:
        if not self._ended:
            self.close()
            self._closed()


def _failed(error: Exception) -> Failed:
    if isinstance(error, NetcaptureError):
        return Failed(type(error).__name__, error.message, error.cure, error.slug)
    import traceback

    detail = "".join(traceback.format_exception(error))
    return Failed(
        "NetcaptureError", f"the engine failed at a request:\n{detail}", "report this as a bug"
    )
