"""The vocabulary: what was seen on the wire, as values that every part shares.

1. A *flow* is one conversation or one failed attempt at one; an *exchange* is an `HttpFlow`: one
   request and its response, however many share a connection.
2. Values only: no sockets, no clocks. Times are integer nanoseconds of the monotonic clock.
3. Header names and values are `str` decoded as latin-1, so every byte survives (RFC 9110 §5.5).
4. A body holds content as the application means it: transfer coding is removed, content coding
   (gzip, br, ...) is removed and named in `Body.coding`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias
from urllib.parse import parse_qsl, unquote

import msgspec

from pytest_netcapture import redis_messages
from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.grpc_messages import Fields, fields_of, split

if TYPE_CHECKING:
    from email.message import EmailMessage

Address: TypeAlias = tuple[str, int]
"""(IP address, port)."""


class Origin(str, Enum):
    """Where an answer came from."""

    LIVE = "live"
    PLAYED = "played"
    MOCKED = "mocked"
    BLOCKED = "blocked"
    UNMATCHED = "unmatched"
    FAULT = "fault"


class Process(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who made a connection. `pid` is 0 when it ended before it could be asked."""

    pid: int = 0
    name: str = ""
    command: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.pid:
            return "a process that has ended"
        return f"{self.name or '?'} (pid {self.pid})"


class Headers(msgspec.Struct, array_like=True):
    """Header fields in wire order and case; lookup ignores case (RFC 9110 §5.1)."""

    fields: list[tuple[str, str]] = []

    def get_all(self, name: str) -> list[str]:
        name = name.lower()
        return [v for k, v in self.fields if k.lower() == name]

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the values of `name` joined by ", ", as RFC 9110 §5.3 combines them."""
        values = self.get_all(name)
        return ", ".join(values) if values else default

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            known = ", ".join(sorted({k for k, _ in self.fields})) or "none"
            raise KeyError(f"no header {name!r}; there are: {known}")
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.get_all(name))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def items(self) -> list[tuple[str, str]]:
        return list(self.fields)

    def replace(self, name: str, value: str | None) -> Headers:
        """Return a copy with `name` set once in its first place, appended if new, or removed."""
        out: list[tuple[str, str]] = []
        done = value is None
        for k, v in self.fields:
            if k.lower() != name.lower():
                out.append((k, v))
            elif not done:
                out.append((k, value or ""))
                done = True
        if not done and value is not None:
            out.append((name, value))
        return Headers(out)


class Body(msgspec.Struct, omit_defaults=True):
    """A message body, content coding removed: in memory, or spooled to a file when large.

    `coding` is the Content-Encoding that was removed ("" when there was none, or when it could
    not be decoded, in which case `data` is as sent). `chunks` are sizes in bytes, after decoding,
    of the pieces in which a chunked or streamed body arrived; empty when boundaries mean nothing.
    `gaps` are the waits before each chunk in steps of 100 ms; empty when all are zero.
    """

    size: int = 0
    data: bytes = b""
    path: str = ""
    coding: str = ""
    chunks: list[int] = []
    gaps: list[int] = []

    @property
    def content(self) -> bytes:
        """Return the whole body; a spooled one is read from disk."""
        if not self.path:
            return self.data
        with open(self.path, "rb") as file:
            return file.read()

    def pieces(self, limit: int = 1 << 18) -> Iterator[bytes]:
        """Yield the body in pieces of at most `limit` bytes, never whole in memory."""
        if not self.path:
            for start in range(0, len(self.data), limit):
                yield self.data[start : start + limit]
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        with open(descriptor, "rb") as file:
            while piece := file.read(limit):
                yield piece

    def __bool__(self) -> bool:
        return self.size > 0

    def __len__(self) -> int:
        return self.size


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a request and a response share."""

    http_version: str = "1.1"
    headers: Headers = msgspec.field(default_factory=Headers)
    body: Body = msgspec.field(default_factory=Body)
    trailers: Headers = msgspec.field(default_factory=Headers)

    @property
    def content(self) -> bytes:
        return self.body.content

    @property
    def text(self) -> str:
        """Decode the content by the charset of Content-Type, UTF-8 by default."""
        charset = "utf-8"
        for part in (self.headers.get("content-type") or "").split(";")[1:]:
            key, _, value = part.strip().partition("=")
            if key.lower() == "charset":
                charset = value.strip("\"' ")
        try:
            return self.content.decode(charset, "replace")
        except LookupError:
            return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """Parse the content as JSON (RFC 8259). Raises `msgspec.DecodeError` when it is not."""
        return msgspec.json.decode(self.content)

    def set_content(self, content: bytes | str) -> None:
        """Put other content in its place, as a hook may: text as UTF-8, Content-Length corrected.

        The content coding stays; pieces in which a streamed body came are forgotten.
        """
        data = content.encode() if isinstance(content, str) else content
        if "content-length" in self.headers and not self.body.coding:
            self.headers = self.headers.replace("content-length", str(len(data)))
        self.body = Body(size=len(data), data=data, coding=self.body.coding)

    @property
    def form(self) -> list[tuple[str, str]]:
        """Parse the content as application/x-www-form-urlencoded."""
        return parse_qsl(self.content.decode("latin-1"), keep_blank_values=True)


class HttpRequest(Message, kw_only=True, omit_defaults=True):
    """One request, as the origin server is meant to understand it.

    `target` is the request target as sent (RFC 9112 §3.2); `host` is the name that the client asked
    for (lower case, no brackets), whatever address it was dialled at.
    """

    method: str
    scheme: str
    host: str
    port: int
    target: str

    @property
    def path(self) -> str:
        return self._origin_form.partition("?")[0]

    @property
    def query(self) -> str:
        """The query as sent, without "?"."""
        return self._origin_form.partition("?")[2]

    @property
    def params(self) -> list[tuple[str, str]]:
        return parse_qsl(self.query, keep_blank_values=True)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}.get(self.scheme)
        return host if self.port == default else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self._origin_form}"

    @property
    def _origin_form(self) -> str:
        target = self.target
        if not target.startswith("/") and "://" in target:
            rest = target.partition("://")[2]
            slash = min((i for i in (rest.find("/"), rest.find("?")) if i >= 0), default=-1)
            target = rest[slash:] if slash >= 0 else "/"
        return target if target.startswith("/") else f"/{target}" if target != "*" else "*"


class HttpResponse(Message, kw_only=True, omit_defaults=True):
    """One final response; `interim` are the 1xx responses before it, 101 excepted.

    `closes` says that the end of the connection ended the body (RFC 9112 §6.3 rule 8). `after` is
    there when the answer began before the request was complete: the bytes of the request that had
    come at the answer's head, at each chunk, and at its end; one more when the request had ended.
    """

    status: int
    reason: str = ""
    interim: list[tuple[int, Headers]] = []
    closes: bool = False
    after: list[int] = []


class FlowError(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a conversation failed.

    `kind` is refused, reset, timeout, unreachable, unresolved, tls, eof or malformed.
    """

    kind: str
    detail: str = ""
    after: int = 0
    """Bytes of the answer that had arrived by then."""
    code: int | None = None
    """The protocol's own number for it: of an HTTP/2 stream that was reset."""


class Flow(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="kind"):
    """What every kind of flow has.

    `id` grows in order of appearance within an engine. `late` marks traffic of a process that
    outlived its test. `inode` names the client's socket, which finds the Python stack behind it.
    `fault` says which faults of the test's struck it. `tls_version` is the client's connection's
    ("TLSv1.3"), if its TLS was taken off.
    """

    id: int = 0
    scope: int = 0
    host: str = ""
    port: int = 0
    address: Address | None = None
    client: Address | None = None
    process: Process = msgspec.field(default_factory=Process)
    origin: Origin = Origin.LIVE
    error: FlowError | None = None
    started: int = 0
    ended: int = 0
    late: bool = False
    inode: int = 0
    fault: str = ""
    tls_version: str = ""

    protocol: ClassVar[str] = "flow"

    def __str__(self) -> str:
        return f"{self.protocol} {self.host}:{self.port}"


class HttpFlow(Flow, kw_only=True, omit_defaults=True, tag="http"):
    """An exchange. `response` is None while awaited, or when `error` says why there is none."""

    request: HttpRequest
    response: HttpResponse | None = None

    protocol: ClassVar[str] = "http"

    @property
    def url(self) -> str:
        return self.request.url

    def __str__(self) -> str:
        tail = (
            str(self.response.status) if self.response else (self.error.kind if self.error else "…")
        )
        return f"{self.request.method} {self.url} → {tail}"


class WebSocketMessage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One message, its fragments joined and decompressed (RFC 6455 §5).

    `kind` is text, binary, ping, pong or close. `data` of a close is its reason, `code` its code
    (1005: it had none). `time` is when its last byte came.
    """

    sent: bool
    """Whether the client sent it."""
    kind: str
    data: bytes = b""
    code: int = 0
    time: int = 0

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")

    def json(self) -> Any:
        """Parse the data as JSON. Raises `msgspec.DecodeError` when it is not."""
        return msgspec.json.decode(self.data)

    def __str__(self) -> str:
        mark = ">" if self.sent else "<"
        code = f" {self.code}" if self.kind == "close" else ""
        return f"{mark} {self.kind}{code} {self.text[:200]}".rstrip()


class WebSocketFlow(HttpFlow, kw_only=True, omit_defaults=True, tag="websocket"):
    """An exchange that asked for a WebSocket, and the messages if it got one."""

    messages: list[WebSocketMessage] = []

    protocol: ClassVar[str] = "websocket"

    @property
    def opened(self) -> bool:
        """Tell whether the server agreed to a WebSocket (RFC 6455 §4.2.2, RFC 8441 §5)."""
        accepted = 200 if self.request.method == "CONNECT" else 101
        return self.response is not None and self.response.status == accepted

    @property
    def sent(self) -> list[WebSocketMessage]:
        """Return the texts and binaries that the client sent."""
        return [m for m in self.messages if m.sent and m.kind in ("text", "binary")]

    @property
    def received(self) -> list[WebSocketMessage]:
        """Return the texts and binaries that the server sent."""
        return [m for m in self.messages if not m.sent and m.kind in ("text", "binary")]

    @property
    def close_code(self) -> int | None:
        """Return the code of the close that came first, None while there is none."""
        return next((m.code for m in self.messages if m.kind == "close"), None)


class GrpcMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a call, decompressed; `sent` by the client or not."""

    sent: bool
    data: bytes

    @property
    def fields(self) -> Fields:
        """Return the protobuf fields by number. Raises `ValueError` when it is not protobuf."""
        return fields_of(self.data)


class GrpcFlow(HttpFlow, kw_only=True, omit_defaults=True, tag="grpc"):
    """A gRPC call: an exchange whose bodies are messages and whose trailers are its status."""

    protocol: ClassVar[str] = "grpc"

    @property
    def service(self) -> str:
        """Return the full name of the service, `package.Service`."""
        return self.request.path.lstrip("/").rpartition("/")[0]

    @property
    def method(self) -> str:
        return self.request.path.rpartition("/")[2]

    @property
    def status(self) -> int | None:
        """Return the status code, 0 for OK; None while there is none, or the call was cut off."""
        value = self._trailer("grpc-status")
        return int(value) if value is not None and value.isdigit() else None

    @property
    def status_message(self) -> str:
        return unquote(self._trailer("grpc-message") or "")

    @property
    def timeout(self) -> float | None:
        """Return the deadline that the client gave, in seconds."""
        value = self.request.headers.get("grpc-timeout") or ""
        unit = {"H": 3600, "M": 60, "S": 1, "m": 1e-3, "u": 1e-6, "n": 1e-9}.get(value[-1:])
        return int(value[:-1]) * unit if unit and value[:-1].isdigit() else None

    @property
    def requests(self) -> list[GrpcMessage]:
        return _messages(self.request, sent=True)

    @property
    def responses(self) -> list[GrpcMessage]:
        return _messages(self.response, sent=False) if self.response else []

    @property
    def messages(self) -> list[GrpcMessage]:
        """Return all messages, the client's first."""
        return self.requests + self.responses

    def named(self, schema: str | os.PathLike[str] | Iterable[Flow]) -> list[dict[str, Any]]:
        """Return the messages by the names of their schema, the client's first.

        `schema` is the path of a descriptor set, or flows with a reflection call among them. Raises
        `UsageError` when it cannot be used, or does not know the method.
        """
        from pytest_netcapture.grpc_names import Descriptors

        return Descriptors(schema).messages(self)

    def _trailer(self, name: str) -> str | None:
        if self.response is None:
            return None
        value = self.response.trailers.get(name)
        return value if value is not None else self.response.headers.get(name)

    def __str__(self) -> str:
        status = self.status
        tail = "…" if status is None else GRPC_STATUS.get(status, str(status))
        return f"gRPC {self.service}/{self.method} → {self.error.kind if self.error else tail}"


GRPC_STATUS = dict(
    enumerate(
        str.split(
            "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS"
            " PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE"
            " UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED"
        )
    )
)


def _messages(message: Message, *, sent: bool) -> list[GrpcMessage]:
    encoding = message.headers.get("grpc-encoding") or ""
    return [GrpcMessage(sent, data) for data in split(message.content, encoding)]


def is_grpc(headers: Headers) -> bool:
    """Tell whether a request is a gRPC call."""
    return (headers.get("content-type") or "").startswith("application/grpc")


class DnsAnswer(msgspec.Struct, frozen=True):
    """One resource record in presentation form (RFC 1035 §5.1); `ttl` in seconds."""

    name: str
    type: str
    ttl: int
    data: str


class DnsFlow(Flow, kw_only=True, omit_defaults=True, tag="dns"):
    """A question and its answer. `rcode` as dnspython names it: NOERROR, NXDOMAIN, SERVFAIL, ...

    `authority` and `additional` are the other sections of the message (RFC 1035 §4.1). `server` is
    the one that was asked, if it is not of resolv.conf; `transport` is udp, tcp or tls
    (RFC 7858). A `truncated` answer says to ask again over TCP.
    """

    name: str
    type: str
    rcode: str = ""
    answers: list[DnsAnswer] = []
    authority: list[DnsAnswer] = []
    additional: list[DnsAnswer] = []
    server: str = ""
    transport: str = "udp"
    truncated: bool = False

    protocol: ClassVar[str] = "dns"

    def __str__(self) -> str:
        what = ", ".join(a.data for a in self.answers) or self.rcode or "…"
        return f"DNS {self.name} {self.type} → {what}"


class Turn(msgspec.Struct, array_like=True):
    """One step of a conversation that is not decoded.

    Over TCP `size` bytes in a row from one side, over UDP one datagram. With `end` it has no bytes:
    that side ended with a "fin" or a "reset", or nobody listened ("refused"). `gap` is the wait
    before it in steps of 100 ms.
    """

    sent: bool
    """Whether it is the client's."""
    size: int = 0
    gap: int = 0
    end: str = ""


class RawMessage(msgspec.Struct, frozen=True):
    """What one side said, until the other did; over UDP one datagram."""

    sent: bool
    data: bytes


class RawFlow(Flow, kw_only=True, omit_defaults=True):
    """A conversation as bytes: what TCP and UDP flows share.

    `reason` says why it was not decoded, or is "loopback" for what was left alone.
    `sent` and `received` count bytes, from the client's side; `outgoing` and `incoming` are the
    bytes, `turns` their order. There are none of what is opaque (TLS, QUIC) or left alone.
    `masks` are (start, end) of outgoing bytes that vary by themselves, `echoes` (place in incoming,
    place in outgoing, length) of bytes that the server says again.
    """

    reason: str = ""
    sent: int = 0
    received: int = 0
    outgoing: Body = msgspec.field(default_factory=Body)
    incoming: Body = msgspec.field(default_factory=Body)
    turns: list[Turn] = []
    masks: list[tuple[int, int]] = []
    echoes: list[tuple[int, int, int]] = []

    @property
    def sent_bytes(self) -> bytes:
        """Return all that the client sent."""
        return self.outgoing.content

    @property
    def received_bytes(self) -> bytes:
        """Return all that the server sent."""
        return self.incoming.content

    @property
    def messages(self) -> list[RawMessage]:
        """Return who said what, in order."""
        return self._messages(datagrams=False)

    @property
    def closed_by(self) -> str:
        """Return who ended first, "client" or "server"; "" while nobody has."""
        side = next((turn.sent for turn in self.turns if turn.end), None)
        return "" if side is None else "client" if side else "server"

    def _messages(self, *, datagrams: bool) -> list[RawMessage]:
        content = {True: self.sent_bytes, False: self.received_bytes}
        position = {True: 0, False: 0}
        out: list[RawMessage] = []
        for turn in self.turns:
            start = position[turn.sent]
            position[turn.sent] = start + turn.size
            data = content[turn.sent][start : start + turn.size]
            if not datagrams and out and out[-1].sent is turn.sent:
                out[-1] = RawMessage(turn.sent, out[-1].data + data)
            elif not turn.end:
                out.append(RawMessage(turn.sent, data))
        return out


class TcpFlow(RawFlow, kw_only=True, omit_defaults=True, tag="tcp"):
    """A connection whose content is not decoded.

    `sni` names the server of an opaque TLS connection; `tls` says that TLS was taken off, `later`
    that something else was said on the connection before: an upgrade, or in another test.
    """

    sni: str = ""
    tls: bool = False
    later: bool = False

    protocol: ClassVar[str] = "tcp"

    def __str__(self) -> str:
        what = f" ({self.error.kind})" if self.error else f" ({self.reason})" if self.reason else ""
        return f"TCP {self.sni or self.host}:{self.port}{what}"


class UdpFlow(RawFlow, kw_only=True, omit_defaults=True, tag="udp"):
    """Datagrams between one client socket and one destination.

    `reason` says why QUIC was not decoded, or was refused.
    """

    datagrams_sent: int = 0
    datagrams_received: int = 0

    protocol: ClassVar[str] = "udp"

    @property
    def messages(self) -> list[RawMessage]:
        """Return the datagrams, in order."""
        return self._messages(datagrams=True)

    def __str__(self) -> str:
        return f"UDP {self.host}:{self.port}{f' ({self.reason})' if self.reason else ''}"


class TlsFailure(Flow, kw_only=True, omit_defaults=True, tag="tls_failure"):
    """A TLS handshake that failed; `side` is client (it refused our certificate) or server.

    `certificate` is the server's (DER), if that is what was bad and it was seen.
    """

    side: str
    sni: str = ""
    detail: str = ""
    certificate: bytes = b""

    protocol: ClassVar[str] = "tls"

    @property
    def is_of_certificate(self) -> bool:
        """Tell whether it was the certificate that was bad, rather than the handshake."""
        is_alert = "_" in self.detail
        return bool(self.certificate) or ("certificate" in self.detail and not is_alert)

    def __str__(self) -> str:
        where = f"{self.sni or self.host}:{self.port}"
        return f"TLS {where} failed on the {self.side}'s side: {self.detail}"


AnyRaw: TypeAlias = TcpFlow | UdpFlow


class ServiceFlow(Flow, kw_only=True, omit_defaults=True, tag="service"):
    """One exchange with a database or a broker.

    `service` names the protocol, `session` whose connection it is (user@database). `step` says
    what it is for: connect, prepare, query, ... `question` and `values` are what the client asked,
    `form` how it wants the answer, `sent` what it sent when told to go on (the rows of a COPY),
    `answer` what the server said, as the protocol writes it. `notes` are the protocol's own.
    """

    service: str
    session: str = ""
    step: str = ""
    question: str = ""
    form: str = ""
    values: list[bytes | None] = []
    sent: bytes = b""
    answer: bytes = b""
    notes: dict[str, bytes] = {}

    protocol: ClassVar[str] = "service"

    @property
    def asked(self) -> str:
        """Return what was asked, for people."""
        words = [(value or b"").decode("utf-8", "backslashreplace") for value in self.values]
        return " ".join([self.question or self.step, *words])

    @property
    def told(self) -> str:
        """Return in a few words what the server answered."""
        return f"{len(self.answer)} bytes"

    def __str__(self) -> str:
        return f"{self.service} {self.asked} → {self.error.kind if self.error else self.told}"


class _DatabaseFlow(ServiceFlow, kw_only=True, omit_defaults=True):
    """What is said to a database, as a user: `session` is "user@database"."""

    @property
    def user(self) -> str:
        return self.session.partition("@")[0]

    @property
    def database(self) -> str:
        return self.session.partition("@")[2]


class SqlFlow(_DatabaseFlow, kw_only=True, omit_defaults=True, tag="sql"):
    """A statement, or what is said around one: `step` is connect, prepare, query, execute, ...

    A query is a statement as text; one that is executed has been prepared and has parameters.
    """

    protocol: ClassVar[str] = "sql"

    @property
    def statement(self) -> str:
        return self.question

    @property
    def parameters(self) -> list[Any]:
        """Return the parameters, as Python's values where their types are known."""
        return _sql(self).parameters(self)

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns of the answer."""
        return _sql(self).columns(self)

    @property
    def rows(self) -> list[list[Any]]:
        """Return all rows of the answer, as Python's values where their types are known."""
        return _sql(self).rows(self)

    @property
    def command(self) -> str:
        """Return what the server says that it did: `INSERT 0 1`; "" when it failed."""
        return _sql(self).command(self)

    @property
    def sqlstate(self) -> str:
        """Return the code of the error that the server answered, "" for none."""
        return _sql(self).failure(self)[0]

    @property
    def message(self) -> str:
        """Return the text of the error that the server answered, "" for none."""
        return _sql(self).failure(self)[1]

    @property
    def asked(self) -> str:
        step = "" if self.step in ("query", "execute") else f"{self.step} "
        return f"{step}{self.question or self.session}"

    @property
    def told(self) -> str:
        state = self.sqlstate
        return f"{state} {self.message}" if state else self.command or self.step


class SqlReader(Protocol):
    """How a database's protocol writes answers; nothing in it raises on what a peer sent."""

    def parameters(self, flow: SqlFlow) -> list[Any]: ...
    def columns(self, flow: SqlFlow) -> list[str]: ...
    def rows(self, flow: SqlFlow) -> list[list[Any]]: ...
    def command(self, flow: SqlFlow) -> str: ...
    def failure(self, flow: SqlFlow) -> tuple[str, str]: ...


def _sql(flow: SqlFlow) -> SqlReader:
    from pytest_netcapture import mysql_answers, postgresql_answers

    return mysql_answers if flow.service == "mysql" else postgresql_answers


class RedisFlow(ServiceFlow, kw_only=True, omit_defaults=True, tag="redis"):
    """A command and its reply, or a message; `step` is command, connect or message."""

    protocol: ClassVar[str] = "redis"

    @property
    def command(self) -> str:
        """Return the command's name, in upper case."""
        return self.question

    @property
    def arguments(self) -> list[Any]:
        """Return what follows the name: text, or bytes that are none."""
        return [redis_messages.shown(value or b"") for value in self.values]

    @property
    def reply(self) -> Any:
        """Return the reply as Python's value; a `redis_messages.ReplyError` for an error."""
        replies = [redis_messages.parse(value) for value in redis_messages.values(self.answer)]
        return replies[0] if len(replies) == 1 else replies

    @property
    def asked(self) -> str:
        return " ".join([self.question, *(str(one) for one in self.arguments)])

    @property
    def told(self) -> str:
        return str(self.reply)


class MongoFlow(_DatabaseFlow, kw_only=True, omit_defaults=True, tag="mongo"):
    """A command to MongoDB and its answer; `step` is command or connect.

    Documents are read with pymongo's package `bson`, and have its types.
    """

    protocol: ClassVar[str] = "mongo"

    @property
    def command(self) -> str:
        """Return the command's name: `find`."""
        return self.question

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the command's fields as they were sent, without those of sessions and clocks."""
        return _mongo().command(self.values, self.notes.get("identifiers", b""))

    @property
    def collection(self) -> str:
        """Return the collection that the command is for, "" for none."""
        fields = self.arguments
        name = fields.get("collection" if self.question == "getMore" else self.question)
        return name if isinstance(name, str) else ""

    @property
    def documents(self) -> list[Any]:
        """Return what was sent to be written: an insert's documents, updates, deletes."""
        fields = self.arguments
        lists = (fields.get(name) for name in ("documents", "updates", "deletes"))
        return next((found for found in lists if isinstance(found, list)), [])

    @property
    def reply(self) -> dict[str, Any]:
        """Return the answer; of several the last."""
        return (self._replies or [{}])[-1]

    @property
    def batch(self) -> list[Any]:
        """Return the documents that were found, as far as this command fetched them."""
        return _mongo().batch(self._replies)

    @property
    def code(self) -> int:
        """Return the code of the error that was answered, also for one write; 0 for none."""
        return _mongo().failure(self.reply)[0]

    @property
    def message(self) -> str:
        """Return the text of the error that was answered, "" for none."""
        return _mongo().failure(self.reply)[1]

    @property
    def _replies(self) -> list[dict[str, Any]]:
        return _mongo().answers(self.answer)

    @property
    def asked(self) -> str:
        return " ".join((value or b"").decode("utf-8", "replace") for value in self.values) or (
            self.question
        )

    @property
    def told(self) -> str:
        try:
            return _mongo().told(self._replies)
        except EnvironmentProblem:
            return super().told


class MongoReader(Protocol):
    """What reads documents; nothing in it raises on what a peer sent."""

    def command(self, found: list[bytes | None], note: bytes) -> dict[str, Any]: ...
    def answers(self, data: bytes) -> list[dict[str, Any]]: ...
    def batch(self, replies: list[dict[str, Any]]) -> list[Any]: ...
    def failure(self, reply: dict[str, Any]) -> tuple[int, str]: ...
    def told(self, replies: list[dict[str, Any]]) -> str: ...


def _mongo() -> MongoReader:
    """Return what reads documents. Raises `EnvironmentProblem` where bson is not installed."""
    try:
        from pytest_netcapture import mongodb_documents
    except ImportError:
        raise EnvironmentProblem(
            "documents of MongoDB are read with pymongo's package bson, which is not installed",
            cure="pip install 'pytest-netcapture[mongodb]'",
        ) from None
    return mongodb_documents


class MailFlow(ServiceFlow, kw_only=True, omit_defaults=True, tag="mail"):
    """A mail that was sent, or what was said around it; `step` is message, command or connect."""

    protocol: ClassVar[str] = "smtp"

    @property
    def sender(self) -> str:
        """Return the envelope's sender."""
        return _address(self.values[0]) if self.values else ""

    @property
    def recipients(self) -> list[str]:
        """Return the envelope's recipients."""
        return [_address(value) for value in self.values[1:]]

    @property
    def mail(self) -> EmailMessage:
        """Return the mail, parsed."""
        from email import message_from_bytes, policy

        return message_from_bytes(self.sent, policy=policy.default)

    @property
    def subject(self) -> str:
        return str(self.mail.get("subject", ""))

    @property
    def text(self) -> str:
        """Return the plain text of the mail, else its HTML."""
        body = self.mail.get_body(("plain", "html"))
        return body.get_content() if body is not None else ""

    @property
    def asked(self) -> str:
        if self.step != "message":
            return self.question or self.step
        return f"{self.sender} to {', '.join(self.recipients)}: {self.subject}"

    @property
    def told(self) -> str:
        return self.answer.decode("utf-8", "replace").rstrip().replace("\r\n", " ")


def _address(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


SERVICES: dict[str, type[ServiceFlow]] = {
    "postgresql": SqlFlow,
    "mysql": SqlFlow,
    "redis": RedisFlow,
    "mongodb": MongoFlow,
    "smtp": MailFlow,
}


def service_flow(service: str, **fields: Any) -> ServiceFlow:
    """Return a flow of the type that fits the service."""
    return SERVICES.get(service, ServiceFlow)(service=service, **fields)


AnyFlow: TypeAlias = (
    HttpFlow
    | WebSocketFlow
    | GrpcFlow
    | DnsFlow
    | TcpFlow
    | UdpFlow
    | TlsFailure
    | ServiceFlow
    | SqlFlow
    | RedisFlow
    | MongoFlow
    | MailFlow
)


class Difference(msgspec.Struct, frozen=True):
    """One field in which a recorded request and an actual one differ, as text for people.

    `volatile` names the kind of value (date, uuid, jwt, scrubbed, ...) when the two differ only so.
    """

    field: str
    recorded: str
    actual: str
    volatile: str = ""


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Why a test must fail even if its code swallowed the error.

    `kind`: blocked, unmatched, uncaptured, cassette, engine. `flow` is what was attempted. For
    unmatched, `reason` says which miss it is (never recorded, used up, ...), `nearest` is the
    recording that comes closest, `differences` field by field, and `advice` what to do.
    """

    kind: str
    reason: str
    flow: AnyFlow | None = None
    nearest: AnyFlow | None = None
    differences: list[Difference] = []
    advice: str = ""
