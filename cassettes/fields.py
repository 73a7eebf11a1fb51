"""Find the values of secret-named fields in JSON, forms, multipart bodies and queries.

1. Everything works on the bytes as they are: formatting, key order, numbers and structure of what
   is not a secret survive, and a malformed or cut-off document is searched like a sound one.
2. JSON is read as a row of string tokens: each match consumes a whole string and, when that is a
   key, its string value, so a quote inside a value cannot shift the reading.
3. Only string values count, and strings of an array; for names that the user gave, numbers too.

Proven by tests/cassettes/test_scrub.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import unquote_plus

import msgspec

_STRING = rb'"([^"\\]*(?:\\.[^"\\]*)*)(?:"|\\?\Z)'
_TOKEN = re.compile(
    _STRING + rb"(?:\s*:\s*(?:" + _STRING + rb"|(\[)|(-?\d[\d.eE+\-]*))?)?", re.DOTALL
)
_ARRAY = re.compile(rb"\[\s*(?:" + _STRING.replace(b"(", b"(?:", 1) + rb"\s*,?\s*)+\]?", re.DOTALL)
_ARRAY_STRING = re.compile(_STRING, re.DOTALL)
_PAIR = re.compile(rb"(?:^|(?<=[?&;]))([^=&?#;\s\"'<>\\]{1,256})=([^&;#\s\"'<>\\]+)")
_URL_PAIR = re.compile(rb"(?<=[?&#;])([^=&?#;\s\"'<>\\]{1,256})=([^&;#\s\"'<>\\]+)")
_FORM_PAIR = re.compile(rb"(?:\A|(?<=&))([^=&]{1,256})=([^&]+)")
_PART_NAME = re.compile(rb'(?i)content-disposition:[^\r\n]*?[;\s]name="?([^";\r\n]+)"?([^\r\n]*)')
_NESTING = 3


class Found(NamedTuple):
    """The span of a secret value, the value decoded, and what to put there if not just a tag."""

    start: int
    end: int
    value: bytes
    new: bytes | None = None


Named = Callable[[str], bool]
"""Says whether the field of this name is secret."""
Rewrite = Callable[[bytes], bytes]


def in_json(
    data: bytes, secret: Named, given: Named, rewrite: Rewrite, depth: int = 0
) -> Iterator[Found]:
    """Yield the secret string values of JSON text; `given` names count for numbers too.

    `rewrite` scrubs a document that is itself a string inside a document.
    """
    known: dict[bytes, bool] = {}
    for match in _TOKEN.finditer(data):
        key, value, array, number = match.groups()
        if value is None and array is None and number is None:
            if depth < _NESTING and b'\\"' in key:
                yield from _nested(match.start(1), match.end(1), key, rewrite)
            continue
        named = known.get(key)
        if named is None:
            named = known[key] = secret(key.decode("utf-8", "replace"))
        if not named:
            if value and depth < _NESTING and b'\\"' in value:
                yield from _nested(match.start(2), match.end(2), value, rewrite)
        elif value:
            yield Found(match.start(2), match.end(2), _unescaped(value))
        elif array:
            yield from _strings_of_array(data, match.start(3))
        elif number and given(key.decode("utf-8", "replace")):
            yield Found(match.start(4), match.end(4), b"", b"0")


def in_query(data: bytes, secret: Named) -> Iterator[Found]:
    """Yield the secret values of a query (without "?")."""
    yield from _pairs(_PAIR, data, secret)


def in_urls(data: bytes, secret: Named) -> Iterator[Found]:
    """Yield the secret values of queries and fragments of URLs anywhere in text."""
    yield from _pairs(_URL_PAIR, data, secret)


def in_form(data: bytes, secret: Named) -> Iterator[Found]:
    yield from _pairs(_FORM_PAIR, data, secret)


def in_multipart(data: bytes, secret: Named) -> Iterator[Found]:
    """Yield the values of secret-named parts without a file name (RFC 7578)."""
    boundary = multipart_boundary(data)
    if not boundary:
        return
    for match in _PART_NAME.finditer(data):
        if b"filename" in match.group(2) or not secret(match.group(1).decode("utf-8", "replace")):
            continue
        head_end = data.find(b"\r\n\r\n", match.end())
        if head_end < 0:
            continue
        end = data.find(b"\r\n" + boundary, head_end + 2)
        start, end = head_end + 4, len(data) if end < 0 else end
        if start < end:
            yield Found(start, end, data[start:end])


def multipart_boundary(data: bytes) -> bytes:
    """Return the delimiter line that `data` begins with, without its end, or b""."""
    if not data.startswith(b"--"):
        return b""
    end = data.find(b"\r\n", 0, 256)
    return data[:end] if end > 2 else b""


def _pairs(pattern: re.Pattern[bytes], data: bytes, secret: Named) -> Iterator[Found]:
    for match in pattern.finditer(data):
        name = match.group(1).decode("latin-1")
        if secret(unquote_plus(name) if "%" in name or "+" in name else name):
            value = match.group(2)
            plain = unquote_plus(value.decode("latin-1"), "latin-1").encode("latin-1")
            yield Found(match.start(2), match.end(2), plain)


def _strings_of_array(data: bytes, at: int) -> Iterator[Found]:
    array = _ARRAY.match(data, at)
    if array:
        for item in _ARRAY_STRING.finditer(data, array.start(), array.end()):
            if item.group(1):
                yield Found(item.start(1), item.end(1), _unescaped(item.group(1)))


def _nested(start: int, end: int, value: bytes, rewrite: Rewrite) -> Iterator[Found]:
    inner = _unescaped(value)
    if inner[:1] not in (b"{", b"["):
        return
    changed = rewrite(inner)
    if changed != inner:
        new = msgspec.json.encode(changed.decode("utf-8", "replace"))[1:-1]
        yield Found(start, end, b"", new)


def _unescaped(value: bytes) -> bytes:
    if b"\\" not in value:
        return value
    try:
        return msgspec.json.decode(b'"' + value + b'"', type=str).encode()
    except (msgspec.DecodeError, UnicodeError):
        return value
