"""When are two requests the same: the key by which a recording is found again.

1. A key has two parts. The *line* (method, scheme, host, port, path, query) comes from the request
   line alone, so all recordings can be sorted by it when a cassette is loaded. The *rest* (headers,
   body) is computed only for recordings that share the line of a request that came in.
2. Both sides have been scrubbed with the same rules, and every tag counts as the same placeholder:
   a replay with another secret, or with the tag that a replayed answer contained, still matches.
3. Order of query parameters, form fields and JSON keys, JSON white space, the case of percent
   escapes and the boundary of a multipart body mean nothing.
4. Bodies over `WHOLE` bytes are compared as bytes.

Proven by tests/cassettes/test_keys.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import TypeAlias
from urllib.parse import parse_qsl

import msgspec

from pytest_netcapture.cassettes.fields import multipart_boundary
from pytest_netcapture.cassettes.format import SEGMENT
from pytest_netcapture.cassettes.ignoring import Ignored
from pytest_netcapture.cassettes.tags import bytes_without_tags, stream_without_tags, without_tags
from pytest_netcapture.flows import Headers
from pytest_netcapture.settings import MATCHERS, check_choice

WHOLE = SEGMENT
NOTHING = Ignored(())
Line: TypeAlias = tuple[object, ...]
Rest: TypeAlias = tuple[object, ...]

_VOLATILE_HEADERS = frozenset(
    str.split(
        """
    connection keep-alive proxy-connection te trailer transfer-encoding upgrade host
    content-length date user-agent accept-encoding traceparent tracestate baggage
    x-request-id x-correlation-id x-amzn-trace-id x-cloud-trace-context idempotency-key
    sec-websocket-key x-amz-date age x-b3-traceid x-b3-spanid x-b3-sampled sentry-trace
    if-modified-since
    """
    )
)
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Matcher:
    """Computes the keys for one `match_on`. Raises `UsageError` for a name that is not known."""

    def __init__(
        self, match_on: Iterable[str], where: str = "match_on", ignore: Iterable[str] = ()
    ) -> None:
        self.ignored = Ignored(ignore)
        names = {check_choice(name, MATCHERS, where) for name in match_on}
        if "url" in names:
            names |= {"scheme", "host", "port", "path", "query"}
        self.names = tuple(name for name in MATCHERS if name in names and name != "url")
        self._method, self._scheme = "method" in names, "scheme" in names
        self._host, self._port = "host" in names, "port" in names
        self._path, self._query = "path" in names, "query" in names
        self.needs_headers = "headers" in names
        self._body, self._json, self._form = "body" in names, "json" in names, "form" in names
        self._raw, self._uri = "raw_body" in names, "uri" in names
        self.needs_body = self._body or self._json or self._form or self._raw
        self.needs_rest = self.needs_body or self.needs_headers

    def line(self, method: str, scheme: str, host: str, port: int, target: str) -> Line:
        """Return the part of the key that the request line decides."""
        path, query = split_target(target)
        return (
            method.upper() if self._method else None,
            scheme if self._scheme else None,
            without_tags(host).lower() if self._host else None,
            port if self._port else None,
            canonical_path(path) if self._path else None,
            self._query_key(query) if self._query else None,
            self._uri_key(scheme, host, port, target) if self._uri else None,
        )

    def _query_key(self, query: str) -> tuple[tuple[str, str], ...]:
        pairs = canonical_query(query)
        ignored = self.ignored.query
        return tuple(self.ignored.pairs(pairs, ignored)) if ignored else pairs

    def _uri_key(self, scheme: str, host: str, port: int, target: str) -> tuple[object, ...]:
        path, query = split_target(target)
        return scheme, without_tags(host).lower(), port, without_tags(path), without_tags(query)

    def place(self, host: str, port: int) -> tuple[str | None, int | None]:
        """Return what counts of a server's name and port."""
        name = without_tags(host).lower() if self._host else None
        return name, port if self._port else None

    def rest(self, headers: Headers, content: bytes | Iterable[bytes]) -> Rest:
        """Return the part that headers and body decide; a large body is given in pieces."""
        parts: list[object] = []
        if self.needs_headers:
            fields = canonical_headers(headers)
            parts.append(tuple(self.ignored.pairs(fields, self.ignored.headers)))
        if not self.needs_body or content == b"":
            return (*parts, b"") if self.needs_body else tuple(parts)
        if not isinstance(content, bytes):
            return (*parts, _stream_digest(content))
        media_type = headers.get("content-type") or ""
        if self._body:
            parts.append(_digest(canonical_body(content, media_type, self.ignored)))
        if self._json:
            parts.append(canonical_json(bytes_without_tags(content), self.ignored))
        if self._form:
            parts.append(tuple(self.ignored.form(_form_pairs(bytes_without_tags(content)))))
        if self._raw:
            parts.append(_digest(bytes_without_tags(content)))
        return tuple(parts)


def split_target(target: str) -> tuple[str, str]:
    """Return path and query of a request target in any form (RFC 9112 §3.2)."""
    if not target.startswith("/") and "://" in target:
        rest = target.partition("://")[2]
        slash = min((i for i in (rest.find("/"), rest.find("?")) if i >= 0), default=-1)
        target = rest[slash:] if slash >= 0 else "/"
    path, _, query = target.partition("?")
    return path or "/", query


def canonical_path(path: str) -> str:
    """Decode escapes of unreserved characters, upper-case the others (RFC 3986 §6.2.2)."""
    if "%" in path:
        path = _ESCAPE.sub(_normal_escape, path)
    return without_tags(path)


def canonical_query(query: str) -> tuple[tuple[str, str], ...]:
    if not query:
        return ()
    pairs = parse_qsl(without_tags(query), keep_blank_values=True)
    pairs.sort()
    return tuple(pairs)


def canonical_headers(headers: Headers) -> tuple[tuple[str, str], ...]:
    """Return what should be equal in two requests: no hop-by-hop and no volatile fields."""
    pairs = []
    for name, value in headers.fields:
        lower = name.lower()
        if lower in _VOLATILE_HEADERS:
            continue
        if lower == "content-type" and "boundary=" in value:
            pairs.append((lower, value.partition(";")[0].strip()))
        else:
            pairs.append((lower, without_tags(value).strip()))
    pairs.sort()
    return tuple(pairs)


def canonical_body(content: bytes, content_type: str, ignored: Ignored = NOTHING) -> bytes:
    """Return bytes that are equal for bodies that mean the same."""
    content = bytes_without_tags(content)
    if content[:64].lstrip()[:1] in (b"{", b"["):
        return canonical_json(content, ignored) or content
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        return msgspec.json.encode(ignored.form(_form_pairs(content)))
    if kind.startswith("multipart/"):
        boundary = multipart_boundary(content)
        return content.replace(boundary, b"--boundary") if boundary else content
    if kind.endswith(("/json", "+json")):
        return canonical_json(content, ignored) or content
    return content


def canonical_json(content: bytes, ignored: Ignored = NOTHING) -> bytes:
    """Return one spelling of a JSON document, b"" when it is not one."""
    try:
        return msgspec.json.encode(
            ignored.json(msgspec.json.decode(content)), order="deterministic"
        )
    except (
        msgspec.DecodeError,
        msgspec.EncodeError,
        UnicodeError,
        RecursionError,
        ValueError,
        TypeError,
    ):
        return b""


def _form_pairs(content: bytes) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(sorted(parse_qsl(content.decode("latin-1"), keep_blank_values=True)))
    except ValueError:
        return ((content.decode("latin-1"), ""),)


def _normal_escape(match: re.Match[str]) -> str:
    character = chr(int(match.group()[1:], 16))
    return character if character in _UNRESERVED else match.group().upper()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _stream_digest(pieces: Iterable[bytes]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for piece in stream_without_tags(pieces):
        digest.update(piece)
    return digest.digest()
