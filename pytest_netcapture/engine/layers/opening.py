"""The layer that a connection starts with: wait for the first bytes, then choose the protocol.

1. Whoever speaks first decides: the client's bytes are sniffed; a server that speaks first is not
   one that we decode, unless what it says is how HTTP/2 begins, or a greeting that is known.
2. A protocol is one line in `PROTOCOLS`.
3. Bytes that may begin a protocol wait for more, but not for long: their client may wait, too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from pytest_netcapture.engine.layers.amqp import amqp_layer
from pytest_netcapture.engine.layers.http1 import Http1Layer
from pytest_netcapture.engine.layers.http2 import Http2Layer
from pytest_netcapture.engine.layers.http2_frames import FRAME_HEAD, begins_like_a_server
from pytest_netcapture.engine.layers.kafka import kafka_layer
from pytest_netcapture.engine.layers.layer import Context, Ignoring, Layer
from pytest_netcapture.engine.layers.memcached import begins_like_memcached, memcached_layer
from pytest_netcapture.engine.layers.mysql import MysqlLayer, greets_like_mysql
from pytest_netcapture.engine.layers.ordered import OrderedLayer
from pytest_netcapture.engine.layers.postgresql import PostgresqlLayer
from pytest_netcapture.engine.layers.raw import RawLayer
from pytest_netcapture.engine.layers.redis import redis_layer
from pytest_netcapture.engine.layers.sniff import Guess, sniff
from pytest_netcapture.flows import FlowError


def _mongodb_layer(context: Context) -> OrderedLayer:
    """Import what reads BSON when it is needed."""
    from pytest_netcapture.engine.layers.mongodb import Mongodb

    return OrderedLayer(context, Mongodb(context))


PROTOCOLS: dict[Guess, Callable[[Context], Layer]] = {
    Guess.HTTP1: Http1Layer,
    Guess.HTTP2: Http2Layer,
    Guess.POSTGRESQL: PostgresqlLayer,
    Guess.REDIS: redis_layer,
    Guess.MEMCACHED: memcached_layer,
    Guess.AMQP: amqp_layer,
    Guess.MONGODB: _mongodb_layer,
    Guess.KAFKA: kafka_layer,
}

PATIENCE = 1.0
"""Seconds that a client may take from its first bytes to those that tell what they are."""

SERVER_FIRST = "the server spoke first"


def greeter(data: bytes) -> Callable[[Context], OrderedLayer] | None:
    """Return what makes the layer for a server that says `data` first."""
    return MysqlLayer if greets_like_mysql(data) else None


REASONS = {
    Guess.TLS: "TLS inside TLS is not decoded",
    Guess.MONGODB: "MongoDB is decoded with pymongo's package bson, which is not installed: "
    "pip install 'pytest-netcapture[mongodb]'",
}
NEEDED = {Guess.MONGODB: "pymongo"}
"""Packages without which a protocol is not decoded."""


class OpeningLayer:
    """Hold the first bytes until they tell what they are.

    `silent` is told of a client that ends before it has sent any, with its error if it had one, and
    returns whether no more is to be said of it. `known` makes the layer where it is known already.
    """

    def __init__(
        self,
        context: Context,
        silent: Callable[[str], bool] | None = None,
        known: Callable[[Context], Layer] | None = None,
    ) -> None:
        self._context = context
        self._known = known
        self._silent = silent
        self._held = b""
        self._heard = b""

    def client_data(self, data: bytes) -> None:
        self._held += data
        if self._known is not None:
            self._context.layer = self._known(self._context)
            self._context.layer.client_data(self._held)
            return
        guess = sniff(self._held)
        if guess is Guess.MORE:
            size = len(self._held)
            self._context.after(PATIENCE, lambda: self._waited(size))
            return
        if guess is Guess.UNKNOWN and begins_like_memcached(self._held):
            guess = Guess.MEMCACHED
        held, self._held = self._held, b""
        heard, self._heard = self._heard, b""
        make = PROTOCOLS.get(guess)
        if guess in NEEDED and importlib.util.find_spec(NEEDED[guess]) is None:
            make = None
        if make is None or (heard and guess is not Guess.HTTP2):
            reason = REASONS.get(guess, "not a protocol that is decoded")
            self._context.become_raw(reason, client_pending=held, server_pending=heard)
            return
        self._context.layer = make(self._context)
        self._context.layer.client_data(held)
        if heard:
            self._context.layer.server_data(heard)

    def _waited(self, size: int) -> None:
        """Pass on what was held, if nothing has come since."""
        if self._context.layer is self and size == len(self._held):
            self._relay("not a protocol that is decoded")

    def client_eof(self) -> None:
        if self._said_nothing(""):
            return
        if not self._held and not self._context.has_server:
            self._context.close()  # on replay; a client that only looks whether the port is open
            return
        self._relay("the client said nothing")
        self._context.layer.client_eof()

    def server_connected(self) -> None:
        """Nothing to do: the client speaks first, or the server will."""

    def server_failed(self, error: FlowError) -> None:
        self._context.become_raw(error.detail or error.kind)
        self._context.layer.server_failed(error)

    def server_data(self, data: bytes) -> None:
        self._heard += data
        make = greeter(self._heard)
        if make is not None and not self._held:
            heard, self._heard = self._heard, b""
            layer = make(self._context)
            self._context.layer = layer
            layer.begin()
            layer.server_data(heard)
        elif len(self._heard) < FRAME_HEAD or not begins_like_a_server(self._heard):
            self._relay(SERVER_FIRST)

    def server_eof(self) -> None:
        self._relay("the server closed first")
        self._context.layer.server_eof()

    def aborted(self, side: str, error: FlowError) -> None:
        if side == "client" and self._said_nothing(error.detail):
            return
        if not self._held and not self._context.has_server:
            self._context.close()
            return
        self._relay(f"the {side} reset it first")
        self._context.layer.aborted(side, error)

    def _relay(self, reason: str) -> None:
        held, self._held = self._held, b""
        heard, self._heard = self._heard, b""
        if not held and len(heard) >= FRAME_HEAD and begins_like_a_server(heard):  # HTTP/2, unasked
            self._context.layer = RawLayer(self._context, reason, opaque=True)
            self._context.layer.server_data(heard)
        else:
            self._context.become_raw(reason, client_pending=held, server_pending=heard)

    def _said_nothing(self, error: str) -> bool:
        silent, self._silent = self._silent, None  # an end may be followed by a reset
        if self._held or silent is None or not silent(error):
            return False
        self._context.layer = Ignoring()
        self._context.close()
        return True
