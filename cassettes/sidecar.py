"""The text beside a cassette, for people who review a change: written with it, never read back.

It holds nothing that changes by itself, and says where something was scrubbed by showing the tags.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import msgspec

from pytest_netcapture.cassettes.format import SEGMENT
from pytest_netcapture.cassettes.records import (
    AnyRecord,
    BodyRef,
    DnsRecord,
    Fields,
    HttpRecord,
    MessageRecord,
    RequestRecord,
    ResponseRecord,
    ServiceRecord,
    TcpRecord,
    TlsRecord,
    UdpRecord,
    WebSocketRecord,
    bodies_of,
)
from pytest_netcapture.cassettes.service_lines import service_lines, service_title
from pytest_netcapture.cassettes.source import Source
from pytest_netcapture.flows import FlowError

_ROW = 16
_HEADERS = frozenset(
    str.split(
        """
    accept authorization content-type cookie idempotency-key link location
    proxy-authorization retry-after set-cookie www-authenticate
    """
    )
)


class Extent(NamedTuple):
    """How much is shown of each flow: lines of a body, columns, turns, bytes, header fields."""

    lines: int = 20
    width: int = 160
    turns: int = 60
    bytes: int = 64 * 1024
    every_header: bool = False


BRIEF = Extent()
WHOLE = Extent(1 << 30, 1 << 30, 1 << 30, 1 << 62, every_header=True)


def sidecar_path(cassette: str) -> str:
    return cassette + ".txt"


def heading(name: str, count: int) -> str:
    flows = "1 flow" if count == 1 else f"{count} flows"
    note = "For review only: this file is written with the cassette and never read."
    return f"{name}: {flows}\n{note}\n"


def describe(number: int, record: AnyRecord, source: Source, extent: Extent = BRIEF) -> str:
    """Return the paragraph of one flow."""
    role = f"  by {record.process}" if record.process else ""
    lines = ["", f"--- {number}. {title(record)}{role}"]
    if isinstance(record, HttpRecord):
        lines += _message(record.request, source, extent)
        if record.response:
            lines.append(f"< {record.response.status} {record.response.reason}".rstrip())
            lines += _message(record.response, source, extent)
    if isinstance(record, (TcpRecord, UdpRecord)):
        lines += _conversation(record, source, extent)
    if isinstance(record, WebSocketRecord):
        lines += [f"  {_websocket_message(message)}" for message in record.messages]
    if isinstance(record, ServiceRecord):
        lines += service_lines(record, extent.lines)
    if record.error:
        lines.append(f"! {_failure(record.error)}")
    return "\n".join(_clean(line, extent.width) for line in lines) + "\n"


def title(record: AnyRecord) -> str:
    """Return what a flow is, and what came of it, in a line."""
    if isinstance(record, HttpRecord):
        status = f" -> {record.response.status}" if record.response else ""
        return f"{record.request.method} {_url(record.request)}{status}"
    if isinstance(record, DnsRecord):
        answers = ", ".join(answer.data for answer in record.answers)
        how = "" if record.transport == "udp" else f" over {record.transport}"
        server = f" of {record.server}" if record.server else ""
        told = "truncated" if record.truncated else answers or record.rcode
        return f"DNS {record.name} {record.type}{server}{how} -> {told}"
    place = f"{record.host}:{record.port}"
    if isinstance(record, ServiceRecord):
        return service_title(record, place)
    if isinstance(record, TcpRecord):
        kind = "TLS" if record.tls else "TCP"
        return f"{kind} {place}" + (f" ({record.reason})" if record.reason else "")
    if isinstance(record, TlsRecord):
        return f"TLS {record.sni or place} failed on the {record.side}'s side: {record.detail}"
    return f"UDP {place}"


def _websocket_message(message: MessageRecord) -> str:
    mark = ">" if message.sent else "<"
    code = f" {message.code}" if message.code else ""
    try:
        text = message.data.decode()
    except UnicodeDecodeError:
        text = f"[{len(message.data)} bytes]"
    return f"{mark} {message.kind}{code} {text}".rstrip()


def _conversation(record: TcpRecord | UdpRecord, source: Source, extent: Extent) -> list[str]:
    """Return who said what, of long turns how they begin."""
    client, server = bodies_of(record)
    starts = {True: _start(client, source, extent), False: _start(server, source, extent)}
    position = {True: 0, False: 0}
    lines = []
    for turn in record.turns[: extent.turns]:
        at = position[turn.sent]
        position[turn.sent] = at + turn.size
        mark = ">" if turn.sent else "<"
        wait = f" after {turn.gap / 10} s" if turn.gap else ""
        if turn.end:
            lines.append(f"  {mark} [{turn.end}{wait}]")
            continue
        lines.append(f"  {mark} [{turn.size} bytes{wait}]")
        data = starts[turn.sent][at : at + turn.size]
        lines += [f"    {line}" for line in _readable(data)[: extent.lines]]
    if len(record.turns) > extent.turns:
        lines.append(f"  ... {len(record.turns) - extent.turns} more turns")
    if record.masks:
        spans = ", ".join(f"{start}-{end}" for start, end in record.masks)
        lines.append(f"  not compared: bytes {spans} of what the client says")
    return lines


def _readable(data: bytes) -> list[str]:
    """Return text by lines, anything else as a hex dump."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if all(character.isprintable() or character in "\r\n\t" for character in text):
        return [line.rstrip("\r") for line in text.split("\n") if line.rstrip("\r")]
    rows = [data[start : start + _ROW] for start in range(0, len(data), _ROW)]
    return [f"{row.hex(' '):<{3 * _ROW}} {_ascii(row)}" for row in rows]


def _ascii(data: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)


def _url(request: RequestRecord) -> str:
    host = f"[{request.host}]" if ":" in request.host else request.host
    port = (
        "" if {"http": 80, "https": 443}.get(request.scheme) == request.port else f":{request.port}"
    )
    target = request.target if request.target.startswith("/") else f" {request.target}"
    return f"{request.scheme}://{host}{port}{target}"


def _message(message: RequestRecord | ResponseRecord, source: Source, extent: Extent) -> list[str]:
    shown = message.headers if extent.every_header else filter(_is_telling, message.headers)
    lines = [f"  {name}: {value}" for name, value in shown]
    body = message.body
    if body.size:
        coding = f", sent as {body.coding}" if body.coding else ""
        lines.append(f"  [{body.size} bytes, {body.id[:10]}{coding}]")
        lines += [f"    {line}" for line in _excerpt(body, message.headers, source, extent)]
    return lines


def _is_telling(field: tuple[str, str]) -> bool:
    return field[0].lower() in _HEADERS or "scrubbed-" in field[1]


def _excerpt(body: BodyRef, headers: Fields, source: Source, extent: Extent) -> list[str]:
    media_type = next((v for k, v in headers if k.lower() == "content-type"), "")
    if media_type.startswith(("image/", "video/", "audio/", "font/")):
        return []
    data = _start(body, source, extent)
    if data[:64].lstrip()[:1] in (b"{", b"[") and len(data) == body.size:
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            data = msgspec.json.format(data, indent=2)
    try:
        text = data[: extent.bytes].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < min(len(data), extent.bytes) - 4:
            return []
        text = data[: error.start].decode("utf-8")
    if "\0" in text:
        return []
    lines = text.splitlines()
    left = len(lines) - extent.lines
    more = [f"... {left} more lines"] if left > 0 else []
    return lines[: extent.lines] + more


def _start(body: BodyRef, source: Source, extent: Extent) -> bytes:
    """Return a small body whole, of a large one the beginning."""
    if body.size <= max(SEGMENT, extent.bytes):
        return source.content(body)
    return next(source.pieces(body), b"")[: extent.bytes]


def _failure(error: FlowError) -> str:
    after = f" after {error.after} bytes" if error.after else ""
    return f"{error.kind}{after}"


def _clean(line: str, width: int) -> str:
    """Make control characters visible, so that a body cannot play with the reviewer's terminal."""
    line = line if len(line) <= width else line[: width - 1] + "…"
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in line)
