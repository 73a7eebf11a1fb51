"""Run a function in a sandbox with a real engine, from a forked child; servers on loopback to talk to.

The pytest process itself never enters a namespace. `in_sandbox` returns what the function returned
(pickled); an exception of the child is raised here.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import pickle
import select
import signal
import socket
import ssl
import struct
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import trustme

from pytest_netcapture.session import Session, TestScope
from pytest_netcapture.settings import (
    CassetteUse,
    RecordMode,
    Settings,
    parse_mapping,
    parse_pattern,
)

TIMEOUT = 30
PLAIN = Settings()
REDIRECTOR = os.environ.get("NETCAPTURE_TEST_REDIRECTOR", "auto")


def settings(
    *, mappings=(), allow=(), passthrough=(), ca=(), cassette=None, mode="once", **options
) -> Settings:
    if cassette and os.path.exists(cassette):  # this is another run, not one 20 ms later
        os.utime(cassette, (0, 0))
    return Settings(
        map_host=tuple(parse_mapping(m, "test") for m in mappings),
        allow=tuple(parse_pattern(p, "test") for p in allow),
        passthrough=tuple(parse_pattern(p, "test") for p in passthrough),
        upstream_ca=tuple(str(c) for c in ca),
        cassette=CassetteUse(str(cassette), RecordMode(mode)) if cassette else None,
        **options,
    )


class Sandbox:
    """What a function in the sandbox gets."""

    def __init__(self, session: Session, scope: TestScope) -> None:
        self.session = session
        self.scope = scope

    def flows(self, protocol=None):
        return [f for f in self.scope.flows() if protocol in (None, f.protocol)]

    def problems(self):
        return self.scope.problems()

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Return what `condition` returns as soon as it is true."""
        seen = self.session.page.changes
        while not (result := condition()):
            changes = self.scope.wait_change(seen, TIMEOUT)
            assert changes != seen, "nothing changed in time"
            seen = changes
        return result


def in_sandbox(function: Callable[[Sandbox], Any], wanted: Settings = PLAIN) -> Any:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(function, wanted, writer)
    os.close(writer)
    return _result(pid, reader)


def _child(function, wanted, writer) -> None:
    result: tuple[bool, Any]
    try:
        session = Session.start(Settings(redirector=REDIRECTOR))
        scope = session.begin("a test", wanted)
        sandbox = Sandbox(session, scope)
        value = function(sandbox)
        session.end(sandbox.scope)
        log = session.log()
        assert not log, log
        result = (True, value)
    except BaseException:
        result = (False, traceback.format_exc())
    with contextlib.suppress(BaseException):
        os.write(writer, pickle.dumps(result))
    os._exit(0)


def _result(pid: int, reader: int) -> Any:
    poll = select.poll()
    poll.register(reader, select.POLLIN | select.POLLHUP)
    data = b""
    while poll.poll(TIMEOUT * 1000):
        piece = os.read(reader, 1 << 16)
        if not piece:
            break
        data += piece
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(reader)
    os.waitpid(pid, 0)
    assert data, "the child said nothing in time"
    good, value = pickle.loads(data)
    assert good, value
    return value


class Server:
    """A TCP server on the host's loopback: one thread per connection, `handle(socket)` for each."""

    def __init__(
        self, handle: Callable[[socket.socket], None], context: ssl.SSLContext | None = None
    ) -> None:
        self._handle = handle
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def at(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        # shutdown wakes the accept of the serving thread; close alone would not
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._one, args=(conn,), daemon=True).start()

    def _one(self, conn: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(conn.close)
            if self._context is not None:
                conn = self._context.wrap_socket(conn, server_side=True)
                stack.callback(conn.close)
            self._handle(conn)


@contextlib.contextmanager
def serving(
    handle: Callable[[socket.socket], None], context: ssl.SSLContext | None = None
) -> Iterator[Server]:
    server = Server(handle, context)
    try:
        yield server
    finally:
        server.close()


def answer(body: bytes = b"hello", *, headers: bytes = b"") -> Callable[[socket.socket], None]:
    """An HTTP/1.1 server: every request gets `body`, connections are kept."""

    def handle(conn: socket.socket) -> None:
        buffered = b""
        while True:
            while b"\r\n\r\n" not in buffered:
                data = conn.recv(65536)
                if not data:
                    return
                buffered += data
            _, _, buffered = buffered.partition(b"\r\n\r\n")
            conn.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), headers, body)
            )

    return handle


def reset(conn: socket.socket) -> None:
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


class Authority:
    """A throw-away CA, its file, and server contexts from it."""

    def __init__(self, directory) -> None:
        self._ca = trustme.CA()
        self.file = str(directory / "upstream-ca.pem")
        self._ca.cert_pem.write_to_path(self.file)

    def context(
        self, *names: str, expired: bool = False, alpn: tuple[str, ...] = ()
    ) -> ssl.SSLContext:
        after = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1) if expired else None
        before = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=9) if expired else None
        cert = self._ca.issue_cert(
            *names, **({"not_before": before, "not_after": after} if expired else {})
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        cert.configure_cert(context)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context
