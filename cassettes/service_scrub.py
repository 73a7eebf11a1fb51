"""Where secrets stand in the exchanges of databases and brokers, and how their answers are written.

1. Passwords of logins are never in a flow. What is left is what statements say, and known values.
2. An answer is replaced value by value, so that its lengths are right again.

Proven by tests/cassettes/test_services.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

from pytest_netcapture import mysql_messages
from pytest_netcapture.flows import ServiceFlow
from pytest_netcapture.postgresql_messages import Content, message, split
from pytest_netcapture.redis_messages import rewritten
from pytest_netcapture.unreadable import Unreadable

Scrub: TypeAlias = Callable[[bytes], bytes]

_IN_SQL = re.compile(
    r"""(?isx)
    \b (?: password | identified \s+ (?: with \s+ \S+ \s+ )? by | secret )
    (?: \s* = \s* | \s+ | \s* \( \s* )
    (?: e? ' (?P<quoted> (?: [^'\\] | '' | \\. )* ) ' | \$\$ (?P<dollars> .*? ) \$\$ )
    """
)
_IN_STRING = re.compile(r"(?i)\b(?:password|passwd|pwd)\s*=\s*(?P<value>[^\s'\";&]+)")


def in_statement(text: str) -> Iterator[tuple[int, int]]:
    """Yield where passwords stand in a statement: of a role, or in a connection string."""
    for match in _IN_SQL.finditer(text):
        group = "quoted" if match.group("quoted") is not None else "dollars"
        if match.group(group):
            yield match.span(group)
    for match in _IN_STRING.finditer(text):
        yield match.span("value")


def in_answer(flow: ServiceFlow, scrub: Scrub) -> bytes:
    """Return an exchange's answer with each of its values scrubbed."""
    rewrite = _REWRITES.get(flow.service)
    return rewrite(flow, scrub) if rewrite and flow.answer else flow.answer


def _postgresql(flow: ServiceFlow, scrub: Scrub) -> bytes:
    answer, parts, size = flow.answer, [], 0
    for kind, content in split(answer):
        size += 5 + len(content)
        parts.append(message(kind, _message(kind, content, scrub)))
    return b"".join(parts) + answer[size:]


def _message(kind: bytes, content: bytes, scrub: Scrub) -> bytes:
    if kind == b"D":
        try:
            values = Content(content).values()
        except Unreadable:
            return content
        cleaned = [value if value is None else scrub(value) for value in values]
        return content if cleaned == values else _row(cleaned)
    return scrub(content) if kind in (b"E", b"N", b"A", b"S", b"d") else content


def _row(values: list[bytes | None]) -> bytes:
    parts = [len(values).to_bytes(2, "big")]
    for value in values:
        parts.append((-1 if value is None else len(value)).to_bytes(4, "big", signed=True))
        parts.append(value or b"")
    return b"".join(parts)


def _mysql(flow: ServiceFlow, scrub: Scrub) -> bytes:
    if flow.step not in ("query", "execute"):
        return flow.answer
    try:
        return mysql_messages.rewritten(
            flow.answer, scrub, prepared=flow.step == "execute", plain_end="plain" in flow.notes
        )
    except Unreadable:
        return flow.answer


def _mongodb(flow: ServiceFlow, scrub: Scrub) -> bytes:
    from pytest_netcapture import mongodb_documents  # whose package is not installed everywhere

    try:
        return mongodb_documents.rewritten(flow.answer, scrub)
    except Unreadable:
        return flow.answer


_REWRITES: dict[str, Callable[[ServiceFlow, Scrub], bytes]] = {
    "postgresql": _postgresql,
    "mysql": _mysql,
    "mongodb": _mongodb,
    "redis": lambda flow, scrub: rewritten(flow.answer, scrub),
}
