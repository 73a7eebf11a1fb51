"""Name the kind of values that differ from run to run by their nature."""

from __future__ import annotations

import re

_CLOCK = r"[0-2]\d:?[0-5]\d(?::?\d\d)?(?:[.,]\d+)?"
_KINDS = (
    ("scrubbed", r"(?:[\w\-.+ ]* )?scrubbed-[0-9a-f]{10}.*"),
    ("uuid", r"(?i)[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"),
    ("sigv4", r"AWS4-HMAC-SHA256 Credential=.+"),
    ("jwt", r"(?:[Bb]earer )?eyJ[\w\-]+\.[\w\-]+\.[\w\-]*"),
    (
        "date",
        r"(?:19|20)\d\d-?[01]\d-?[0-3]\d(?:[T _]?" + _CLOCK + r"(?:Z|[+\- ]\d\d:?\d\d)?)?",
    ),
    ("date", r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\w*,? \d{1,2}[ \-]\w{3}[ \-]\d{2,4} [\d:]{8}.*"),
    ("time", r"[0-2]?\d:[0-5]\d(?::\d\d)?(?:\.\d+)?"),
    ("epoch", r"1[0-9]{9}(?:\.\d+|\d{3}|\d{6}|\d{9})?"),
    ("ulid", r"[0-7][0-9A-HJKMNP-TV-Z]{25}"),
    ("hex", r"(?i)(?=.*\d)[0-9a-f]{16,128}"),
    ("nonce", r"(?=.*\d)(?=.*[A-Za-z])[\w\-+/]{20,}={0,2}"),
)
_COMPILED = tuple((name, re.compile(shape)) for name, shape in _KINDS)


def volatile_kind(recorded: str, actual: str) -> str:
    """Return the kind of which both values are, "" when they are of none; one tag is enough."""
    for name, shape in _COMPILED:
        matches = bool(shape.fullmatch(recorded)), bool(shape.fullmatch(actual))
        if all(matches) or (name == "scrubbed" and any(matches)):
            return name
    return ""


def volatile_part(recorded: str, actual: str) -> str:
    """Do as `volatile_kind`, or name the kind of the only segments in which two paths differ."""
    whole = volatile_kind(recorded, actual)
    if whole or "/" not in recorded:
        return whole
    left, right = recorded.split("/"), actual.split("/")
    if len(left) != len(right):
        return ""
    kinds = [volatile_kind(a, b) for a, b in zip(left, right, strict=True) if a != b]
    return kinds[0] if kinds and all(kinds) else ""
