"""memcached's text protocol: a command, maybe with a value, and its answer (its protocol.txt).

1. An exchange is a command; its values are its words, and the value that it stores.
2. `noreply` commands are exchanges without an answer. `quit` and `shutdown` end the connection.
3. The binary protocol, meta commands and logins (SASL) are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.engine.layers.ordered import Asked, Dialect, OrderedLayer, Part
from pytest_netcapture.flows import ServiceFlow
from pytest_netcapture.unreadable import LIMIT, Unreadable

_STORES = frozenset((b"set", b"add", b"replace", b"append", b"prepend", b"cas"))
_LISTS = frozenset((b"get", b"gets", b"gat", b"gats", b"stats"))
_OTHERS = frozenset(
    b"delete incr decr touch flush_all version verbosity quit cache_memlimit".split()
)
_COMMAND = re.compile(
    rb"(" + b"|".join(sorted(_STORES | _LISTS | _OTHERS)) + rb")(?: [^\r\n]*)?\r\n"
)
_ENDS = (b"END\r\n", b"ERROR\r\n", b"CLIENT_ERROR", b"SERVER_ERROR", b"RESET\r\n")
_LONGEST_LINE = 1 << 16


def memcached_layer(context: Context) -> OrderedLayer:
    return OrderedLayer(context, Memcached(context))


def begins_like_memcached(data: bytes) -> bool:
    return _COMMAND.match(data) is not None


class Memcached(Dialect):
    """One connection."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client, self._server = b"", b""

    def asked(self, data: bytes) -> Iterator[Asked]:
        self._client += data
        while True:
            line, end, rest = self._client.partition(b"\r\n")
            if not end:
                break
            if not begins_like_memcached(line + end):
                raise Unreadable(f"the command {line[:20]!r} is not known")
            words = line.split()
            if words[0] in _STORES:
                value, rest = _value(words, 4, rest)
                if value is None:
                    break
                words[4:5] = [value]
            self._client = rest
            yield self._command(words)
        if len(self._client) > LIMIT or (not end and len(line) > _LONGEST_LINE):
            raise Unreadable("a command without its end")

    def _command(self, words: list[bytes]) -> Asked:
        endpoint = self._context.endpoint
        quiet = words[-1] == b"noreply" or words[0] == b"quit"
        flow = ServiceFlow(
            service="memcached",
            host=endpoint.host,
            port=endpoint.port,
            step="command",
            question=words[0].decode(),
            values=list(words[1:]),
        )
        return Asked(flow, 0 if quiet else 1)

    def units(self, data: bytes) -> Iterator[bytes]:
        self._server += data
        while True:
            line, end, rest = self._server.partition(b"\r\n")
            if not end:
                if len(line) > _LONGEST_LINE:
                    raise Unreadable("a line without its end")
                return
            unit = line + end
            if line.startswith(b"VALUE "):
                value, rest = _value(line.split(), 3, rest)
                if value is None:
                    return
                unit += value + b"\r\n"
            self._server = rest
            yield unit

    def part(self, unit: bytes, head: Asked | None) -> Part:
        if head is None:
            raise Unreadable("an answer to nothing")
        lists = head.flow.question.encode() in _LISTS
        return Part.MORE if lists and not unit.startswith(_ENDS) else Part.LAST

    def refusal(self, _flow: ServiceFlow, text: str) -> bytes:
        line = text.encode("utf-8", "replace").replace(b"\r", b" ").replace(b"\n", b" ")
        return b"SERVER_ERROR " + line + b"\r\n"


def _value(words: list[bytes], at: int, data: bytes) -> tuple[bytes | None, bytes]:
    """Return the value whose length is a word, and what follows; None while it is not whole."""
    size = words[at] if len(words) > at else b""
    if not size.isdigit() or len(size) > 9 or int(size) > LIMIT:
        raise Unreadable(f"{size[:20]!r} is not a length")
    if len(data) < int(size) + 2:
        return None, data
    if data[int(size) : int(size) + 2] != b"\r\n":
        raise Unreadable("a value is longer than it says")
    return data[: int(size)], data[int(size) + 2 :]
