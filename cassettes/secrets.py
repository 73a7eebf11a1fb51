"""The values that must never reach a file, and every form in which they may appear.

1. A known secret is found raw, percent-encoded, JSON-escaped, in hex and in base64 at each of the
   three alignments, so inside `user:secret` of Basic credentials too.
2. Values come from environment variables that are named like secrets, from `Filters.values`, and
   from what was scrubbed before by name (`learn`): an access token in a response is known when a
   later path holds it. Of learned ones the last `REMEMBERED` count, so cost stays bounded.

Proven by tests/cassettes/test_secrets.py.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus, urlsplit

from pytest_netcapture.cassettes.names import SECRET_WORDS, is_secret_variable
from pytest_netcapture.cassettes.tags import TAG

SHORTEST = 6
REMEMBERED = 64
_LEFT_PLAIN = ("", "/", "!'()*", "!$&'()*+,;=:@", "!$&'()*+,;=:@/", "!$&'()*+,;=:@/?#")
"""What clients do not percent-encode: Python, encodeURIComponent, RFC 3986 segments, encodeURI."""
_SHORTEST_LEARNED = 8
_LONGEST_LEARNED = 4096
_PLAIN = re.compile(
    r"(?i)true|false|yes|no|on|off|none|null|enabled|disabled|[+-]?[\d.,_]+|0x[\da-f]{1,4}"
)


class Secrets:
    """Known secret values. One object may serve many cassettes; each learns into its own copy."""

    def __init__(self, values: Iterable[str | bytes] = ()) -> None:
        self._given = {_to_bytes(value) for value in values if len(value) > 0}
        self._learned: dict[bytes, None] = {}
        self._needles: dict[bytes, bytes] = {}
        self.longest = 0
        self.version = 0
        for value in self._given:
            self._add(value)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Secrets:
        """Take the values of variables whose name says secret, token, key, password, ..."""
        return cls(_values(environ))

    def copy(self, more: Iterable[str] = ()) -> Secrets:
        """Return an independent set with `more` values; what it learns stays in it."""
        copy = Secrets()
        copy._given = self._given | {_to_bytes(value) for value in more}
        copy._learned = dict(self._learned)
        copy._needles = dict(self._needles)
        copy.longest = self.longest
        for value in copy._given - self._given:
            copy._add(value)
        return copy

    @property
    def values(self) -> Iterable[bytes]:
        """Return those that were given, not those that were learned."""
        return tuple(self._given)

    def take(self, environ: Mapping[str, str]) -> None:
        """Know the secrets of variables that were set later, too."""
        for value in map(_to_bytes, _values(environ)):
            if value not in self._given:
                self._given.add(value)
                self._add(value)
                self.version += 1

    def learn(self, value: bytes) -> None:
        """Remember a value that was scrubbed by name, if it is distinctive enough to search for."""
        if value in self._given or value in self._learned or not _distinctive(value):
            return
        self._learned[value] = None
        self._add(value)
        if len(self._learned) > REMEMBERED:
            self._forget(next(iter(self._learned)))
        self.version += 1

    def present(self, data: bytes) -> bool:
        """Tell quickly whether any form of any secret is in `data`."""
        return any(map(data.__contains__, self._needles))

    def find(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Return (start, end, secret) for each form of a secret in `data`, in order.

        Spans that overlap are one: nothing of the second must be left over.
        """
        spans = []
        for needle, secret in self._needles.items():
            at = data.find(needle)
            while at >= 0:
                spans.append((at, at + len(needle), secret))
                at = data.find(needle, at + 1)
        return _joined(spans) if len(spans) > 1 else spans

    def _add(self, value: bytes) -> None:
        for form in forms(value):
            self._needles.setdefault(form, value)
            self.longest = max(self.longest, len(form))

    def _forget(self, value: bytes) -> None:
        del self._learned[value]
        for form in forms(value):
            if self._needles.get(form) == value:
                del self._needles[form]


def _values(environ: Mapping[str, str]) -> list[str]:
    values: list[str] = []
    for name, value in environ.items():
        if is_secret_variable(name) and _worth(value):
            values.append(value)
        elif "://" in value and "@" in value:
            values.extend(p for p in [_password_of(value)] if _worth(p))
    return values


def _joined(spans: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    spans.sort(key=lambda span: (span[0], -span[1]))
    joined = [spans[0]]
    for start, end, secret in spans[1:]:
        first, last, known = joined[-1]
        if start >= last:
            joined.append((start, end, secret))
        elif end > last:
            joined[-1] = first, end, known
    return joined


def forms(secret: bytes) -> set[bytes]:
    """Return every encoding of `secret` that is searched for."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for quoted in (quote_plus(secret), *(quote(secret, safe=safe) for safe in _LEFT_PLAIN)):
        found.add(quoted.encode())
        found.add(re.sub("%..", lambda m: m.group().lower(), quoted).encode())
    text = secret.decode("utf-8", "surrogateescape")
    for ensure_ascii in (True, False):
        escaped = json.dumps(text, ensure_ascii=ensure_ascii)[1:-1].encode(
            "utf-8", "surrogateescape"
        )
        found |= {escaped, escaped.replace(b"/", b"\\/"), escaped.replace(b"\\", b"\\\\")}
    for core in _base64_cores(secret):
        urlsafe = core.translate(bytes.maketrans(b"+/", b"-_"))
        for plus, slash in ((b"%2B", b"%2F"), (b"%2b", b"%2f"), (b"+", b"\\/")):
            found.add(core.replace(b"+", plus).replace(b"/", slash))
        found |= {core, urlsafe}
    if secret.lower() != secret:
        found.add(secret.lower())
    return found


def _base64_cores(secret: bytes) -> list[bytes]:
    """Return the base64 characters that `secret` alone decides, for offsets 0, 1 and 2."""
    cores = []
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + secret)
        cores.append(encoded[-(-8 * offset // 6) : 8 * (offset + len(secret)) // 6])
    return cores


def _worth(value: str) -> bool:
    """Tell whether a variable's value is one to search for: not short, plain, or a path."""
    if len(value) < SHORTEST or _PLAIN.fullmatch(value) or value.lower() in SECRET_WORDS:
        return False
    return not (os.sep in value and os.path.exists(value))


def _distinctive(value: bytes) -> bool:
    if not _SHORTEST_LEARNED <= len(value) <= _LONGEST_LEARNED or TAG.search(value):
        return False
    plain_word = value.isalpha() and (value.islower() or value.istitle()) and len(value) < 16
    return not plain_word and not (value.isdigit() and len(value) < 12)


def _password_of(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return ""


def _to_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
