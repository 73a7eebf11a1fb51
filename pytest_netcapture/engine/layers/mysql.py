"""MySQL and MariaDB: statements and their results (MariaDB's "Clientserver Protocol").

1. The server speaks first. Its greeting is an exchange, for a replay has to begin with it; so is
   the login, without what the two said to authenticate. On replay any password does.
2. An exchange is a command. Statements that were prepared have their text, whatever the server has
   called them, and their parameters.
3. The engine numbers what a client prepares on replay: recorded numbers are of other connections.
4. A request for TLS is passed on: what is said inside is another layer's, which knows the greeting
   (clear_text.py). Compression and LOAD DATA LOCAL are relayed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.engine.layers.ordered import Asked, Dialect, OrderedLayer, Part
from pytest_netcapture.flows import ServiceFlow, SqlFlow
from pytest_netcapture.mysql_messages import (
    EOF,
    ERROR,
    LOCAL_FILE,
    MORE_RESULTS,
    OK,
    Reader,
    Splitter,
    error,
    packet,
    packets,
    parameters,
    resequenced,
    status_of,
)
from pytest_netcapture.unreadable import Unreadable

SSL_REQUEST = 36
"""Bytes of a client's request for TLS."""
_HEAD = 4
_WITH_DATABASE, _COMPRESS, _SSL = 1 << 3, 1 << 5, 1 << 11
_SECURE, _LENENC_AUTH, _PLAIN_END, _ZSTD = 1 << 15, 1 << 21, 1 << 24, 1 << 26
_ATTRIBUTES = 1 << 27
_QUIT, _INIT_DB, _QUERY, _FIELD_LIST, _STATISTICS, _PING = 1, 2, 3, 4, 9, 14
_PREPARE, _EXECUTE, _LONG_DATA, _CLOSE, _RESET, _OPTION, _RESET_CONNECTION = (
    *range(0x16, 0x1C),
    0x1F,
)
_PLAIN = {_PING: "ping", _OPTION: "option", _RESET_CONNECTION: "reset", _STATISTICS: "statistics"}
_VERSION_10 = 10

Results = Generator[None, bytes, None]


@dataclass
class Statement:
    text: str
    count: int = 0
    types: list[int] = field(default_factory=list)


class MysqlLayer(OrderedLayer):
    """A connection. `with_tls`: it may change to TLS before it has said more."""

    def __init__(
        self, context: Context, *, with_tls: bool = False, outer: Mysql | None = None
    ) -> None:
        self.mysql = Mysql(context, with_tls=with_tls, outer=outer)
        super().__init__(context, self.mysql)

    def inner(self, context: Context) -> MysqlLayer:
        """Return the layer for what is said inside of TLS, after this one's greeting."""
        return MysqlLayer(context, outer=self.mysql)


def greets_like_mysql(data: bytes) -> bool:
    """Tell whether a server that says this first is one: protocol 10, sequence number 0."""
    return len(data) > _HEAD and data[3] == 0 and data[_HEAD] == _VERSION_10 and data[2] == 0


def asks_for_tls(packet: bytes) -> bool:
    """Tell whether a client's first packet asks for TLS: it breaks off before the user's name."""
    flags = int.from_bytes(packet[_HEAD : _HEAD + 4], "little")
    return packet[:_HEAD] == b"\x20\0\0\1" and len(packet) == SSL_REQUEST and bool(flags & _SSL)


class Mysql(Dialect):
    """One connection."""

    def __init__(
        self, context: Context, *, with_tls: bool = False, outer: Mysql | None = None
    ) -> None:
        self._context = context
        self._client, self._server = Splitter(), Splitter()
        self._with_tls = with_tls
        self._server_flags: int = outer._server_flags if outer else 0
        self._flags = 0
        self._session = ""
        self._entered = False
        self._begun = False
        self._sequence = 0
        self._statements: dict[int, Statement] = {}
        self._made = 0
        self._reading: Results | None = None

    def greeting(self) -> Asked:
        flow = self._flow("greeting")
        flow.notes["speaks"] = b"1"
        return Asked(flow)

    @property
    def greeted(self) -> bool:
        """Tell whether the server has said what it can do."""
        return bool(self._server_flags)

    def _flow(self, step: str, question: str = "") -> SqlFlow:
        endpoint = self._context.endpoint
        flow = SqlFlow(
            service="mysql",
            host=endpoint.host,
            port=endpoint.port,
            session=self._session,
            step=step,
            question=question,
        )
        if step in ("query", "execute") and not self._deprecates_eof:
            flow.notes["plain"] = b"1"
        return flow

    @property
    def _deprecates_eof(self) -> bool:
        return bool(self._flags & self._server_flags & _PLAIN_END)

    # ── the client ───────────────────────────────────────────────────────────────────────────

    def asked(self, data: bytes) -> Iterator[Asked]:
        for one in self._client.feed(data):
            self._sequence, content = one[3], one[_HEAD:]
            if not self._begun:
                if self._with_tls and asks_for_tls(one):
                    continue
                self._begun = True
                self._log_in(content)
                flow = self._flow("connect")
                if self._context.endpoint.tls:
                    flow.notes["tls"] = b"1"
                yield Asked(flow)
            elif self._entered and content:
                asked = self._command(content[0], content)
                if asked is not None:
                    yield asked

    def _log_in(self, content: bytes) -> None:
        fields = Reader(content)
        self._flags = fields.number(4)
        if self._flags & _SSL and len(content) <= 32:
            raise Unreadable("TLS after a greeting")
        if self._flags & self._server_flags & (_COMPRESS | _ZSTD):
            raise Unreadable("a compressed connection")
        fields.take(28)
        user = fields.text()
        if self._flags & _LENENC_AUTH:
            fields.string()
        elif self._flags & _SECURE:
            fields.take(fields.number(1))
        else:
            fields.text()
        database = fields.text() if self._flags & _WITH_DATABASE and not fields.ended else ""
        self._session = f"{user}@{database}"

    def _command(self, code: int, content: bytes) -> Asked | None:
        if code == _QUERY:
            return Asked(self._flow("query", self._text(content)))
        if code == _PREPARE:
            return Asked(self._flow("prepare", _decoded(content[1:])))
        if code == _EXECUTE:
            return Asked(self._execution(content))
        if code == _CLOSE:
            self._statements.pop(Reader(content, 1).number(4), None)
            return None
        if code == _INIT_DB:
            user = self._session.partition("@")[0]
            asked = Asked(self._flow("connect", f"USE {_decoded(content[1:])}"))
            self._session = f"{user}@{_decoded(content[1:])}"
            return asked
        if code == _RESET:
            statement = self._statement(content)
            return Asked(self._flow("connect", f"RESET {statement.text}"))
        if code in _PLAIN:
            return Asked(self._flow("connect", _PLAIN[code]))
        if code == _QUIT:
            return None
        raise Unreadable(f"command {code:#x}")

    def _text(self, content: bytes) -> str:
        if not self._flags & self._server_flags & _ATTRIBUTES:
            return _decoded(content[1:])
        fields = Reader(content, 1)
        if fields.length():
            raise Unreadable("query attributes")
        fields.length()
        return _decoded(fields.rest())

    def _execution(self, content: bytes) -> SqlFlow:
        statement = self._statement(content)
        values, statement.types = parameters(content, statement.types, statement.count)
        flow = self._flow("execute", statement.text)
        flow.values = values
        flow.notes["types"] = bytes(kind & 0xFF for kind in statement.types)
        return flow

    def _statement(self, content: bytes) -> Statement:
        number = Reader(content, 1).number(4)
        if number == 0xFFFFFFFF:
            number = self._made  # MariaDB's for the one that was prepared last
        statement = self._statements.get(number)
        if statement is None:
            raise Unreadable(f"statement {number} was not prepared")
        return statement

    # ── the server ───────────────────────────────────────────────────────────────────────────

    def units(self, data: bytes) -> Iterator[bytes]:
        return self._server.feed(data)

    def part(self, unit: bytes, head: Asked | None) -> Part:
        content = unit[_HEAD:]
        if head is None or not content:
            raise Unreadable("an answer to nothing")
        step = head.flow.step
        if step == "connect" and not self._entered:
            return Part.LAST if content[0] in (OK, ERROR) else Part.APART
        if step in ("greeting", "connect"):
            return Part.LAST
        if self._reading is None:
            read = self._preparation if step == "prepare" else self._results
            self._reading = read()
            next(self._reading)
        try:
            self._reading.send(content)
        except StopIteration:
            self._reading = None
            return Part.LAST
        return Part.MORE

    def _preparation(self) -> Results:
        content = yield
        if content[0] == ERROR:
            return
        fields = Reader(content, 5)
        for count in (fields.number(2), fields.number(2))[::-1]:
            for _ in range(count + (count > 0 and not self._deprecates_eof)):
                yield

    def _results(self) -> Results:
        more = True
        while more:
            content = yield
            if content[0] == ERROR:
                return
            if content[0] == LOCAL_FILE:
                raise Unreadable("LOAD DATA LOCAL")
            if content[0] != OK:
                for _ in range(Reader(content).length() or 0):
                    yield
                if not self._deprecates_eof:
                    yield
                content = yield from self._rows()
            more = content[0] != ERROR and bool(status_of(content) & MORE_RESULTS)

    def _rows(self) -> Generator[None, bytes, bytes]:
        longest = 1 << 24 if self._deprecates_eof else 9
        while True:
            content = yield
            if content[0] == ERROR or (content[0] == EOF and len(content) < longest):
                return content

    def told(self, flow: ServiceFlow) -> None:
        """Remember what an answer has changed."""
        contents = packets(flow.answer)
        first = contents[0] if contents else b""
        if flow.step == "greeting":
            self._server_flags = flags_of(first)
        elif flow.step == "connect" and not self._entered:
            self._entered = first[:1] == b"\0"
        elif flow.step == "prepare" and first[:1] == b"\0":
            self._made, fields = Reader(first, 1).number(4), Reader(first, 7)
            self._statements[self._made] = Statement(flow.question, fields.number(2))

    # ── replay ───────────────────────────────────────────────────────────────────────────────

    def answer(self, flow: ServiceFlow, recorded: ServiceFlow) -> bytes:
        """Return a recorded answer as this connection needs it."""
        contents = packets(recorded.answer)
        if flow.step == "greeting" and contents:
            hidden = _COMPRESS | _ZSTD | (0 if self._with_tls else _SSL)
            contents[0] = without_flags(contents[0], hidden)
            return packet(contents[0], 0)
        if flow.step == "prepare" and contents and contents[0][:1] == b"\0":
            number = (self._made + 1).to_bytes(4, "little")
            contents[0] = b"\0" + number + contents[0][5:]
        joined = b"".join(packet(one, 0) for one in contents)
        return resequenced(joined, self._sequence + 1)

    def refusal(self, _flow: ServiceFlow, text: str) -> bytes:
        return packet(error(text), self._sequence + 1)


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _flag_places(content: bytes) -> tuple[int, int]:
    """Return where the two halves of a greeting's capability flags stand."""
    fields = Reader(content, 1)
    fields.text()
    fields.take(4 + 8 + 1)
    return fields.at, fields.at + 2 + 1 + 2


def flags_of(greeting: bytes) -> int:
    """Return the capabilities that a server's greeting claims."""
    try:
        low, high = _flag_places(greeting)
        return Reader(greeting, low).number(2) | Reader(greeting, high).number(2) << 16
    except Unreadable:
        return 0


def without_flags(greeting: bytes, flags: int) -> bytes:
    """Return a greeting that does not claim `flags`."""
    try:
        low, high = _flag_places(greeting)
    except Unreadable:
        return greeting
    kept = (flags_of(greeting) & ~flags).to_bytes(4, "little")
    return greeting[:low] + kept[:2] + greeting[low + 2 : high] + kept[2:] + greeting[high + 2 :]
