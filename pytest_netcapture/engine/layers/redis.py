"""Redis: commands and their replies (its "Redis serialization protocol specification").

1. An exchange is a command; its session is the user and the database (`default/0`), its form RESP3
   and whether a transaction is open: the same words are answered otherwise then.
2. An EXEC's values are the commands that it executes, so that it is told from other EXECs.
3. What sets a connection up (HELLO, AUTH, SELECT, CLIENT, PING) is of the step "connect": pools do
   it as often as they like. Passwords are left out.
4. A message of a subscription is an exchange of its own, of the step "message".
5. MONITOR, replication and CLIENT REPLY, after which answers are not in order, are relayed.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.engine.layers.ordered import Asked, Dialect, OrderedLayer, Part
from pytest_netcapture.flows import RedisFlow, ServiceFlow
from pytest_netcapture.redis_messages import PUSH, Splitter, command_in, error, parse
from pytest_netcapture.unreadable import Unreadable

_SET_UP = frozenset(
    b"AUTH HELLO SELECT CLIENT PING READONLY READWRITE ASKING QUIT RESET COMMAND".split()
)
_RELAYED = frozenset(b"MONITOR SYNC PSYNC".split())
_SUBSCRIBES = frozenset(b"SUBSCRIBE PSUBSCRIBE SSUBSCRIBE".split())
_UNSUBSCRIBES = frozenset(b"UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE".split())
_MESSAGES = frozenset(("message", "pmessage", "smessage"))
_CONFIRMATIONS = frozenset(one.decode().lower() for one in _SUBSCRIBES | _UNSUBSCRIBES)
_HIDDEN = b"(password)"


def redis_layer(context: Context) -> OrderedLayer:
    return OrderedLayer(context, Redis(context))


class Redis(Dialect):
    """One connection."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client, self._server = Splitter(inline=True), Splitter()
        self._user, self._database, self._version = "default", "0", ""
        self._queue: list[bytes] | None = None
        """The commands of a transaction that is open."""

    # ── the client ───────────────────────────────────────────────────────────────────────────

    def asked(self, data: bytes) -> Iterator[Asked]:
        for value in self._client.feed(data):
            words = command_in(value)
            if words:
                yield self._command(words)

    def _command(self, words: list[bytes]) -> Asked:
        name = words[0].upper()
        if name in _RELAYED or (words[:2] == [words[0], b"REPLY"] and name == b"CLIENT"):
            raise Unreadable(f"{name.decode()} is not answered in order")
        values = without_passwords(name, words[1:])
        form = self._version + ("+multi" if self._queue is not None else "")
        if name == b"EXEC" and self._queue is not None:
            values = [*values, *self._queue]
        flow = self._flow("connect" if name in _SET_UP else "command", name, values)
        flow.form = form
        self._remember(name, words)
        return Asked(flow, self._replies(name, words))

    def _flow(self, step: str, name: bytes, values: list[bytes]) -> RedisFlow:
        endpoint = self._context.endpoint
        return RedisFlow(
            service="redis",
            host=endpoint.host,
            port=endpoint.port,
            session=f"{self._user}/{self._database}",
            step=step,
            question=name.decode("utf-8", "surrogateescape"),
            values=list(values),
        )

    def _remember(self, name: bytes, words: list[bytes]) -> None:
        if name == b"MULTI":
            self._queue = []
        elif name in (b"EXEC", b"DISCARD", b"RESET"):
            self._queue = None
        elif self._queue is not None:
            self._queue.append(b" ".join(words))
        if name == b"SELECT" and len(words) > 1:
            self._database = words[1].decode("utf-8", "replace")
        elif name == b"AUTH" and len(words) == 3:
            self._user = words[1].decode("utf-8", "replace")
        elif name == b"HELLO" and len(words) > 1:
            self._version = "3" if words[1] == b"3" else ""
            upper = [word.upper() for word in words]
            if b"AUTH" in upper[:-2]:
                self._user = words[upper.index(b"AUTH") + 1].decode("utf-8", "replace")

    @staticmethod
    def _replies(name: bytes, words: list[bytes]) -> int:
        if name in _SUBSCRIBES or name in _UNSUBSCRIBES:
            return max(len(words) - 1, 1)
        return 1

    # ── the server ───────────────────────────────────────────────────────────────────────────

    def units(self, data: bytes) -> Iterator[bytes]:
        return self._server.feed(data)

    def part(self, unit: bytes, head: Asked | None) -> Part:
        kind = _kind_of(unit)
        if kind in _MESSAGES or (unit[:1] == PUSH and kind not in _CONFIRMATIONS):
            return Part.APART
        if head is None:
            raise Unreadable("a reply to nothing")
        if unit[:1] == b"-" and head.left > 1:
            head.left = 1  # of several channels none
        return Part.LAST

    def apart(self, unit: bytes) -> ServiceFlow | None:
        words = parse(unit)
        if _kind_of(unit) not in _MESSAGES or len(words) < 3:
            return None
        channel = words[1].encode() if isinstance(words[1], str) else words[1]
        flow = self._flow("message", channel, [])
        flow.answer, flow.form = unit, self._version
        return flow

    def refusal(self, _flow: ServiceFlow, text: str) -> bytes:
        return error(text)

    def listens(self, flow: ServiceFlow) -> list[ServiceFlow]:
        if flow.question.encode("utf-8", "surrogateescape") not in _SUBSCRIBES:
            return []
        wanted: list[ServiceFlow] = []
        for channel in flow.values:
            message = self._flow("message", channel or b"", [])
            message.form = self._version
            wanted.append(message)
        return wanted


def _kind_of(unit: bytes) -> str:
    """Return the first word of an array or push, in lower case."""
    if unit[:1] not in (b"*", PUSH):
        return ""
    words = parse(unit)
    first = words[0] if isinstance(words, list) and words else ""
    return first.lower() if isinstance(first, str) else ""


def without_passwords(name: bytes, words: list[bytes]) -> list[bytes]:
    """Return a command's words with each password replaced."""
    upper = [word.upper() for word in words]
    hidden: set[int] = set()
    if name == b"AUTH":
        hidden.add(len(words) - 1)
    elif name in (b"HELLO", b"MIGRATE"):
        for index, word in enumerate(upper):
            if word == b"AUTH":
                hidden.add(index + (2 if name == b"HELLO" else 1))
            elif word == b"AUTH2":
                hidden.add(index + 2)
    elif name == b"CONFIG":
        secret = (b"REQUIREPASS", b"MASTERAUTH")
        hidden |= {index + 1 for index, word in enumerate(upper) if word in secret}
    elif name == b"ACL":
        return [w[:1] + _HIDDEN if w[:1] in (b">", b"<", b"#", b"!") else w for w in words]
    return [_HIDDEN if index in hidden else word for index, word in enumerate(words)]
