"""Each criterion's value, as a test's author writes it, checked and turned into a `Matcher`.

Every function takes the value, the place for its `UsageError`, and whether `exact` was asked for.
Proved by tests/test_matching.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from operator import methodcaller
from typing import Any

from pytest_netcapture.errors import NetcaptureError, UsageError
from pytest_netcapture.flows import Difference, Process
from pytest_netcapture.patterns import (
    Accepted,
    BodyIs,
    Contains,
    Json,
    Matcher,
    Number,
    Pairs,
    Text,
    TextPattern,
    Values,
    check_json,
    json_text,
    shown,
    text_matches,
)
from pytest_netcapture.urls import canonical_host, canonical_path

__tracebackhide__ = methodcaller("errisinstance", NetcaptureError)

_TEXT_FORMS = "a string (* and ? are wildcards), a re.compile(...) or a callable"


def text(value: Any, place: str, _exact: bool = False) -> Text:
    return Text(_pattern(value, place))


def folded(value: Any, place: str, _exact: bool = False) -> Text:
    return Text(_pattern(value, place), fold=True)


def host(value: Any, place: str, _exact: bool = False) -> Text:
    if not isinstance(value, str):
        return text(value, place)
    if "/" in value:
        raise UsageError(f"{place}: {value!r} is more than a host", cure=f"write url={value!r}")
    name, colon, port = value.rpartition(":")
    if colon and ":" not in name and port.isdigit():
        cure = f"write host={name!r}, port={port}"
        raise UsageError(f"{place}: {value!r} is a host and a port", cure=cure)
    return Text(canonical_host(_not_empty(value, place), place), fold=True)


def path(value: Any, place: str, _exact: bool = False) -> Text:
    if not isinstance(value, str):
        return text(value, place)
    if not value.startswith(("/", "*", "?")):
        raise UsageError(f"{place}: {value!r} is not a path", cure=f"write {'/' + value!r}")
    if re.search(r"\?[^/?=&]+=", value):
        cure = f"write url={value!r}, or path= and query="
        raise UsageError(f"{place}: {value!r} has a query", cure=cure)
    return Text(canonical_path(value))


def number(value: Any, place: str, _exact: bool = False) -> Number:
    """Take a whole number, a collection of them, or a callable."""
    if _is_whole(value):
        return Number(frozenset([value]), str(value))
    if isinstance(value, range) or _are_whole(value):
        return Number(frozenset(value), _several(value))
    if callable(value):
        return Number(value, shown(value))
    cure = f"write {int(value)}" if isinstance(value, str) and value.isdecimal() else _NUMBER_FORMS
    raise UsageError(f"{place}: {value!r} is not a number", cure=cure)


_NUMBER_FORMS = "write a number, a range or a set of numbers, or a callable"


def status(value: Any, place: str, _exact: bool = False) -> Number:
    """Take what `number` takes, a class such as "5xx", or None for no response."""
    if value is None:
        return Number(frozenset([None]), shown(None))
    if isinstance(value, str) and re.fullmatch(r"[1-5]xx", value, re.IGNORECASE):
        first = int(value[0]) * 100
        return Number(frozenset(range(first, first + 100)), value.lower())
    return number(value, place)


def pairs(value: Any, place: str, exact: bool = False) -> Pairs:
    """Take a dict or pairs; a value is text, a number, several of them, or None for absent."""
    return Pairs(_pairs(value, place), exact=exact)


def headers(value: Any, place: str, _exact: bool = False) -> Pairs:
    return Pairs(_pairs(value, place), fold=True)


def body(value: Any, place: str, _exact: bool = False) -> BodyIs:
    if isinstance(value, (bytearray, memoryview)):
        value = bytes(value)
    if value is None or isinstance(value, (bytes, str, re.Pattern)) or callable(value):
        return BodyIs(value)
    cure = f"write json={value!r}" if isinstance(value, (dict, list)) else _BODY_FORMS
    raise UsageError(f"{place}: a body is not {_article(value)}", cure=cure)


_BODY_FORMS = "write bytes, a string, a re.compile(...), a callable, or None for no body"


def json(value: Any, place: str, exact: bool = False) -> Matcher:
    check_json(value, place)
    return Json(value, exact)


def process(value: Any, place: str, _exact: bool = False) -> Accepted:
    """Take a name (of the process or of its program), a pid, or a callable that takes a Process."""
    if _is_whole(value):
        return _Wanted(lambda one: one.pid == value, str(value))
    if isinstance(value, (str, re.Pattern)):
        pattern: TextPattern = value
        return _Wanted(
            lambda one: any(text_matches(pattern, name) for name in _process_names(one)),
            shown(value),
        )
    if callable(value):
        return Accepted(value)
    raise UsageError(f"{place}: a process is not {_article(value)}", cure="write a name or a pid")


class _Wanted(Accepted, frozen=True):
    """What a process is, by name or pid."""

    text: str

    def differences(self, field: str, value: Any, /) -> list[Difference]:
        return [] if self.matches(value) else [Difference(field, self.text, str(value))]

    def __str__(self) -> str:
        return self.text


def values(value: Any, place: str, _exact: bool = False) -> Matcher:
    """Take a list of values, each a value, a type or a callable; or a callable for all of them."""
    if isinstance(value, (list, tuple)):
        return Values(list(value))
    if callable(value):
        return Accepted(value)
    raise UsageError(f"{place}: {_article(value)} is not a list", cure=f"write [{value!r}]")


def contains(value: Any, place: str, whole: object) -> Contains:
    """Take a part of what the criterion `whole` takes all of."""
    if whole is values:
        return Contains(value)
    if whole not in (text, folded, host, path, body):
        raise UsageError(f"{place}: it has no parts", cure="leave out __contains")
    if not (isinstance(value, str) or (whole is body and isinstance(value, bytes))):
        raise UsageError(f"{place}: {value!r} is {_article(value)}", cure="write a string")
    if not value:
        raise UsageError(f"{place}: everything contains an empty string", cure="leave it out")
    return Contains(value)


def accepted(value: Any, place: str) -> Accepted:
    if not callable(value):
        cure = "write a function that takes the flow"
        raise UsageError(f"{place}: {_article(value)} cannot be called", cure=cure)
    return Accepted(value)


def written(value: Any) -> str:
    """Write a criterion's value as its author did, nearly."""
    if isinstance(value, (dict, list, tuple)):
        return json_text(value)
    return shown(value) if callable(value) else repr(value)


def _pattern(value: Any, place: str) -> TextPattern:
    if isinstance(value, str):
        return _not_empty(value, place)
    if isinstance(value, re.Pattern):
        if isinstance(value.pattern, str):
            return value
        raise UsageError(f"{place}: {value!r} is a pattern of bytes", cure="leave out the b prefix")
    if callable(value):
        found: Callable[[str], object] = value
        return found
    raise UsageError(f"{place}: {value!r} is {_article(value)}", cure=f"write {_TEXT_FORMS}")


def _not_empty(value: str, place: str) -> str:
    if value:
        return value
    raise UsageError(f"{place}: an empty string matches nothing", cure='write "*" for any')


def _pairs(value: Any, place: str) -> dict[str, tuple[TextPattern, ...] | None]:
    items = value.items() if isinstance(value, Mapping) else value
    if isinstance(value, (str, bytes)) or not isinstance(items, Iterable):
        raise UsageError(
            f"{place}: {value!r} is not names and values", cure='write {"name": "value"}'
        )
    wanted: dict[str, tuple[TextPattern, ...] | None] = {}
    for item in items:
        if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[0], str):
            raise UsageError(
                f"{place}: {item!r} is not a name and a value", cure='write ("name", "value")'
            )
        name, one = item
        if one is None:
            wanted[name] = None
        else:
            wanted[name] = (wanted.get(name) or ()) + _values(one, f"{place}.{name}")
    return wanted


def _values(value: Any, place: str) -> tuple[TextPattern, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(pattern for one in value for pattern in _values(one, place))
    if isinstance(value, bool):
        cure = f'write "{str(value).lower()}" or "{value}", as the client sends it'
        raise UsageError(f"{place}: {value!r} has no one spelling", cure=cure)
    if isinstance(value, (int, float)):
        return (str(value),)
    return (value,) if value == "" else (_pattern(value, place),)


def _process_names(one: Process) -> tuple[str, ...]:
    program = one.command[0] if one.command else ""
    return one.name, program, program.rpartition("/")[2]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_whole(value: Any) -> bool:
    is_text = isinstance(value, (str, bytes, Mapping))
    return (
        isinstance(value, Collection) and not is_text and bool(value) and all(map(_is_whole, value))
    )


def _several(value: Collection[int]) -> str:
    if isinstance(value, range) and value.step == 1 and value:
        return f"{value[0]} to {value[-1]}"
    return f"one of {', '.join(map(str, sorted(value)))}"


def _article(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
