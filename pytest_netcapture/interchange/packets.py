"""Exchanges as packets that Wireshark opens: a cassette has none, so they are made.

1. Each exchange is a TCP connection of its own, between a client and a server with made-up
   addresses, a look-up of the server's name before it. TLS is real: both sides of a handshake run
   here, and the secrets that decrypt it are in the file.
2. Content is not coded and not in chunks. HTTP/2 is HTTP/2; HTTP/3 is shown as HTTP/2, and said so.
3. A clock ticks a millisecond a packet, from the day of the recording.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import struct
import tempfile
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address

import hpack

from pytest_netcapture.engine import pcapng
from pytest_netcapture.engine.authority import Authority
from pytest_netcapture.engine.layers import http2_frames as h2
from pytest_netcapture.engine.layers.http2_fields import to_raw
from pytest_netcapture.flows import AnyFlow, Headers, HttpFlow, Message, WebSocketFlow
from pytest_netcapture.interchange.building import decoded_fields
from pytest_netcapture.redirect.icmp import checksum

_CLIENT = int(IPv4Address("10.0.0.1"))
_SERVERS = int(IPv4Address("198.18.0.1"))
_RESOLVER = int(IPv4Address("10.0.0.53"))
_FIRST_PORT, _PORTS = 10_000, 50_000
_MILLISECOND = 1_000_000
_MOST = 32_000
"""Bytes of a segment: as with offloading to the network card."""
_SYN, _ACK, _PSH, _FIN = 2, 16, 8, 1
_TCP, _UDP = 6, 17
_DNS = 53


def write(flows: Iterable[AnyFlow], began: int = 0) -> tuple[bytes, int]:
    """Return a pcapng file, and how many flows are left out: those that are no HTTP exchange.

    `began` is nanoseconds since 1970.
    """
    with tempfile.TemporaryDirectory(prefix="netcapture-export-") as folder:
        wire = _Wire(began, os.path.join(folder, "secrets"))
        left = 0
        for flow in flows:
            if isinstance(flow, HttpFlow) and not isinstance(flow, WebSocketFlow):
                wire.exchange(flow)
            else:
                left += 1
        data = b"".join(pcapng.encode(wire.packets, secrets=wire.secrets(), comments=wire.comments))
    return data, left


class _Wire:
    """Packets of one exchange after another."""

    def __init__(self, began: int, secrets: str) -> None:
        self.packets: list[pcapng.Packet] = []
        self.comments: dict[int, list[str]] = {}
        self._now = began
        self._secrets = secrets
        self._authority = Authority()
        self._authority.log_secrets(secrets)
        self._hosts: dict[str, int] = {}
        self._count = 0

    def secrets(self) -> bytes:
        try:
            with open(self._secrets, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def exchange(self, flow: HttpFlow) -> None:
        """Add the look-up of a server, and a connection with one exchange."""
        request = flow.request
        server = self._address(request.host)
        comment = [str(flow)]
        if request.http_version == "3":
            comment.append("it was HTTP/3, over QUIC")
        self.comments[len(self.packets)] = comment
        self._count += 1
        port = _FIRST_PORT + self._count % _PORTS
        connection = _Connection(self, (_CLIENT, port), (server, request.port))
        modern = request.http_version in ("2", "3")
        said = _http2(flow) if modern else _http1(flow)
        if request.scheme == "https":
            said = self._in_tls(said, request.host, "h2" if modern else "http/1.1")
        connection.open()
        for sent, data in said:
            connection.say(data, sent=sent)
        connection.close()

    def _address(self, host: str) -> int:
        if host not in self._hosts:
            try:
                self._hosts[host] = int(IPv4Address(host))
            except ValueError:
                self._hosts[host] = _SERVERS + len(self._hosts)
                self._look_up(host, self._hosts[host])
        return self._hosts[host]

    def _look_up(self, host: str, address: int) -> None:
        import dns.exception
        import dns.message
        import dns.rrset

        try:
            query = dns.message.make_query(host, "A", id=len(self._hosts))
            response = dns.message.make_response(query)
            rows = dns.rrset.from_text(f"{host}.", 60, "IN", "A", str(IPv4Address(address)))
        except dns.exception.DNSException:
            return  # not every host that a client names is a name
        response.answer.append(rows)
        ends = (_CLIENT, _FIRST_PORT), (_RESOLVER, _DNS)
        for (here, there), message in ((ends, query), (ends[::-1], response)):
            data = message.to_wire()
            head = struct.pack("!HHHH", here[1], there[1], 8 + len(data), 0)
            self.add(here[0], there[0], _UDP, head + data)

    def _in_tls(
        self, said: Iterable[tuple[bool, bytes]], host: str, alpn: str
    ) -> Iterator[tuple[bool, bytes]]:
        """Yield what goes over the wire when both sides speak TLS."""
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.load_verify_locations(cadata=self._authority.ca_pem.decode())
        trust.set_alpn_protocols([alpn])
        contexts = {True: trust, False: self._authority.server_context((host,), alpn=(alpn,))}
        coming = {True: ssl.MemoryBIO(), False: ssl.MemoryBIO()}
        ends = {
            sent: contexts[sent].wrap_bio(
                coming[sent],
                coming[not sent],
                server_side=not sent,
                server_hostname=host if sent else None,
            )
            for sent in (True, False)
        }
        for sent in (True, False, True, False):
            with contextlib.suppress(ssl.SSLWantReadError):
                ends[sent].do_handshake()
            yield from _carried(coming, sent)
        for sent, data in said:
            ends[sent].write(data)
            yield from _carried(coming, sent)
            while ends[not sent].pending() or coming[not sent].pending:
                try:
                    ends[not sent].read(1 << 16)
                except ssl.SSLWantReadError:
                    break

    def add(self, source: int, target: int, protocol: int, payload: bytes) -> None:
        """Add an IPv4 packet."""
        size = 20 + len(payload)
        head = struct.pack("!BBHHHBBHII", 0x45, 0, size, 0, 0x4000, 64, protocol, 0, source, target)
        head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
        self.packets.append(pcapng.Packet(self._now, head + payload))
        self._now += _MILLISECOND


def _carried(coming: dict[bool, ssl.MemoryBIO], sent: bool) -> Iterator[tuple[bool, bytes]]:
    """Yield what one side wrote, and leave it for the other to read."""
    data = coming[not sent].read()
    if data:
        coming[not sent].write(data)
        yield sent, data


class _Connection:
    """TCP between two ends that lose nothing."""

    def __init__(self, wire: _Wire, client: tuple[int, int], server: tuple[int, int]) -> None:
        self._wire = wire
        self._ends = {True: client, False: server}
        self._at = {True: 0, False: 0}

    def open(self) -> None:
        self._segment(_SYN, sent=True)
        self._segment(_SYN | _ACK, sent=False)
        self._segment(_ACK, sent=True)

    def say(self, data: bytes, *, sent: bool) -> None:
        for start in range(0, len(data), _MOST):
            self._segment(_PSH | _ACK, data[start : start + _MOST], sent=sent)
        self._segment(_ACK, sent=not sent)

    def close(self) -> None:
        self._segment(_FIN | _ACK, sent=True)
        self._segment(_FIN | _ACK, sent=False)
        self._segment(_ACK, sent=True)

    def _segment(self, flags: int, data: bytes = b"", *, sent: bool) -> None:
        here, there = self._ends[sent], self._ends[not sent]
        acknowledged = self._at[not sent] & 0xFFFFFFFF if flags & _ACK else 0
        numbers = (here[1], there[1], self._at[sent] & 0xFFFFFFFF, acknowledged)
        head = struct.pack("!HHIIBBHHH", *numbers, 5 << 4, flags, 0xFFFF, 0, 0)
        pseudo = struct.pack("!IIBBH", here[0], there[0], 0, _TCP, len(head) + len(data))
        head = head[:16] + checksum(pseudo + head + data).to_bytes(2, "big") + head[18:]
        self._wire.add(here[0], there[0], _TCP, head + data)
        self._at[sent] += len(data) + bool(flags & (_SYN | _FIN))


def _http1(flow: HttpFlow) -> Iterator[tuple[bool, bytes]]:
    request, response = flow.request, flow.response
    yield True, _head1(f"{request.method} {request.target} HTTP/1.1", request) + request.content
    if response:
        line = f"HTTP/1.1 {response.status} {response.reason}"
        yield False, _head1(line, response) + response.content


def _head1(line: str, message: Message) -> bytes:
    fields = _sized(message)
    lines = [line, *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")


def _sized(message: Message) -> Headers:
    fields = decoded_fields(message)
    if not message.body and "content-length" not in fields:
        return fields
    return fields.replace("content-length", str(message.body.size))


def _http2(flow: HttpFlow) -> Iterator[tuple[bool, bytes]]:
    """Yield an exchange as HTTP/2, whose windows are as large as it needs (RFC 9113 §3.4)."""
    request, response = flow.request, flow.response
    settings: dict[int, int] = {h2.Setting.INITIAL_WINDOW_SIZE: h2.LARGEST_WINDOW}
    wide = h2.LARGEST_WINDOW - h2.DEFAULT_WINDOW
    greeting = h2.settings_frame(settings) + h2.frame(h2.WINDOW_UPDATE, 0, 0, h2.word(wide))
    pseudo = [
        (b":method", request.method.encode()),
        (b":scheme", request.scheme.encode()),
        (b":authority", request.authority.encode()),
        (b":path", request.target.encode("latin-1", "replace")),
    ]
    yield True, h2.PREFACE + greeting
    yield False, greeting + h2.frame(h2.SETTINGS, h2.ACK, 0)
    fields = decoded_fields(request).replace("host", None)
    yield True, h2.frame(h2.SETTINGS, h2.ACK, 0) + _message2(pseudo, fields, request)
    if response:
        status = [(b":status", str(response.status).encode())]
        yield False, _message2(status, decoded_fields(response), response)


def _message2(pseudo: list[tuple[bytes, bytes]], fields: Headers, message: Message) -> bytes:
    encoder = hpack.Encoder()
    block = encoder.encode(pseudo + to_raw(fields.items()))
    trailers = message.trailers.items()
    ends = not message.body and not trailers
    out = [h2.header_block(1, block, end=ends, limit=h2.FRAME_LIMIT)]
    pieces = list(message.body.pieces(h2.FRAME_LIMIT))
    for number, piece in enumerate(pieces, 1):
        last = number == len(pieces) and not trailers
        out.append(h2.frame(h2.DATA, h2.END_STREAM if last else 0, 1, piece))
    if trailers:
        block = encoder.encode(to_raw(trailers))
        out.append(h2.header_block(1, block, end=True, limit=h2.FRAME_LIMIT))
    return b"".join(out)
