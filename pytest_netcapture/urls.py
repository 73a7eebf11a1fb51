"""A url that a test's author writes, split into criteria on its parts.

1. ``https://host/path?query``: scheme, host, port, path and, when it has one, query; each part may
   be a glob. So a near miss names the part that differs.
2. ``//host/path`` and ``host/path`` leave the scheme open; ``/path`` leaves the host open too.
   What begins with ``*`` and has no ``://`` is a glob over the whole url, with or without query.
3. The port that is not written is the scheme's own; it is open when the scheme is, or when the host
   ends in ``*``. ``:*`` is any port. Such a host without a path leaves the path open as well.
4. A url without a query says nothing about the query. One with a query means exactly that query,
   in any order; ``&*`` allows more. In a url ``?`` begins the query, as RFC 3986 §3.4 says; it is a
   wildcard only where no query could follow: at the end, before ``/``, before another ``?``.
5. An empty path is ``/``; other trailing slashes count. Case counts in paths, not in scheme and
   host. Percent-encoding that means the same is the same (RFC 3986 §6.2.2). A fragment is never
   sent.

Proved by tests/test_matching.py.
"""

from __future__ import annotations

import re
from operator import methodcaller
from typing import NamedTuple
from urllib.parse import parse_qsl, quote

from pytest_netcapture.errors import NetcaptureError, UsageError

__tracebackhide__ = methodcaller("errisinstance", NetcaptureError)

DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

_QUERY_MARK = re.compile(r"\?(?=[^/?])")
_METHOD_FIRST = re.compile(r"[A-Z]+\s+\S")
_TRIPLET = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class UrlParts(NamedTuple):
    """What a url says of each part; None leaves it open. `text` is a glob over the whole url."""

    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    path: str | None = None
    query: list[tuple[str, str]] | None = None
    more_query: bool = False
    text: str | None = None


def split_url(url: str, place: str) -> UrlParts:
    """Split an exact or globbed url. Raises `UsageError`, which names `place`."""
    if not url or url != url.strip():
        raise UsageError(f"{place}: {url!r} is not a url", cure=_FORMS)
    if _METHOD_FIRST.match(url):
        method, rest = url.split(None, 1)
        raise UsageError(
            f"{place}: {url!r} has a method in the url", cure=f'write "{method}", "{rest}"'
        )
    url = url.partition("#")[0]
    scheme, separator, rest = url.partition("://")
    if not separator and url.startswith("*"):
        return UrlParts(text=url)
    if not separator:
        scheme, rest = "", url.removeprefix("//")
    if not separator and url.startswith("/") and not url.startswith("//"):
        return _with_path(UrlParts(), rest)
    return _with_authority(scheme.lower(), rest, place)


_FORMS = "write https://host/path, host/path, /path, or a glob of one"


def _with_authority(scheme: str, rest: str, place: str) -> UrlParts:
    end = min((i for i in (rest.find("/"), _query_at(rest)) if i >= 0), default=len(rest))
    host, port = _split_port(rest[:end].rpartition("@")[2], place)
    loose = host.endswith("*") and not port
    number = None if port == "*" or loose else int(port) if port else DEFAULT_PORTS.get(scheme)
    parts = UrlParts(
        scheme=None if scheme in ("", "*") else scheme,
        host=None if host == "*" else host,
        port=number,
    )
    if loose and end == len(rest):
        return parts
    return _with_path(parts, rest[end:] if rest[end : end + 1] == "/" else "/" + rest[end:])


def _split_port(authority: str, place: str) -> tuple[str, str]:
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        host, port = authority, ""
    if not host or (port and port != "*" and not (port.isascii() and port.isdigit())):
        raise UsageError(f"{place}: {authority!r} is not a host or host:port", cure=_FORMS)
    return canonical_host(host, place), port


def _with_path(parts: UrlParts, rest: str) -> UrlParts:
    at = _query_at(rest)
    if at < 0:
        return parts._replace(path=rest or "/")
    pairs = parse_qsl(rest[at + 1 :], keep_blank_values=True)
    named = [pair for pair in pairs if pair != ("*", "")]
    return parts._replace(path=rest[:at] or "/", query=named, more_query=named != pairs)


def _query_at(text: str) -> int:
    found = _QUERY_MARK.search(text)
    return found.start() if found else -1


def canonical_host(host: str, place: str) -> str:
    """Return a host in lower case, without brackets and final dot, non-ASCII labels as A-labels."""
    host = host.lower().rstrip(".")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if host.isascii():
        return host
    try:
        return ".".join(
            label if label.isascii() else label.encode("idna").decode() for label in host.split(".")
        )
    except UnicodeError as error:
        raise UsageError(f"{place}: {host!r} is not a host name: {error}", cure=_FORMS) from None


def canonical_path(path: str) -> str:
    """Return a path, or a glob of one, in which equivalent percent-encodings are equal."""
    path = quote(path, safe="%/:?*@!$&'()+,;=~[]|^`{}\\\"<>")
    return _TRIPLET.sub(_canonical_triplet, path)


def _canonical_triplet(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if character in _UNRESERVED else found[0].upper()
