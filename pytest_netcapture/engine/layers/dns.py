"""DNS messages over UDP and TCP, without I/O (RFC 1035, EDNS RFC 6891).

1. Nothing here raises on what a peer sent: no query gives None, a broken one FORMERR.
2. A response is built from a `DnsFlow`: the question is echoed byte for byte (0x20 case included),
   RD is copied, RA set, OPT answered if it was asked.
3. Over UDP a response larger than the client takes (512 bytes without EDNS) has TC set and no
   records, so that it asks again over TCP.
4. Questions, addresses and aliases are read and written by hand: dnspython (30 ms to import) is
   used for all other records.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pytest_netcapture.engine.layers import dns_addresses
from pytest_netcapture.flows import DnsAnswer, DnsFlow

_HEADER = struct.Struct("!6H")
_QR, _TC, _RD, _RA, _CD = 0x8000, 0x0200, 0x0100, 0x0080, 0x0010
_OPCODE = 0x7800
_OPT = 41
_DO = 0x8000
_PLAIN_SIZE = 512
_OWN_SIZE = 1232
"""What we say that we take over UDP (DNS flag day 2020)."""
_SERVFAIL = 2
_FORMERR, _NOTIMP = 1, 4
_TYPES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV",
    35: "NAPTR", 64: "SVCB", 65: "HTTPS", 255: "ANY", 257: "CAA",
}  # fmt: skip
_RCODES = {"NOERROR": 0, "FORMERR": 1, "SERVFAIL": 2, "NXDOMAIN": 3, "NOTIMP": 4, "REFUSED": 5}


@dataclass(frozen=True)
class Question:
    """A query: `name` in lower case without the final dot, `size` as the client takes over UDP."""

    id: int
    name: str
    type: str
    message: bytes
    flags: int
    section: bytes
    """The question section as sent."""
    edns: bool = False
    size: int = _PLAIN_SIZE
    dnssec: bool = False


def parse_query(message: bytes) -> Question | None:
    """Parse a standard query with one question; None when it is anything else."""
    if len(message) < 12:
        return None
    identity, flags, questions, answers, authorities, additional = _HEADER.unpack_from(message)
    if flags & (_QR | _OPCODE) or questions != 1 or answers or authorities:
        return None
    labels, position = _labels(message, 12)
    if labels is None or position + 4 > len(message):
        return None
    number, rdclass = struct.unpack_from("!2H", message, position)
    if rdclass not in (1, 255):
        return None
    end = position + 4
    edns, size, dnssec = _edns(message, end, additional)
    return Question(
        identity,
        _text(labels),
        _type_name(number),
        message,
        flags,
        message[12:end],
        edns,
        size,
        dnssec,
    )


def format_error(message: bytes) -> bytes | None:
    """Answer what `parse_query` could not read; None for what is no query at all."""
    if len(message) < 12:
        return None
    identity, flags = struct.unpack_from("!2H", message)
    if flags & _QR:
        return None
    code = _NOTIMP if flags & _OPCODE else _FORMERR
    return _HEADER.pack(identity, _QR | flags & (_OPCODE | _RD) | _RA | code, 0, 0, 0, 0)


def build_response(question: Question, flow: DnsFlow, *, tcp: bool) -> bytes:
    """Write the answer that `flow` holds; one without an rcode is SERVFAIL."""
    rcode = _rcode(flow.rcode)
    flags = _QR | question.flags & (_RD | _CD) | _RA | rcode & 15
    sections = [
        _records(question, part) for part in (flow.answers, flow.authority, flow.additional)
    ]
    records, counts = b"".join(part for part, _ in sections), [count for _, count in sections]
    extra = _opt(rcode) if question.edns else b""
    if flow.truncated and not tcp:
        flags |= _TC
    limit = 0xFFFF if tcp else max(_PLAIN_SIZE, question.size)
    if 12 + len(question.section) + len(records) + len(extra) > limit:
        records, counts, flags = b"", [0, 0, 0], flags | _TC
    counts[2] += bool(extra)
    header = _HEADER.pack(question.id, flags, 1, *counts)
    return header + question.section + records + extra


def fill_from_response(flow: DnsFlow, message: bytes) -> None:
    """Fill in rcode and answers from a response; SERVFAIL when it cannot be read."""
    flow.truncated = len(message) > 3 and bool(message[2] << 8 & _TC)
    plain = dns_addresses.read(message)
    if plain is not None:
        flow.rcode, flow.answers = plain
        return
    _fill_by_dnspython(flow, message)


def _fill_by_dnspython(flow: DnsFlow, message: bytes) -> None:
    import dns.exception
    import dns.message
    import dns.rcode
    import dns.rdatatype

    try:
        parsed = dns.message.from_wire(message, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError, struct.error):
        flow.rcode = "SERVFAIL"
        return
    flow.rcode = dns.rcode.to_text(parsed.rcode())
    flow.answers, flow.authority, flow.additional = (
        [
            DnsAnswer(
                _plain(rrset.name.to_text()),
                dns.rdatatype.to_text(rrset.rdtype),
                rrset.ttl,
                rdata.to_text(),
            )
            for rrset in section
            for rdata in rrset
        ]
        for section in (parsed.answer, parsed.authority, parsed.additional)
    )


class TcpFraming:
    """Cuts a TCP stream into messages (RFC 1035 §4.2.2), pipelined ones too."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that `data` completes."""
        buffer = self._buffer + data
        position = 0
        out = []
        while len(buffer) - position >= 2:
            end = position + 2 + int.from_bytes(buffer[position : position + 2], "big")
            if len(buffer) < end:
                break
            out.append(buffer[position + 2 : end])
            position = end
        self._buffer = buffer[position:]
        return out

    @property
    def pending(self) -> bytes:
        """Bytes of a message that is not complete."""
        return self._buffer


def frame(message: bytes) -> bytes:
    """Return `message` as it is sent over TCP."""
    return len(message).to_bytes(2, "big") + message


def _labels(message: bytes, position: int) -> tuple[list[bytes] | None, int]:
    labels: list[bytes] = []
    total = 0
    while position < len(message):
        length = message[position]
        position += 1
        if length == 0:
            return labels, position
        total += length + 1
        if length > 63 or total > 254:
            break
        labels.append(message[position : position + length])
        position += length
    return None, position


def _text(labels: list[bytes]) -> str:
    if not labels:
        return "."
    return ".".join(_label(label) for label in labels)


def _label(label: bytes) -> str:
    """Write a label in presentation form (RFC 4343 §2.1)."""
    text = label.decode("latin-1").lower() if label.isascii() else label.decode("latin-1")
    if text.replace("-", "").replace("_", "").isalnum() and text.isascii():
        return text
    return "".join(
        f"\\{ord(c):03d}" if not 32 < ord(c) < 127 else f"\\{c}" if c in '."\\();@$' else c
        for c in text
    )


def _edns(message: bytes, position: int, additional: int) -> tuple[bool, int, bool]:
    """Read the OPT record, which is the first additional one that nearly every client sends."""
    for _ in range(min(additional, 4)):
        labels, position = _labels(message, position)
        if labels is None or position + 10 > len(message):
            break
        kind, size, ttl, length = struct.unpack_from("!HHIH", message, position)
        if kind == _OPT:
            return True, max(size, _PLAIN_SIZE), bool(ttl & _DO)
        position += 10 + length
    return False, _PLAIN_SIZE, False


def _opt(rcode: int) -> bytes:
    return b"\0" + struct.pack("!HHIH", _OPT, _OWN_SIZE, (rcode >> 4) << 24, 0)


def _type_name(number: int) -> str:
    if number in _TYPES:
        return _TYPES[number]
    import dns.rdatatype

    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(number))


def _rcode(name: str) -> int:
    if name in _RCODES:
        return _RCODES[name]
    import dns.exception
    import dns.rcode

    try:
        return int(dns.rcode.from_text(name)) if name else _SERVFAIL
    except (dns.exception.DNSException, ValueError):
        return _SERVFAIL


def _plain(name: str) -> str:
    return name.rstrip(".").lower() or "."


def _records(question: Question, answers: list[DnsAnswer]) -> tuple[bytes, int]:
    """Write one section; a record that cannot be written is left out."""
    out = []
    for answer in answers:
        record = _address_record(question, answer) or _record(answer)
        if record:
            out.append(record)
    return b"".join(out), len(out)


def _address_record(question: Question, answer: DnsAnswer) -> bytes:
    """Write an address of the name that was asked for: nearly every answer is one."""
    if answer.name.rstrip(".").lower() != question.name or answer.type not in ("A", "AAAA"):
        return b""
    import socket

    family = socket.AF_INET if answer.type == "A" else socket.AF_INET6
    try:
        packed = socket.inet_pton(family, answer.data)
    except OSError:
        return b""
    number = 1 if answer.type == "A" else 28
    return struct.pack("!HHHIH", 0xC00C, number, 1, answer.ttl, len(packed)) + packed


def _record(answer: DnsAnswer) -> bytes:
    import io

    import dns.exception
    import dns.name
    import dns.rdata
    import dns.rdataclass
    import dns.rdatatype

    try:
        name = dns.name.from_text(answer.name)
        number = dns.rdatatype.from_text(answer.type)
        rdata = dns.rdata.from_text(dns.rdataclass.IN, number, answer.data)
        packed = rdata.to_wire(origin=dns.name.root) or b""
    except (dns.exception.DNSException, ValueError, OSError):
        return b""
    file = io.BytesIO()
    name.to_wire(file, None)
    return file.getvalue() + struct.pack("!HHIH", number, 1, answer.ttl, len(packed)) + packed
