"""What the fields of an HTTP/2 message mean (RFC 9113 §8).

1. A request is held to the RFC: an intermediary must not pass on one that is malformed (§8.1.1).
2. A response is read as far as it makes sense: the client is there to judge it.
3. Cookie crumbs are one field in the flow (§8.2.3); they are forwarded as they came.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pytest_netcapture.engine.layers.http2_channel import Fields

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_FORBIDDEN = re.compile(rb"[\0\r\n]")
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
_SPECIAL = frozenset((b"content-length", b"content-encoding", b"expect", b"host", b"content-type"))
_NAMES_LIMIT = 4096

_names: dict[bytes, str] = {}
"""Field names seen and found to be good."""


class MalformedFields(Exception):
    """The fields are no message; the argument says why."""


@dataclass(slots=True)
class RequestFields:
    """A request's fields; `special` holds those that matter here."""

    method: str
    scheme: str
    authority: str
    target: str
    protocol: str
    fields: list[tuple[str, str]]
    special: dict[bytes, str]


@dataclass(slots=True)
class ResponseFields:
    """A response's fields."""

    status: int
    fields: list[tuple[str, str]] = field(default_factory=list)
    special: dict[bytes, str] = field(default_factory=dict)


def read_request(raw: Fields) -> RequestFields:
    """Read the header section of a request. Raises `MalformedFields`."""
    pseudo: dict[bytes, str] = {}
    position = 0
    for name, value in raw:
        if name[:1] != b":":
            break
        if name not in _PSEUDO or name in pseudo:
            raise MalformedFields(f"pseudo-header field {name!r}")
        pseudo[name] = value.decode("latin-1")
        position += 1
    fields, special = _regular(raw[position:])
    method, protocol = pseudo.get(b":method", ""), pseudo.get(b":protocol", "")
    scheme, target = pseudo.get(b":scheme", ""), pseudo.get(b":path", "")
    authority = pseudo.get(b":authority") or special.get(b"host", "")
    if method == "CONNECT" and not protocol:
        if scheme or target or not authority:
            raise MalformedFields("CONNECT with a scheme or path")
        return RequestFields(method, "", authority, authority, "", fields, special)
    if not (method and scheme and target) or (protocol and method != "CONNECT"):
        raise MalformedFields("a pseudo-header field is missing")
    return RequestFields(method, scheme, authority, target, protocol, fields, special)


def read_response(raw: Fields) -> ResponseFields:
    """Read the header section of a response. Raises `MalformedFields` without a status."""
    status = next((value for name, value in raw if name == b":status"), b"")
    if len(status) != 3 or not status.isdigit():
        raise MalformedFields(f"status {status[:20]!r}")
    out = ResponseFields(int(status))
    for name, value in raw:
        if name in _SPECIAL:
            out.special[name] = value.decode("latin-1")
        if name[:1] != b":":
            out.fields.append((_names.get(name) or name.decode("latin-1"), value.decode("latin-1")))
    return out


def read_trailers(raw: Fields) -> list[tuple[str, str]]:
    """Read a request's trailer section. Raises `MalformedFields`."""
    return _regular(raw)[0]


def fields_of(raw: Fields) -> list[tuple[str, str]]:
    """Return what a response's trailers are, whatever they are."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]


def to_raw(fields: list[tuple[str, str]]) -> Fields:
    """Return recorded fields as HTTP/2 sends them: lower case, none that belong to a connection."""
    raw = [
        (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in fields
    ]
    return [pair for pair in raw if pair[0] not in _HOP_BY_HOP]


def _regular(raw: Fields) -> tuple[list[tuple[str, str]], dict[bytes, str]]:
    fields: list[tuple[str, str]] = []
    special: dict[bytes, str] = {}
    crumbs = -1
    for name, value in raw:
        text = _names.get(name) or _learn(name)
        if _FORBIDDEN.search(value):
            raise MalformedFields(f"the value of {text} has a NUL or line end")
        decoded = value.decode("latin-1")
        if name in _SPECIAL:
            special[name] = decoded
        elif name == b"te" and value != b"trailers":
            raise MalformedFields(f"te: {decoded[:40]}")
        elif name == b"cookie":
            if crumbs >= 0:
                fields[crumbs] = (text, f"{fields[crumbs][1]}; {decoded}")
                continue
            crumbs = len(fields)
        fields.append((text, decoded))
    return fields, special


def _learn(name: bytes) -> str:
    if not _NAME.fullmatch(name) or name in _HOP_BY_HOP:
        raise MalformedFields(f"field name {name[:60]!r}")
    if len(_names) >= _NAMES_LIMIT:
        _names.clear()
    text = _names[bytes(name)] = name.decode("latin-1")
    return text
