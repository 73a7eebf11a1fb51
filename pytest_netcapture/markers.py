"""What the two markers and the `netcapture_config` fixture may say; every value is checked here.

A bad one is a `UsageError` that names the test, the marker, the nearest name, and the cure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pytest_netcapture.cassette_names import check_name
from pytest_netcapture.cassettes import ignoring
from pytest_netcapture.chaos.names import parse_expectation, parse_kinds, parse_wait
from pytest_netcapture.errors import UsageError
from pytest_netcapture.hook_names import REQUEST, RESPONSE
from pytest_netcapture.options import BY_KEY
from pytest_netcapture.settings import (
    MATCHERS,
    Edit,
    Filters,
    HostPattern,
    RecordMode,
    Repeat,
    check_choice,
    check_names,
    parse_mapping,
    parse_pattern,
)

CASSETTE_ARGUMENTS = ("name", "record_mode", "match_on", "filters", "repeat", "max_age")
VCR_OPTIONS = (
    "filter_headers",
    "filter_query_parameters",
    "filter_post_data_parameters",
    "ignore_hosts",
    "ignore_localhost",
)
CASSETTE_OPTIONS = ("match_on", "filters", "repeat", "max_age", *VCR_OPTIONS, REQUEST, RESPONSE)
"""Those that the config fixture may give too, for every cassette."""

_AGE = re.compile(r"(\d+)\s*([smhdw]?)")
_AGE_UNITS = {"": 86400, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

Check = Callable[[Any, str], object]


def netcapture_options(marker: pytest.Mark, nodeid: str) -> dict[str, Any]:
    """Return a netcapture marker's arguments. Raises `UsageError`."""
    place = f"{nodeid}, @pytest.mark.netcapture"
    if marker.args:
        raise UsageError(
            f"{place} takes keyword arguments only, given: {marker.args[0]!r}",
            cure="write @pytest.mark.netcapture(block=True)",
        )
    check_names(marker.kwargs, list(BY_KEY), place)
    _check_options(marker.kwargs, place)
    return _given(marker.kwargs)


def cassette_options(marker: pytest.Mark, nodeid: str) -> dict[str, Any]:
    """Return a cassette marker's arguments. Raises `UsageError`."""
    place = f"{nodeid}, @pytest.mark.cassette"
    if len(marker.args) > 1:
        raise UsageError(
            f"{place} takes one name, given: {len(marker.args)}", cure="use keywords for the rest"
        )
    check_names(marker.kwargs, CASSETTE_ARGUMENTS, place)
    given = dict(marker.kwargs)
    if marker.args:
        if "name" in given:
            raise UsageError(f"{place}: the name is given twice", cure="give it once")
        given["name"] = marker.args[0]
    if given.get("name") is not None:
        check_name(given["name"], place)
    if given.get("record_mode") is not None:
        check_option("record_mode", given["record_mode"], place)
    _check_cassette(given, place)
    return _given(given)


def fixture_options(given: Any) -> dict[str, Any]:
    """Return what the `netcapture_config` fixture returned, checked. Raises `UsageError`."""
    place = "the netcapture_config fixture"
    if not isinstance(given, Mapping):
        raise UsageError(
            f"{place} must return a dict of options, returned: {given!r}",
            cure='write for example return {"block": True, "allow": ["*.internal"]}',
        )
    # What is needed before fixtures run is not theirs to say.
    known = [key for key in BY_KEY if not key.startswith("chaos") and key != "report"]
    check_names(given, [*known, *CASSETTE_OPTIONS], place)
    _check_options({k: v for k, v in given.items() if k in BY_KEY}, place)
    _check_cassette(given, place)
    return _given(given)


def check_option(key: str, value: Any, place: str) -> None:
    """Raise `UsageError` if `value` cannot be one of option `key`."""
    option = BY_KEY[key]
    where = f"{place}, {key}"
    if option.kind == "flag":
        if not isinstance(value, bool):
            raise UsageError(f"{where} must be True or False, given: {value!r}")
    elif option.kind == "choice":
        check_choice(value, option.choices, where)
    elif option.kind in ("words", "text"):
        _TEXTS[key](value, where)
    elif option.kind == "path":
        if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
            raise UsageError(f"{where} must be a path, given: {value!r}")
    else:
        for entry in as_list(value, where):
            _LISTED[key](entry, where)


def as_list(value: Any, where: str) -> list[str]:
    """Accept a string, a path, a sequence of them, or a mapping (FROM: TO)."""
    if isinstance(value, Mapping):
        return [f"{source}={target}" for source, target in value.items()]
    several = isinstance(value, (list, tuple, set, frozenset))
    entries = list(value) if several else [value]
    if not all(isinstance(entry, (str, os.PathLike)) for entry in entries):
        raise UsageError(f"{where} must be a string or a list of strings, given: {value!r}")
    return [os.fspath(entry) for entry in entries]


def match_on(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)) or not value:
        raise UsageError(
            f"{where}, match_on must be a list of matchers, given: {value!r}",
            cure=f"known: {', '.join(MATCHERS)}",
        )
    return tuple(check_choice(one, MATCHERS, f"{where}, match_on") for one in value)


def filters(value: Any, where: str) -> Filters:
    if not isinstance(value, Mapping):
        raise UsageError(
            f"{where}, filters must be a dict, given: {value!r}",
            cure='write filters={"headers": ["x-secret"]}',
        )
    place = f"{where}, filters"
    check_names(value, Filters.__struct_fields__, place)
    for name in as_list(value.get("ignore", ()), f"{place}['ignore']"):
        try:
            ignoring.parse(name)
        except ValueError as error:
            raise UsageError(f"{place}['ignore']: {name!r}: {error}") from None
    given = Filters(**{k: tuple(as_list(v, f"{place}[{k!r}]")) for k, v in value.items()})
    for mask in given.masks:
        try:
            re.compile(mask.encode("latin-1"))
        except (re.error, UnicodeEncodeError) as error:
            raise UsageError(
                f"{place}['masks']: {mask!r} is not a regular expression over bytes: {error}",
                cure=r'write one such as r"\d{10}", characters beyond latin-1 as \xNN',
            ) from None
    return given


def edits(place: str) -> Callable[[Any, str], tuple[Edit, ...]]:
    """Return what reads one of vcrpy's three filters: names, or names and what they become."""

    def read(value: Any, where: str) -> tuple[Edit, ...]:
        if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple, set, frozenset)):
            raise UsageError(
                f"{where}: {value!r} is no list of names",
                cure='write ["authorization", ("x-user", "somebody")]',
            )
        return tuple(_edit(place, one, where) for one in value)

    return read


def _edit(place: str, given: Any, where: str) -> Edit:
    pair = isinstance(given, (list, tuple)) and len(given) == 2
    name, value = given if pair else (given, None)
    if callable(value):
        raise UsageError(
            f"{where}: {name!r} is replaced by a function, which runs in another process",
            cure="write the text that it is to be, or None to leave it out",
        )
    if not isinstance(name, str) or not isinstance(value, (str, type(None))):
        raise UsageError(
            f"{where}: {given!r} is no name, nor a name and a text", cure='write ("name", "text")'
        )
    return Edit(place, name, value)


def hosts(value: Any, where: str) -> tuple[HostPattern, ...]:
    return tuple(parse_pattern(one, where) for one in as_list(value, where))


def localhost(value: Any, where: str) -> tuple[HostPattern, ...]:
    if not isinstance(value, bool):
        raise UsageError(f"{where} must be True or False, given: {value!r}")
    return hosts(["loopback", "0.0.0.0"], where) if value else ()


def age(value: Any, where: str) -> int:
    """Return seconds."""
    match = None if isinstance(value, bool) else _AGE.fullmatch(str(value))
    if not match:
        raise UsageError(
            f"{where}, max_age: {value!r} is not an age",
            cure='write "30d", "12h" or a number of days',
        )
    return int(match[1]) * _AGE_UNITS[match[2]]


def repeat(value: Any, where: str) -> Repeat:
    return Repeat(check_choice(value, [one.value for one in Repeat], f"{where}, repeat"))


def function(value: Any, where: str) -> Callable[[Any], Any]:
    if not callable(value):
        raise UsageError(
            f"{where} must be a function, given: {value!r}",
            cure="write one that takes the request or response and returns it, or None",
        )
    return value  # type: ignore[no-any-return]


_LISTED: dict[str, Check] = {
    "allow": parse_pattern,
    "passthrough": parse_pattern,
    "map_host": parse_mapping,
    "chaos_expect": parse_expectation,
    "upstream_ca": lambda value, _where: value,  # read when it is known what it is relative to
}
_TEXTS: dict[str, Check] = {"chaos": parse_kinds, "chaos_wait": parse_wait}
_CASSETTE: dict[str, Check] = {
    "match_on": match_on,
    "filters": filters,
    "max_age": age,
    "repeat": repeat,
    "filter_headers": edits("header"),
    "filter_query_parameters": edits("query"),
    "filter_post_data_parameters": edits("post"),
    "ignore_hosts": hosts,
    "ignore_localhost": localhost,
    REQUEST: function,
    RESPONSE: function,
}


def _check_options(given: Mapping[str, Any], place: str) -> None:
    for key, value in given.items():
        if value is not None:
            check_option(key, value, place)


def _check_cassette(given: Mapping[str, Any], place: str) -> None:
    for key, check in _CASSETTE.items():
        if given.get(key) is not None:
            check(given[key], f"{place}, {key}" if key in VCR_OPTIONS else place)


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is None, which means: as if not given."""
    return {
        key: value.value if isinstance(value, RecordMode) else value
        for key, value in arguments.items()
        if value is not None
    }
