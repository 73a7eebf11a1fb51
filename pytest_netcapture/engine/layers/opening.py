"""The layer that a connection starts with: wait for the first bytes, then choose the protocol.

1. Whoever speaks first decides: the client's bytes are sniffed; a server that speaks first is not
   one that we decode.
2. A protocol is one line in `PROTOCOLS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pytest_netcapture.engine.layers.http1 import Http1Layer
from pytest_netcapture.engine.layers.layer import Context, Ignoring, Layer
from pytest_netcapture.engine.layers.sniff import Guess, sniff
from pytest_netcapture.flows import FlowError


class Switching(Context, Protocol):
    """A context whose layer can be replaced."""

    layer: Layer

    @property
    def has_server(self) -> bool: ...


PROTOCOLS: dict[Guess, Callable[[Switching], Layer]] = {
    Guess.HTTP1: Http1Layer,
}

REASONS = {
    Guess.TLS: "TLS inside TLS is not decoded",
    Guess.HTTP2: "HTTP/2 is not decoded yet",
}


class OpeningLayer:
    """Hold the first bytes until they tell what they are.

    `silent` is told of a client that ends before it has sent any, with its error if it had one, and
    returns whether no more is to be said of it.
    """

    def __init__(self, context: Switching, silent: Callable[[str], bool] | None = None) -> None:
        self._context = context
        self._silent = silent
        self._held = b""

    def client_data(self, data: bytes) -> None:
        self._held += data
        guess = sniff(self._held)
        if guess is Guess.MORE:
            return
        held, self._held = self._held, b""
        make = PROTOCOLS.get(guess)
        if make is None:
            self._context.become_raw(
                REASONS.get(guess, "not a protocol that is decoded"), client_pending=held
            )
            return
        self._context.layer = make(self._context)
        self._context.layer.client_data(held)

    def client_eof(self) -> None:
        if self._said_nothing(""):
            return
        held, self._held = self._held, b""
        if not held and not self._context.has_server:
            self._context.close()  # on replay; a client that only looks whether the port is open
            return
        self._context.become_raw("the client said nothing", client_pending=held)
        self._context.layer.client_eof()

    def server_connected(self) -> None:
        """Nothing to do: the client speaks first, or the server will."""

    def server_failed(self, error: FlowError) -> None:
        self._context.become_raw(error.detail or error.kind)
        self._context.layer.server_failed(error)

    def server_data(self, data: bytes) -> None:
        held, self._held = self._held, b""
        self._context.become_raw("the server spoke first", client_pending=held, server_pending=data)

    def server_eof(self) -> None:
        held, self._held = self._held, b""
        self._context.become_raw("the server closed first", client_pending=held)
        self._context.layer.server_eof()

    def aborted(self, side: str, error: FlowError) -> None:
        if side == "client" and self._said_nothing(error.detail):
            return
        if not self._held and not self._context.has_server:
            self._context.close()
            return
        held, self._held = self._held, b""
        self._context.become_raw(f"the {side} reset it first", client_pending=held)
        self._context.layer.aborted(side, error)

    def _said_nothing(self, error: str) -> bool:
        silent, self._silent = self._silent, None  # an end may be followed by a reset
        if self._held or silent is None or not silent(error):
            return False
        self._context.layer = Ignoring()
        self._context.close()
        return True
