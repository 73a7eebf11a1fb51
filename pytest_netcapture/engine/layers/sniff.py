"""What a client speaks, told from its first bytes.

1. Nothing is consumed: callers peek, and come back with more bytes while the answer is "more".
2. A ClientHello may be cut over several TLS records, and is often larger than one packet since it
   carries post-quantum shares; up to `HELLO_LIMIT` bytes are looked at (RFC 8446 §4.1.2, §5.1).
3. HTTP/1 is a known method, one space, and "/" or "*"; with any other token for a method or form of
   target (RFC 9112 §3) the line must end in HTTP/1.x, which tells SMTP, Redis, SSH or FTP apart.
4. Waiting for more could hang a client that waits for an answer, so "more" is said only to what
   begins like a request: a lone "hello" is unknown at once.
5. Redis is an array of strings, as all its clients write commands.
6. PostgreSQL is a length and a version or request code (its manual, "Message Formats"); what begins
   with two NULs and has not eight bytes is waited for.
7. MongoDB is a head whose four numbers fit, Kafka one with a client's name; no other protocol here
   begins like one.
"""

from __future__ import annotations

import enum
import re
import struct
from dataclasses import dataclass

from pytest_netcapture.kafka_messages import begins_like_kafka
from pytest_netcapture.mongodb_messages import begins_like_mongodb

HELLO_LIMIT = 1 << 16
METHOD_LIMIT = 32
QUIC_SMALLEST = 1200
_LONG_HEADER = 0xC0
LINE_LIMIT = 1 << 16

HEAD = 6
"""Bytes that tell a ClientHello from what is none: its record's head and its own type."""
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_SIGNATURES = 13
_ALPN = 16
_VERSIONS = 43
TLS_1_2, TLS_1_3 = 0x0303, 0x0304
_ECDSA_P256 = 0x0403
_ECDSA_SUITES = frozenset(
    (0xC009, 0xC00A, 0xC023, 0xC024, 0xC02B, 0xC02C, *range(0xC0AC, 0xC0B0), 0xCCA9)
)
"""Cipher suites of TLS 1.2 for a server with an ECDSA key; TLS 1.3's are for any."""
_POSTGRESQL_HEAD = struct.Struct(">II")
_POSTGRESQL_CODES = range(80877102, 80877105)
"""CancelRequest, SSLRequest, GSSENCRequest."""
_AMQP = b"AMQP\0\0\x09\x01"
_ARRAY = ord("*")
_REDIS_COMMAND = re.compile(rb"\*[1-9]\d{0,6}\r\n\$\d")
_REDIS_BEGINNING = re.compile(rb"\*([1-9]\d{0,6}(\r(\n\$?)?)?)?")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_METHODS = frozenset(
    b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH QUERY "
    b"PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK SEARCH REPORT ACL BIND REBIND UNBIND "
    b"MERGE MKACTIVITY CHECKOUT MKCALENDAR LINK UNLINK PURGE "
    b"NOTIFY SUBSCRIBE UNSUBSCRIBE M-SEARCH".split()
)


class Guess(enum.Enum):
    """What the first bytes are; MORE: not enough of them yet."""

    MORE = "more"
    TLS = "tls"
    HTTP1 = "http1"
    HTTP2 = "http2"
    POSTGRESQL = "postgresql"
    REDIS = "redis"
    MEMCACHED = "memcached"
    AMQP = "amqp"
    MONGODB = "mongodb"
    KAFKA = "kafka"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ClientHello:
    """What a TLS client asks for. `length` is how many bytes of the stream its hello takes.

    `ecdsa` says that it takes a certificate with a P-256 key.
    """

    sni: str
    alpn: tuple[str, ...]
    versions: tuple[int, ...]
    length: int
    ecdsa: bool = True


@dataclass(frozen=True)
class NeedMore:
    """At least `length` bytes, counted from the first, are needed to know more."""

    length: int


@dataclass(frozen=True)
class NotTls:
    """It is not a ClientHello, and why."""

    reason: str


class _Bad(Exception):
    """A length does not fit."""


def sniff(data: bytes) -> Guess:
    """Tell what a client speaks that sent `data` first."""
    if not data:
        return Guess.MORE
    if begins_like_kafka(data):
        return Guess.KAFKA
    if begins_like_mongodb(data):
        return Guess.MONGODB
    if data[0] == _HANDSHAKE:
        return _sniff_tls(data)
    if data.startswith(_PREFACE[:4]) or _PREFACE.startswith(data):
        return _sniff_preface(data)
    if data[0] == _ARRAY:
        return _sniff_redis(data)
    if data.startswith(_AMQP):
        return Guess.AMQP
    if data[0] == 0:
        return _sniff_postgresql(data)
    return _sniff_http(data)


def looks_like_quic(datagram: bytes) -> bool:
    """Tell whether a first datagram may be a QUIC client's, of whatever version (RFC 9000 §17.2).

    Its server takes none that is smaller (§14.1), nor with a shorter connection ID (§7.2).
    """
    if len(datagram) < QUIC_SMALLEST or datagram[0] & _LONG_HEADER != _LONG_HEADER:
        return False
    return any(datagram[1:5]) and 8 <= datagram[5] <= 20


def parse_client_hello(data: bytes) -> ClientHello | NeedMore | NotTls:
    """Parse the ClientHello that `data` starts with."""
    message = bytearray()
    position = 0
    while True:
        if len(data) < position + 5:
            return _record_start(data, position)
        if data[position] != _HANDSHAKE or data[position + 1] != 3:
            return NotTls("no handshake record")
        length = int.from_bytes(data[position + 3 : position + 5], "big")
        if not 0 < length <= (1 << 14) + 256:
            return NotTls("bad record length")
        end = position + 5 + length
        message += data[position + 5 : end]
        wanted = _message_length(message)
        if wanted < 0:
            return NotTls("the first message is no ClientHello")
        if wanted > HELLO_LIMIT or end > HELLO_LIMIT + 4096:
            return NotTls("ClientHello too large")
        if len(message) >= wanted > 0:
            used = end - (len(message) - wanted)
            return _parse_body(bytes(message[4:wanted]), min(used, end))
        if len(data) < end:
            return NeedMore(end)
        position = end


def begins_tls(data: bytes) -> bool:
    """Tell whether `data` begins as a ClientHello does: its record's and its message's head."""
    return len(data) >= HEAD and not isinstance(parse_client_hello(data), NotTls)


def _record_start(data: bytes, position: int) -> NeedMore | NotTls:
    have = data[position:]
    expected = bytes((_HANDSHAKE, 3))
    if have[:2] != expected[: len(have)]:
        return NotTls("no handshake record")
    return NeedMore(position + 5)


def _message_length(message: bytearray) -> int:
    """Return the length of the message and its header, 0 if not known yet, -1 if it is another."""
    if message and message[0] != _CLIENT_HELLO:
        return -1
    if len(message) < 4:
        return 0
    return 4 + int.from_bytes(message[1:4], "big")


class _Reader:
    """Takes length-prefixed fields off a buffer."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise _Bad
        out = self._data[self._position : end]
        self._position = end
        return out

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))


def _parse_body(body: bytes, length: int) -> ClientHello | NotTls:
    sni = ""
    alpn: tuple[str, ...] = ()
    signatures: tuple[int, ...] = ()
    reader = _Reader(body)
    try:
        versions: tuple[int, ...] = (reader.number(2),)
        reader.take(32)
        reader.vector(1)
        suites = reader.vector(2)
        reader.vector(1)
        extensions = _Reader(reader.vector(2) if reader else b"")
        while extensions:
            kind, content = extensions.number(2), _Reader(extensions.vector(2))
            if kind == _SERVER_NAME:
                sni = _server_name(content)
            elif kind == _ALPN:
                alpn = _protocols(content)
            elif kind == _VERSIONS:
                versions = _numbers(content.vector(1))
            elif kind == _SIGNATURES:
                signatures = _numbers(content.vector(2))
    except _Bad:
        return NotTls("malformed ClientHello")
    ecdsa = _ECDSA_P256 in signatures and (
        TLS_1_3 in versions or not _ECDSA_SUITES.isdisjoint(_numbers(suites))
    )
    return ClientHello(sni, alpn, versions, length, ecdsa)


def _numbers(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1])


def _server_name(content: _Reader) -> str:
    names = _Reader(content.vector(2)) if content else _Reader(b"")
    while names:
        kind, name = names.number(1), names.vector(2)
        if kind == 0:
            return name.decode("latin-1")
    return ""


def _protocols(content: _Reader) -> tuple[str, ...]:
    out = []
    names = _Reader(content.vector(2))
    while names:
        out.append(names.vector(1).decode("latin-1"))
    return tuple(out)


def _sniff_tls(data: bytes) -> Guess:
    parsed = parse_client_hello(data)
    if isinstance(parsed, NeedMore):
        return Guess.MORE
    return Guess.TLS if isinstance(parsed, ClientHello) else Guess.UNKNOWN


def _sniff_preface(data: bytes) -> Guess:
    if data.startswith(_PREFACE):
        return Guess.HTTP2
    return Guess.MORE if _PREFACE.startswith(data) else _sniff_http(data)


def _sniff_postgresql(data: bytes) -> Guess:
    """Tell a start-up by its length, at most 10000, and its code (rule 6)."""
    if len(data) < _POSTGRESQL_HEAD.size:
        return Guess.MORE if data[:2] == b"\0\0"[: len(data)] else Guess.UNKNOWN
    length, code = _POSTGRESQL_HEAD.unpack_from(data)
    known = code >> 16 == 3 or code in _POSTGRESQL_CODES
    return Guess.POSTGRESQL if 8 <= length <= 10_000 and known else Guess.UNKNOWN


def _sniff_redis(data: bytes) -> Guess:
    """Tell a command by how it begins: an array, its length, a string."""
    if _REDIS_COMMAND.match(data):
        return Guess.REDIS
    return Guess.MORE if _REDIS_BEGINNING.fullmatch(data) else Guess.UNKNOWN


def _sniff_http(data: bytes) -> Guess:
    method, space, rest = data[: METHOD_LIMIT + 1].partition(b" ")
    known = method in _METHODS
    if not space:
        return Guess.MORE if known or _starts_a_method(method) else Guess.UNKNOWN
    if not method or not _TOKEN.issuperset(method):
        return Guess.UNKNOWN
    if known and rest[:1] in (b"/", b"*") and rest:
        return Guess.HTTP1
    line, end, _ = data.partition(b"\n")
    if end:
        version = line.removesuffix(b"\r").rpartition(b" ")[2]
        return (
            Guess.HTTP1 if version.startswith(b"HTTP/1.") and len(version) == 8 else Guess.UNKNOWN
        )
    if len(line) > LINE_LIMIT:
        return Guess.UNKNOWN
    return Guess.MORE if known or (method.isupper() and rest[:1] == b"/") else Guess.UNKNOWN


def _starts_a_method(data: bytes) -> bool:
    return any(method.startswith(data) for method in _METHODS)
