"""What a PostgreSQL client has said on its connection so far: statements, portals, where it is.

1. Names of prepared statements are the connection's own: drivers make them up, and pools prepare on
   each connection anew. A flow has the statement's text instead.
2. Nothing here knows a server: who watches and who plays share it.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.flows import SqlFlow
from pytest_netcapture.postgresql_answers import packed
from pytest_netcapture.postgresql_messages import Content, described, message
from pytest_netcapture.unreadable import Unreadable

SERVICE = "postgresql"
CANCEL, SSL, GSS = 80877102, 80877103, 80877104
_VERSION_3 = 3
_LISTEN = re.compile(r'(?i)\s*LISTEN\s+(?:"((?:[^"]|"")+)"|(\w+))')
_HEAD = struct.Struct(">ii")
_LONGEST_START = 10_000
"""MAX_STARTUP_PACKET_LENGTH of the server."""


@dataclass
class Start:
    """A client's first packet: what it asks for, and the parameters of a start-up."""

    code: int
    parameters: dict[str, str]
    packet: bytes


def start_in(data: bytes) -> Start | None:
    """Return the first packet when `data` has it whole. Raises `Unreadable`."""
    if len(data) < _HEAD.size:
        return None
    length, code = _HEAD.unpack_from(data)
    if not _HEAD.size <= length <= _LONGEST_START:
        raise Unreadable(f"a first packet of {length} bytes")
    if code not in (CANCEL, SSL, GSS) and code >> 16 != _VERSION_3:
        raise Unreadable(f"protocol {code >> 16}.{code & 0xFFFF}")
    if len(data) < length:
        return None
    parameters: dict[str, str] = {}
    content = Content(data[_HEAD.size : length])
    while code >> 16 == _VERSION_3 and (name := content.string()):
        parameters[name] = content.string()
    return Start(code, parameters, data[:length])


@dataclass
class Statement:
    text: str
    types: list[int] = field(default_factory=list)
    columns: bytes = b""
    """A RowDescription, once there was one."""


@dataclass
class Portal:
    statement: Statement
    values: list[bytes | None]
    formats: list[int]
    results: list[int]
    columns: bytes = b""


class Session:
    """One connection after its start-up."""

    def __init__(self, start: Start) -> None:
        user = start.parameters.get("user", "")
        self.name = f"{user}@{start.parameters.get('database') or user}"
        self._statements: dict[str, Statement] = {}
        self._portals: dict[str, Portal] = {}

    def flow(self, context: Context, step: str, question: str = "") -> SqlFlow:
        endpoint = context.endpoint
        return SqlFlow(
            service=SERVICE,
            host=endpoint.host,
            port=endpoint.port,
            session=self.name,
            step=step,
            question=question,
        )

    def execution(self, context: Context, portal: Portal) -> SqlFlow:
        """Return the flow of a statement that is executed."""
        flow = self.flow(context, "execute", portal.statement.text)
        flow.values = portal.values
        flow.form = ",".join(map(str, portal.results))
        count = len(portal.values)
        formats = portal.formats * count if len(portal.formats) == 1 else portal.formats
        for name, numbers in (("types", portal.statement.types), ("formats", formats)):
            if any(numbers):
                flow.notes[name] = packed(numbers[:count])
        return flow

    def parse(self, content: bytes) -> Statement:
        fields = Content(content)
        name, text = fields.string(), fields.string()
        self._statements[name] = statement = Statement(text, fields.numbers(4))
        return statement

    def bind(self, content: bytes) -> Portal:
        fields = Content(content)
        name, statement = fields.string(), self.statement(fields.string())
        formats = fields.numbers(2)
        portal = Portal(statement, fields.values(), formats, fields.numbers(2))
        if statement.columns:
            portal.columns = described(statement.columns, portal.results)
        self._portals[name] = portal
        return portal

    def close(self, content: bytes) -> None:
        fields = Content(content)
        kind, name = fields.take(1), fields.string()
        (self._statements if kind == b"S" else self._portals).pop(name, None)

    def target(self, content: bytes) -> Statement | Portal:
        """Return what a Describe is about; a cursor that SQL declared is a statement."""
        fields = Content(content)
        kind, name = fields.take(1), fields.string()
        if kind == b"S":
            return self.statement(name)
        return self._portals.get(name) or self.portal(name).statement

    def executed(self, content: bytes) -> Portal:
        return self.portal(Content(content).string())

    def statement(self, name: str) -> Statement:
        """Return a prepared statement; one that SQL's PREPARE made has its name only."""
        return self._statements.get(name) or Statement(f"EXECUTE {name}" if name else "")

    def portal(self, name: str) -> Portal:
        return self._portals.get(name) or Portal(Statement(f"FETCH FROM {name}"), [], [], [])

    def notification(self, context: Context, content: bytes) -> SqlFlow:
        """Return the flow of a NotificationResponse that came by itself."""
        fields = Content(content)
        fields.number(4)
        flow = self.flow(context, "notification", fields.string())
        flow.answer = message(b"A", content)
        return flow

    def function(self, context: Context, content: bytes) -> SqlFlow:
        """Return the flow of a FunctionCall, which large objects use."""
        fields = Content(content)
        flow = self.flow(context, "query", f"function {fields.number(4)}")
        flow.notes["formats"] = packed(fields.numbers(2))
        flow.values, flow.form = fields.values(), str(fields.number(2))
        return flow


def channel_of(statement: str) -> str:
    """Return the channel of a LISTEN, "" for any other statement."""
    match = _LISTEN.match(statement)
    if match is None:
        return ""
    quoted, plain = match.groups()
    return quoted.replace('""', '"') if quoted else plain.lower()


def query_text(content: bytes) -> str:
    return Content(content).string()
