"""The way of one flow of datagrams to its server.

1. A loopback destination falls outward like a connection; since UDP has no handshake, a refusal
   (ICMP) moves the flow on to the next candidate with what it has sent so far. After the last one
   it is refused.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_netcapture.engine.dialer import Candidate, is_loopback

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine

_UNANSWERED = 16
"""Datagrams kept to send again to the next candidate while nobody has answered."""


class DatagramRelay:
    """The way to the first candidate that does not refuse; `heard` gets what comes back."""

    def __init__(
        self,
        engine: Engine,
        candidates: list[Candidate],
        heard: Callable[[bytes], None],
        refused: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._candidates = candidates
        self._heard = heard
        self._refused = refused
        self._socket: socket.socket | None = None
        self._away = False
        self._answered = False
        self._unanswered: list[bytes] = []
        self._next()

    def send(self, data: bytes) -> None:
        if len(self._unanswered) < _UNANSWERED and not self._answered:
            self._unanswered.append(data)
        self._send(data)

    def close(self) -> None:
        if self._socket is not None:
            self._engine.loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _send(self, data: bytes) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(data)
            if self._away:
                self._engine.left_machine(1)
        except BlockingIOError:
            return  # a full queue drops datagrams, as a network does
        except OSError:
            self._next()

    def _next(self) -> None:
        """Move on to the next candidate, and say there what nobody has answered."""
        self.close()
        while self._candidates:
            candidate = self._candidates.pop(0)
            if candidate.namespace is None and not self._engine.dialer.permitted(
                candidate.address[0]
            ):
                continue
            sock = self._engine.dialer.make_socket(
                candidate.namespace, candidate.address[0], socket.SOCK_DGRAM
            )
            try:
                sock.connect(candidate.address)
            except OSError:
                sock.close()
                continue
            self._socket = sock
            self._away = not is_loopback(candidate.address[0])
            self._engine.loop.add_reader(sock.fileno(), self._readable)
            for data in list(self._unanswered):
                self._send(data)
            return
        self._refused()

    def _readable(self) -> None:
        while self._socket is not None:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                self._next()
                return
            self._answered = True
            self._unanswered.clear()
            self._heard(data)
