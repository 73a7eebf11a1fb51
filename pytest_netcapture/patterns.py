"""When one value matches what was asked for: text, numbers, name-value pairs, JSON, bodies.

1. Text is exact, or a glob where it has ``*`` (any run) or ``?`` (one character); ``[`` is literal,
   so that ``[::1]`` is a host. A compiled pattern is searched for. A callable decides by truth.
2. Pairs (query, form, headers) name a subset; None means absent. With `exact` no others may be.
3. JSON objects name a subset of keys, unless `exact`; lists have equal length and their elements
   match one by one. ``1 == 1.0``, but ``True`` is not 1. None is null, and is not "absent". A type
   stands for any value of it, a compiled pattern and a callable as in rule 1.
4. What can never match is a `UsageError` when it is built, not a silent miss later.
5. `closeness` is 1.0 exactly when `matches` is true: it only ranks near misses.

Proved by tests/test_matching.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from operator import methodcaller
from typing import Any, TypeAlias

import msgspec

from pytest_netcapture.errors import NetcaptureError, UsageError
from pytest_netcapture.flows import Difference, Message

__tracebackhide__ = methodcaller("errisinstance", NetcaptureError)

TextPattern: TypeAlias = "str | re.Pattern[str] | Callable[[str], object]"

ABSENT = "(absent)"
_LARGEST_SHOWN = 1 << 20
_MOST_DIFFERENCES = 20


class Matcher(msgspec.Struct, frozen=True):
    """What one criterion wants of one value; `str()` of it is for people."""

    def matches(self, value: Any, /) -> bool:
        raise NotImplementedError

    def differences(self, field: str, value: Any, /) -> list[Difference]:
        return [] if self.matches(value) else [Difference(field, str(self), shown(value))]

    def closeness(self, value: Any, /) -> float:
        return float(self.matches(value))


class Text(Matcher, frozen=True):
    """One text, or any of several names for the same thing (a tuple)."""

    pattern: TextPattern
    fold: bool = False

    def matches(self, value: str | tuple[str, ...], /) -> bool:
        if isinstance(value, tuple):
            return any(text_matches(self.pattern, one, fold=self.fold) for one in value)
        return text_matches(self.pattern, value, fold=self.fold)

    def closeness(self, value: str | tuple[str, ...], /) -> float:
        if self.matches(value):
            return 1.0
        if not isinstance(self.pattern, str) or is_glob(self.pattern):
            return 0.0
        return max((_overlap(self.pattern, one) for one in _several(value)), default=0.0)

    def __str__(self) -> str:
        return shown(self.pattern)


class Number(Matcher, frozen=True):
    """One of some whole numbers, or what a callable accepts; None matches a missing one."""

    wanted: frozenset[int | None] | Callable[[int], object]
    text: str

    def matches(self, value: int | None, /) -> bool:
        if isinstance(self.wanted, frozenset):
            return value in self.wanted
        return value is not None and bool(self.wanted(value))

    def __str__(self) -> str:
        return self.text


class Pairs(Matcher, frozen=True):
    """Names and their values, among a message's pairs; a name's values in any order."""

    wanted: dict[str, tuple[TextPattern, ...] | None]
    fold: bool = False
    exact: bool = False

    def matches(self, value: list[tuple[str, str]], /) -> bool:
        return next(self._misses(value), None) is None

    def differences(self, field: str, value: list[tuple[str, str]], /) -> list[Difference]:
        misses = islice(self._misses(value), _MOST_DIFFERENCES)
        return [Difference(f"{field}.{name}", wanted, actual) for name, wanted, actual in misses]

    def closeness(self, value: list[tuple[str, str]], /) -> float:
        missed = sum(1 for _ in self._misses(value))
        return 1.0 if not missed else max(0.0, 0.9 - missed / max(1, len(self.wanted)))

    def _misses(self, pairs: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
        there: dict[str, list[str]] = {}
        for name, value in pairs:
            there.setdefault(name.lower() if self.fold else name, []).append(value)
        for name, patterns in self.wanted.items():
            values = there.pop(name.lower() if self.fold else name, [])
            if not self._agree(patterns, values):
                wanted = ABSENT if patterns is None else ", ".join(map(shown, patterns))
                yield name, wanted, ", ".join(values) if values else ABSENT
        if self.exact:
            for name, values in there.items():
                yield name, ABSENT, ", ".join(values)

    def _agree(self, patterns: tuple[TextPattern, ...] | None, values: list[str]) -> bool:
        if patterns is None or not values:
            return patterns is None and not values
        if not self.exact and len(patterns) == 1 and text_matches(patterns[0], ", ".join(values)):
            return True
        left = list(values)
        for pattern in patterns:
            found = next((i for i, one in enumerate(left) if text_matches(pattern, one)), None)
            if found is None:
                return False
            del left[found]
        return not (self.exact and left)

    def __str__(self) -> str:
        return ", ".join(
            f"{name}: {ABSENT if values is None else ', '.join(map(shown, values))}"
            for name, values in self.wanted.items()
        )


class Unparsed(msgspec.Struct, frozen=True):
    """Content that should have been JSON and is not."""

    text: str


class Json(Matcher, frozen=True):
    """A parsed JSON value, or `Unparsed`."""

    wanted: Any
    exact: bool = False

    def matches(self, value: Any, /) -> bool:
        return next(self._misses(value), None) is None

    def differences(self, field: str, value: Any, /) -> list[Difference]:
        return [
            Difference(field + path, json_text(wanted), json_text(actual))
            for path, wanted, actual in islice(self._misses(value), _MOST_DIFFERENCES)
        ]

    def closeness(self, value: Any, /) -> float:
        missed = sum(1 for _ in self._misses(value))
        return 1.0 if not missed else max(0.0, 0.9 - missed / _leaves(self.wanted))

    def _misses(self, value: Any) -> Iterator[tuple[str, Any, Any]]:
        if isinstance(value, Unparsed):
            return iter([("", self.wanted, value)])
        return json_misses(self.wanted, value, exact=self.exact)

    def __str__(self) -> str:
        return json_text(self.wanted)


class BodyIs(Matcher, frozen=True):
    """A message's body: bytes or text as a whole, a pattern searched for, a callable, or none."""

    wanted: bytes | str | re.Pattern[bytes] | re.Pattern[str] | Callable[[bytes], object] | None

    def matches(self, value: Message, /) -> bool:
        wanted = self.wanted
        if wanted is None:
            return value.body.size == 0
        if isinstance(wanted, bytes):
            return value.body.size == len(wanted) and value.content == wanted
        if isinstance(wanted, str):
            return value.text == wanted
        if isinstance(wanted, re.Pattern):
            is_text = isinstance(wanted.pattern, str)
            return wanted.search(value.text if is_text else value.content) is not None  # type: ignore[arg-type]
        return bool(wanted(value.content))

    def differences(self, field: str, value: Message, /) -> list[Difference]:
        if self.matches(value):
            return []
        large = value.body.size > _LARGEST_SHOWN
        actual = f"({value.body.size} bytes)" if large else shown(value.content) or "(empty)"
        return [Difference(field, str(self), actual)]

    def __str__(self) -> str:
        return "(empty)" if self.wanted is None else shown(self.wanted)


class Contains(Matcher, frozen=True):
    """A part: of a text or of any of several, of a message's body, or one of a list's values."""

    wanted: Any

    def matches(self, value: Any, /) -> bool:
        wanted = self.wanted
        if isinstance(value, Message):
            value = value.content if isinstance(wanted, bytes) else value.text
        if isinstance(value, tuple):
            return any(wanted in one for one in value)
        if isinstance(value, list):
            return any(_leaf_matches(wanted, one) for one in value)
        return wanted in value

    def __str__(self) -> str:
        return f"(contains) {shown(self.wanted)}"


class Values(Matcher, frozen=True):
    """A list of values, each equal, of a type, or accepted by a callable."""

    wanted: list[Any]

    def matches(self, value: list[Any], /) -> bool:
        return len(value) == len(self.wanted) and all(map(_leaf_matches, self.wanted, value))

    def __str__(self) -> str:
        return f"[{', '.join(map(_value_text, self.wanted))}]"

    def differences(self, field: str, value: list[Any], /) -> list[Difference]:
        actual = f"[{', '.join(map(repr, value))}]"
        return [] if self.matches(value) else [Difference(field, str(self), actual)]


def _value_text(value: Any) -> str:
    return shown(value) if callable(value) else repr(value)


class Accepted(Matcher, frozen=True):
    """Whatever a callable accepts."""

    test: Callable[[Any], object]

    def matches(self, value: Any, /) -> bool:
        return bool(self.test(value))

    def differences(self, field: str, value: Any, /) -> list[Difference]:
        return [] if self.matches(value) else [Difference(field, str(self), "not accepted")]

    def __str__(self) -> str:
        return shown(self.test)


def is_glob(text: str) -> bool:
    return "*" in text or "?" in text


@lru_cache(maxsize=512)
def glob(text: str) -> re.Pattern[str]:
    """Compile a glob, in which only * and ? are special."""
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(c) or re.escape(c) for c in text), re.DOTALL)


def text_matches(pattern: TextPattern, value: str, *, fold: bool = False) -> bool:
    if isinstance(pattern, re.Pattern):
        return pattern.search(value) is not None
    if not isinstance(pattern, str):
        return bool(pattern(value))
    if fold:
        pattern, value = pattern.lower(), value.lower()
    return pattern == value or (is_glob(pattern) and glob(pattern).fullmatch(value) is not None)


_MISSING = object()


def json_misses(
    wanted: Any, actual: Any, path: str = "", *, exact: bool = False
) -> Iterator[tuple[str, Any, Any]]:
    """Yield path, wanted and actual of each place in which two JSON values differ (rule 3)."""
    if isinstance(wanted, Mapping) and isinstance(actual, dict):
        for key, value in wanted.items():
            yield from json_misses(value, actual.get(key, _MISSING), f"{path}.{key}", exact=exact)
        if exact:
            for key in actual:
                if key not in wanted:
                    yield f"{path}.{key}", _MISSING, actual[key]
    elif isinstance(wanted, (list, tuple)) and isinstance(actual, list):
        if len(wanted) != len(actual):
            yield path, list(wanted), actual
            return
        for index, (one, other) in enumerate(zip(wanted, actual, strict=True)):
            yield from json_misses(one, other, f"{path}[{index}]", exact=exact)
    elif actual is _MISSING or not _leaf_matches(wanted, actual):
        yield path, wanted, actual


def _leaf_matches(wanted: Any, actual: Any) -> bool:
    if isinstance(wanted, re.Pattern):
        return isinstance(actual, str) and wanted.search(actual) is not None
    if isinstance(wanted, type):
        return isinstance(actual, wanted) and (wanted is bool or not isinstance(actual, bool))
    if callable(wanted):
        return bool(wanted(actual))
    if isinstance(wanted, bool) or isinstance(actual, bool):
        return wanted is actual or (not isinstance(wanted, (bool, int, float)) and wanted == actual)
    return bool(wanted == actual)


def _leaves(wanted: Any) -> int:
    if isinstance(wanted, Mapping):
        return sum(map(_leaves, wanted.values())) or 1
    if isinstance(wanted, (list, tuple)):
        return sum(map(_leaves, wanted)) or 1
    return 1


def check_json(wanted: Any, place: str) -> None:
    """Raise a `UsageError` for what no JSON value can equal."""
    if isinstance(wanted, Mapping):
        for key, value in wanted.items():
            if not isinstance(key, str):
                raise UsageError(
                    f"{place}: JSON keys are strings, {key!r} is not", cure=f"write {str(key)!r}"
                )
            check_json(value, f"{place}.{key}")
    elif isinstance(wanted, (list, tuple)):
        for index, value in enumerate(wanted):
            check_json(value, f"{place}[{index}]")
    elif isinstance(wanted, (bytes, bytearray, set, frozenset)):
        kind = type(wanted).__name__
        raise UsageError(f"{place}: {kind} is not a JSON type", cure="write a string or a list")


def shown(value: object) -> str:
    """Write a wanted or an actual value for people."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return shown(value[0]) if value else ABSENT
    if value is None:
        return ABSENT
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, re.Pattern):
        return f"re.compile({value.pattern!r})"
    if callable(value):
        return _callable_text(value)
    return str(value)


def _callable_text(value: Callable[..., object]) -> str:
    name = getattr(value, "__name__", None) or type(value).__name__
    code = getattr(value, "__code__", None)
    if code is None:
        return f"{name}()"
    file = str(code.co_filename).replace("\\", "/").rpartition("/")[2]
    return f"{name}() at {file}:{code.co_firstlineno}"


def json_text(value: Any) -> str:
    """Write a JSON value, in which patterns and callables may stand, on one line."""
    if value is _MISSING:
        return ABSENT
    if isinstance(value, Unparsed):
        return f"not JSON: {value.text}" if value.text else "(empty)"
    if isinstance(value, re.Pattern) or callable(value):
        return shown(value)
    import json

    return json.dumps(value, ensure_ascii=False, default=shown)


def _several(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (value,)


def _overlap(one: str, other: str) -> float:
    """Return the common head or tail, whichever is longer, over the longer text: below 1."""
    size = min(len(one), len(other))
    head = next((i for i in range(size) if one[i] != other[i]), size)
    tail = next((i for i in range(size) if one[-1 - i] != other[-1 - i]), size)
    return 0.9 * max(head, tail) / max(1, len(one), len(other))
