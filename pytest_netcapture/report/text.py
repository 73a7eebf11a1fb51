"""Text for people: what came off the wire made safe to print, cut, and measured.

1. Nothing printed contains a control character: traffic must not move the reader's terminal.
2. Plain text only; `markup` says which colours pytest's terminal writer may add to a line.
"""

from __future__ import annotations

import re

_MARKED = re.compile(r"\s+(?:\S.*?)?\s\s([-+]) ")

_SAFE = {c: f"\\x{c:02x}" for c in (*range(0x20), *range(0x7F, 0xA0))}
_SAFE |= {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x1B: "\\e", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_SAFE |= {c: f"\\u{c:04x}" for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def printable(text: str) -> str:
    """Escape control characters, line ends, bidirectional overrides and lone surrogates."""
    text = text.translate(_SAFE)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def cut(text: str, limit: int) -> str:
    """Return `text` in at most `limit` characters, its middle replaced by "…"."""
    if len(text) <= limit:
        return text
    head = (limit - 1) * 2 // 3
    tail = limit - 1 - head
    return f"{text[:head]}…{text[len(text) - tail :]}"


def size(count: int) -> str:
    """Write a number of bytes: 12 B, 1.2 kB, 3.4 MB."""
    if count < 1000:
        return f"{count} B"
    amount = float(count)
    for unit in ("kB", "MB", "GB"):
        amount /= 1000
        if amount < 999.95 or unit == "GB":
            break
    return f"{amount:.1f} {unit}" if amount < 9.995 else f"{amount:.0f} {unit}"


def duration(nanoseconds: int) -> str:
    """Write a time span: 0.3 ms, 12 ms, 1.25 s."""
    milliseconds = nanoseconds / 1e6
    if milliseconds < 9.95:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    return f"{milliseconds / 1000:.2f} s"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def markup(line: str) -> dict[str, bool]:
    """Return keywords for pytest's `TerminalWriter.line` that suit one line of a report."""
    mark = _MARKED.match(line)
    if mark:
        return {"red": True} if mark[1] == "-" else {"green": True}
    return {"bold": True} if line and not line[0].isspace() else {}
