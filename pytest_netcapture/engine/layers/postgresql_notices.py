"""Notifications between PostgreSQL connections (its manual, NOTIFY): what they came after.

1. A notification that comes while a connection has nothing to answer is an exchange of its own,
   and remembers the statement that any connection to that server had asked last.
2. On replay it is given to whoever has executed LISTEN for its channel, after that statement has
   been played on any connection; at once, if that was the LISTEN itself.
3. One that comes within an answer is part of that answer.
"""

from __future__ import annotations

import hashlib
import re
from typing import Protocol
from weakref import WeakSet

from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.engine.layers.postgresql_session import Session
from pytest_netcapture.flows import SqlFlow
from pytest_netcapture.postgresql_messages import Content, message

_LISTEN = re.compile(r'(?i)\s*LISTEN\s+(?:"((?:[^"]|"")+)"|(\w+))')

_last: dict[tuple[str, int], str] = {}


class Listener(Protocol):
    """A played connection."""

    place: tuple[str, int]

    def notify(self, after: bytes) -> None:
        """Give out what came after the statement with this digest."""


listeners: WeakSet[Listener] = WeakSet()


def heard(context: Context, session: Session, content: bytes) -> None:
    """Record a notification that came by itself."""
    fields = Content(content)
    fields.number(4)
    flow = session.flow(context, "notification", fields.string())
    flow.notes["after"] = digest(_last.get(_place(context), ""))
    flow.answer = message(b"A", content)
    context.begin(flow)
    context.record(flow)


def asked(context: Context, flow: SqlFlow) -> None:
    """Note that a statement has gone to the server."""
    if flow.step in ("query", "execute"):
        _last[_place(context)] = flow.question


def played(context: Context, flow: SqlFlow) -> None:
    """Let those who listen have what came after this statement."""
    for listener in list(listeners):
        if listener.place == _place(context):
            listener.notify(digest(flow.question))


def channel_of(statement: str) -> str:
    """Return the channel of a LISTEN, "" for any other statement."""
    match = _LISTEN.match(statement)
    if match is None:
        return ""
    quoted, plain = match.groups()
    return quoted.replace('""', '"') if quoted else plain.lower()


def digest(statement: str) -> bytes:
    """Return what tells a statement from others and does not show it."""
    data = statement.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(data, digest_size=8).digest()


def _place(context: Context) -> tuple[str, int]:
    return context.endpoint.host, context.endpoint.port
