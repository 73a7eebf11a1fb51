"""Where a test's options come from, and how they become its `Settings`.

1. The command line wins over the nearest marker, that over the `netcapture_config` fixture, that
   over ini, that over the default. "Nearest": function, class, module, whichever marker it is.
2. Of lists, the command line's come first, then those of the nearest other source.
3. Relative paths are relative to where pytest was started when they are from the command line, to
   the ini file's folder otherwise.
4. Every value is checked where it is given, with the place in the message.

Proved by tests/test_options.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from pytest_netcapture import markers
from pytest_netcapture.cassette_names import cassette_path
from pytest_netcapture.chaos.names import (
    NAMES,
    WAIT,
    Plan,
    parse_expectation,
    parse_kinds,
    parse_wait,
)
from pytest_netcapture.errors import UsageError
from pytest_netcapture.options import BY_KEY, OPTIONS, Option
from pytest_netcapture.settings import (
    CassetteUse,
    HostMapping,
    HostPattern,
    RecordMode,
    Settings,
    check_ca_file,
    check_choice,
    parse_mapping,
    parse_pattern,
)

MARKER = "the netcapture marker"
FIXTURE = "the netcapture_config fixture"
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("", "0", "false", "no", "off")


class Source(NamedTuple):
    """One place where options are given; `place` names it, relative paths start at `base`."""

    place: str
    values: Mapping[str, Any]
    base: str

    def where(self, key: str) -> str:
        if self.place == "the command line":
            return BY_KEY[key].flag
        return f"ini {BY_KEY[key].dest}" if self.place == "ini" else f"{self.place}, {key}"


class Sources:
    """All of them, for one run."""

    def __init__(self, config: pytest.Config, namespace: Any = None) -> None:
        given = config.option if namespace is None else namespace
        self._base = str(config.inipath.parent if config.inipath else config.rootpath)
        line = {o.key: getattr(given, o.dest, None) for o in OPTIONS}
        self._line = Source(
            "the command line", _without_none(line), str(config.invocation_params.dir)
        )
        ini = {o.key: _from_ini(config.getini(o.dest), o) for o in OPTIONS}
        self._ini = Source("ini", _without_none(ini), self._base)
        self._plain: Settings | None = None
        for source in (self._line, self._ini):
            for key, value in source.values.items():
                if BY_KEY[key].kind == "choice":
                    check_choice(value, BY_KEY[key].choices, source.where(key))

    def for_session(self) -> Settings:
        """Return what holds outside of tests, and for a test about which nothing is said."""
        if self._plain is None:
            self._plain = self._settings([self._line, self._ini], None)
        return self._plain

    def for_item(self, item: pytest.Item, fixture: Mapping[str, Any] | None = None) -> Settings:
        """Return the settings of one test. Raises `UsageError`.

        `fixture` is what `markers.fixture_options` returned.
        """
        marked, cassette = _from_markers(item)
        given = [self._line]
        given += [Source(MARKER, marked, self._base)] if marked else []
        given += [Source(FIXTURE, fixture, self._base)] if fixture else []
        given.append(self._ini)
        if cassette is None and not _flag(given, "auto_cassette"):
            return self.for_session() if len(given) == 2 else self._settings(given, None)
        return self._settings(
            given, self._cassette(item, given, {**(fixture or {}), **(cassette or {})})
        )

    def chaos_for(self, item: pytest.Item | None = None) -> Plan:
        """Return what a chaos run does to one test, or to any. Raises `UsageError`."""
        marked = _from_markers(item)[0] if item is not None else {}
        given = [self._line]
        given += [Source(MARKER, marked, self._base)] if marked else []
        given.append(self._ini)
        if "chaos" not in self._line.values and "chaos" not in self._ini.values:
            return Plan()
        kinds: tuple[str, ...] = NAMES
        for source in given:  # a marker chooses among the kinds of the run
            if "chaos" in source.values and (source is not self._ini or kinds == NAMES):
                only = parse_kinds(source.values["chaos"], source.where("chaos"))
                kinds = tuple(kind for kind in kinds if kind in only)
        listed = reversed(_listed(given, "chaos_expect"))
        wait = next((s for s in given if "chaos_wait" in s.values), None)
        return Plan(
            kinds,
            dict(parse_expectation(text, s.where("chaos_expect")) for text, s in listed),
            parse_wait(wait.values["chaos_wait"], wait.where("chaos_wait")) if wait else WAIT,
        )

    def chaos_report(self) -> str:
        """Return the file that a chaos run writes, "" for none."""
        return _path([self._line, self._ini], "chaos_report")

    def report(self) -> str:
        """Return the file of the run's report, "" for none."""
        return _path([self._line, self._ini], "report")

    def shares(self, item: pytest.Item) -> bool:
        """Tell whether a test's cassette has a name of its author's choice."""
        return "name" in (_from_markers(item)[1] or {})

    def mode_is_because_of_ci(self, item: pytest.Item, fixture: Mapping[str, Any] | None) -> bool:
        """Tell whether the record mode is `none` for no other reason than CI."""
        given = [self._line.values, _from_markers(item)[0], fixture or {}, self._ini.values]
        return _is_ci() and not any("record_mode" in values for values in given)

    def _settings(self, given: Sequence[Source], cassette: CassetteUse | None) -> Settings:
        keep = _one(given, "keep") or "never"
        return Settings(
            block=_flag(given, "block"),
            allow=_patterns(given, "allow"),
            passthrough=_patterns(given, "passthrough"),
            map_host=_mappings(given),
            capture_loopback=_one(given, "loopback") == "capture",
            upstream_ca=_ca_files(given),
            redirector=_one(given, "redirector") or "auto",
            strict=_flag(given, "strict"),
            http3=_one(given, "http3") or "capture",
            replay_speed=_one(given, "replay_speed") or "full",
            packets=_flag(given, "packets") or keep != "never",
            keep=keep,
            keep_dir=_path(given, "keep_dir"),
            cassette=cassette,
        )

    def _cassette(
        self, item: pytest.Item, given: Sequence[Source], values: Mapping[str, Any]
    ) -> CassetteUse:
        where = item.nodeid
        folder = _path(given, "cassette_dir") or str(item.path.parent / "cassettes")
        rest: dict[str, Any] = {
            key: read(values[key], where)
            for key, read in (
                ("match_on", markers.match_on),
                ("filters", markers.filters),
                ("max_age", markers.age),
                ("repeat", markers.repeat),
            )
            if key in values
        }
        rest["edits"] = tuple(
            edit
            for place, key in (
                ("header", "filter_headers"),
                ("query", "filter_query_parameters"),
                ("post", "filter_post_data_parameters"),
            )
            for edit in markers.edits(place)(values.get(key, ()), where)
        )
        rest["ignored_hosts"] = markers.hosts(values.get("ignore_hosts", ()), where)
        rest["ignored_hosts"] += markers.localhost(values.get("ignore_localhost", False), where)
        mode = _one(given, "record_mode") or ("none" if _is_ci() else "once")
        path = cassette_path(item, values.get("name"), folder)
        return CassetteUse(path, RecordMode(mode), **rest)


def _from_markers(item: pytest.Item) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the options of all markers, nearest first, and the cassette's own if there is one.

    A record mode may stand in either kind of marker; it is an option.
    """
    options: dict[str, Any] = {}
    cassette: dict[str, Any] | None = None
    for mark in item.iter_markers():
        if mark.name == "netcapture":
            options = {**markers.netcapture_options(mark, item.nodeid), **options}
        elif mark.name == "cassette":
            given = markers.cassette_options(mark, item.nodeid)
            if "record_mode" in given:
                options.setdefault("record_mode", given.pop("record_mode"))
            cassette = {**given, **(cassette or {})}
    return options, cassette


def _one(given: Sequence[Source], key: str) -> Any:
    return next((source.values[key] for source in given if key in source.values), None)


def _flag(given: Sequence[Source], key: str) -> bool:
    return bool(_one(given, key))


def _path(given: Sequence[Source], key: str) -> str:
    for source in given:
        if key in source.values:
            return os.path.join(source.base, os.fspath(source.values[key]))
    return ""


def _listed(given: Sequence[Source], key: str) -> list[tuple[str, Source]]:
    """Return the command line's entries, then those of the nearest other source."""
    line, *others = given
    entries = [(entry, line) for entry in line.values.get(key, ())]
    for source in others:
        if key in source.values:
            found = markers.as_list(source.values[key], source.where(key))
            return entries + [(entry, source) for entry in found]
    return entries


def _patterns(given: Sequence[Source], key: str) -> tuple[HostPattern, ...]:
    return tuple(parse_pattern(text, source.where(key)) for text, source in _listed(given, key))


def _mappings(given: Sequence[Source]) -> tuple[HostMapping, ...]:
    found = _listed(given, "map_host")
    return tuple(parse_mapping(text, source.where("map_host")) for text, source in found)


def _ca_files(given: Sequence[Source]) -> tuple[str, ...]:
    found = _listed(given, "upstream_ca")
    return tuple(
        check_ca_file(os.path.join(source.base, path), source.where("upstream_ca"))
        for path, source in found
    )


def _from_ini(value: Any, option: Option) -> Any:
    """Return an ini value as the command line would give it, None when it is not set."""
    if value in (None, "", []):
        return None
    if option.kind != "flag":
        return value
    text = str(value).strip().lower()
    if text not in _TRUE + _FALSE:
        raise UsageError(
            f"ini {option.dest}: {value!r} is neither true nor false", cure="write true or false"
        )
    return text in _TRUE


def _is_ci() -> bool:
    return os.environ.get("CI", "").lower() not in _FALSE


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
