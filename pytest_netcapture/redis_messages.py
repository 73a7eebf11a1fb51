"""Read and write Redis' protocol, RESP2 and RESP3 (its "Redis serialization protocol").

1. A value is a type byte and a line; strings have their length in it and follow, aggregates have
   the number of values that follow.
2. `Splitter` cuts a stream into whole values and looks at each byte once. It raises `Unreadable`
   for anything else, streamed strings (which no server sends) among it.
3. Values for people: bulk strings are text where they are, errors are `ReplyError`s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pytest_netcapture.unreadable import LIMIT, Unreadable

_LONGEST_LINE = 1 << 16
_DEEPEST = 64
_STRINGS = frozenset((b"$", b"!", b"="))
_AGGREGATES = frozenset((b"*", b"~", b">", b"%", b"|"))
_KINDS = _STRINGS | _AGGREGATES | {b"+", b"-", b":", b"_", b"#", b",", b"("}
PUSH = b">"


class ReplyError(str):
    """An error that a server answered: its code, a space, and a text."""

    __slots__ = ()


class Splitter:
    """Cuts one direction into values as it comes. With `inline`, a plain line is a value too."""

    def __init__(self, *, inline: bool = False) -> None:
        self._held = bytearray()
        self._at = 0
        self._open: list[int] = []
        self._inline = inline

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the values that `data` completes. Raises `Unreadable`."""
        self._held += data
        while self._step():
            if not self._open:
                value = bytes(self._held[: self._at])
                del self._held[: self._at]
                self._at = 0
                yield value
        if len(self._held) > LIMIT:
            raise Unreadable(f"a value of more than {LIMIT} bytes")

    def _step(self) -> bool:
        """Go on by one value; tell whether it was there."""
        held, at = self._held, self._at
        end = held.find(b"\r\n", at, at + _LONGEST_LINE)
        if end < 0:
            if len(held) - at >= _LONGEST_LINE:
                raise Unreadable("a line without its end")
            if len(held) > at and bytes(held[at : at + 1]) not in _KINDS:
                self._check_inline()
            return False
        kind, after = bytes(held[at : at + 1]), end + 2
        if kind in _STRINGS:
            size = _number(held[at + 1 : end])
            if size >= 0:
                after += size + 2
                if len(held) < after:
                    return self._await(after)
                if held[after - 2 : after] != b"\r\n":
                    raise Unreadable("a string is longer than it says")
        elif kind in _AGGREGATES:
            count = max(_number(held[at + 1 : end]), 0)
            if kind in (b"%", b"|"):
                count = 2 * count + (kind == b"|")
            if count:
                if len(self._open) >= _DEEPEST:
                    raise Unreadable("nested too deeply")
                self._open.append(count)
                self._at = after
                return True
        elif kind not in _KINDS:
            self._check_inline()
        self._at = after
        while self._open:
            self._open[-1] -= 1
            if self._open[-1]:
                break
            self._open.pop()
        return True

    def _await(self, size: int) -> bool:
        if size > LIMIT:
            raise Unreadable(f"a value of {size} bytes")
        return False

    def _check_inline(self) -> None:
        if not self._inline or self._open:
            raise Unreadable(f"no value: {bytes(self._held[self._at : self._at + 20])!r}")


def _number(digits: bytes | bytearray) -> int:
    text = bytes(digits)
    if not text.removeprefix(b"-").isdigit() or len(text) > 10:
        raise Unreadable(f"{text[:20]!r} is not a length")
    return int(text)


def command_in(value: bytes) -> list[bytes]:
    """Return the words of a command, which is an array of strings or a line."""
    if not value.startswith(b"*"):
        return value.split()
    words, at = [], value.find(b"\r\n") + 2
    while at < len(value):
        end = value.find(b"\r\n", at)
        if value[at : at + 1] != b"$":
            raise Unreadable("a command has words only")
        size = max(_number(value[at + 1 : end]), 0)
        words.append(value[end + 2 : end + 2 + size])
        at = end + size + 4
    return words


def parse(value: bytes) -> Any:
    """Return a whole value as Python's; None for what cannot be read."""
    try:
        return _Reader(value).read()
    except (Unreadable, ValueError, IndexError, RecursionError):
        return None


def values(data: bytes) -> list[bytes]:
    """Return the whole values of `data`, as far as it can be read."""
    found: list[bytes] = []
    try:
        found.extend(Splitter().feed(data))
    except Unreadable:
        return found
    return found


def rewritten(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return values with each string changed, and its length made right."""
    parts, at = [], 0
    while at < len(data):
        end = data.find(b"\r\n", at)
        kind, line = data[at : at + 1], data[at + 1 : end]
        if end < 0:
            break
        if kind in (b"$", b"!", b"=") and line.isdigit():
            text = data[end + 2 : end + 2 + int(line)]
            if len(text) < int(line):
                break
            head, text = (text[:4], text[4:]) if kind == b"=" else (b"", text)
            text = head + change(text)
            parts.append(b"%b%d\r\n%b\r\n" % (kind, len(text), text))
            at = end + 4 + int(line)
        else:
            text = change(line) if kind in (b"+", b"-") else line
            parts.append(kind + text.replace(b"\r\n", b" ") + b"\r\n")
            at = end + 2
    return b"".join(parts) + data[at:]


def error(text: str) -> bytes:
    line = text.encode("utf-8", "replace").replace(b"\r", b" ").replace(b"\n", b" ")
    return b"-ERR " + line + b"\r\n"


def shown(data: bytes) -> str | bytes:
    """Return a string as text if it is."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


class _Reader:
    """Reads one value."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self) -> Any:
        end = self._data.index(b"\r\n", self._at)
        kind, line = self._data[self._at : self._at + 1], self._data[self._at + 1 : end]
        self._at = end + 2
        if kind in (b"$", b"=", b"!"):
            return self._string(kind, _number(line))
        if kind in (b"*", b"~", b">"):
            count = _number(line)
            return None if count < 0 else [self.read() for _ in range(count)]
        if kind == b"%":
            return {_hashable(self.read()): self.read() for _ in range(_number(line))}
        if kind == b"|":
            for _ in range(2 * _number(line)):
                self.read()
            return self.read()
        return _plain(kind, line)

    def _string(self, kind: bytes, size: int) -> Any:
        if size < 0:
            return None
        data = self._data[self._at : self._at + size]
        self._at += size + 2
        if kind == b"!":
            return ReplyError(data.decode("utf-8", "replace"))
        return shown(data[4:] if kind == b"=" else data)


def _plain(kind: bytes, line: bytes) -> Any:
    if kind in (b":", b"("):
        return int(line)
    if kind == b",":
        return float(line)
    if kind == b"#":
        return line == b"t"
    if kind == b"_":
        return None
    text = line.decode("utf-8", "replace")
    return ReplyError(text) if kind == b"-" else text


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (str, bytes, int, float)) else str(value)
