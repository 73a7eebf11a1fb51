"""What a server says by itself to one connection because of another: notifications, messages.

1. It is an exchange of its own, and remembers what any connection to that server had asked last.
2. On replay it is given to whoever listens, after that has been played on any connection.
3. A listener is told of each exchange that was played, its own among them.
"""

from __future__ import annotations

import hashlib
from typing import Protocol
from weakref import WeakSet

from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.flows import ServiceFlow

_last: dict[tuple[str, int], bytes] = {}


class Listener(Protocol):
    """A played connection."""

    place: tuple[str, int]

    def notify(self, after: bytes) -> None:
        """Give out what came after the exchange with this digest."""


listeners: WeakSet[Listener] = WeakSet()


def asked(context: Context, flow: ServiceFlow) -> None:
    """Note that something has gone to the server."""
    _last[place_of(context)] = digest(flow)


def heard(context: Context, flow: ServiceFlow) -> None:
    """Record what came by itself."""
    flow.notes["after"] = _last.get(place_of(context), b"")
    context.begin(flow)
    context.record(flow)


def played(context: Context, flow: ServiceFlow) -> None:
    """Let those who listen have what came after this exchange."""
    for listener in list(listeners):
        if listener.place == place_of(context):
            listener.notify(digest(flow))


def digest(flow: ServiceFlow) -> bytes:
    """Return what tells an exchange from others and does not show it."""
    question = flow.question.encode("utf-8", "surrogateescape")
    asked = b"\0".join([question, *(value or b"" for value in flow.values)])
    return hashlib.blake2b(asked, digest_size=8).digest()


def place_of(context: Context) -> tuple[str, int]:
    return context.endpoint.host, context.endpoint.port
