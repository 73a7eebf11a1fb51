"""A stand-in for pytest-recording: `pytest -p pytest_netcapture.vcr`, with its tests as they are.

1. Its marks (`vcr`, `default_cassette`, `block_network`), options, the `vcr_config` and `vcr`
   fixtures, and its layout: cassettes/<module>/<Class.test>.yaml, which are vcrpy's files.
2. A YAML file is played from a cassette that is made of it, in pytest's cache; what a test records
   goes back into the YAML. Secrets are scrubbed on the way, whatever the filters.
3. Capture is on: every program's traffic is seen, whatever library makes it, and nothing that is
   not on the cassette leaves, as far as the record mode says so.

Proved by tests/plugin/test_vcr.py.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator, Iterable, Mapping
from enum import Enum
from typing import Any, NamedTuple

import pytest

from pytest_netcapture.capture import Netcapture
from pytest_netcapture.cassette_names import shortened
from pytest_netcapture.cassettes.source import Source
from pytest_netcapture.cassettes.writing import write_flows
from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import AnyFlow, HttpFlow
from pytest_netcapture.hook_names import REQUEST, RESPONSE
from pytest_netcapture.interchange import vcr as files
from pytest_netcapture.markers import VCR_OPTIONS

_MODES = ("none", "once", "new_episodes", "all", "rewrite")
_MATCH_ON = ("method", "scheme", "host", "port", "path", "query")
"""vcrpy's own default: bodies do not count."""
_KNOWN = (*VCR_OPTIONS, REQUEST, RESPONSE)
_WITHOUT_MEANING = (
    "cassette_library_dir",
    "custom_patches",
    "decode_compressed_response",
    "drop_unused_requests",
    "func_path_generator",
    "inject_cassette",
    "path_transformer",
    "record_on_exception",
    "serializer",
)
_FORBIDDEN = re.compile(r"[<>?%*:|\"'/\\]")
_WORK = pytest.StashKey["Work"]()


class Work(NamedTuple):
    """The YAML file of a test, the cassette that stands for it, and what came from elsewhere."""

    yaml: str
    cassette: str
    borrowed: frozenset[tuple[object, ...]]

    @property
    def version(self) -> int:
        try:
            return os.stat(self.cassette).st_mtime_ns
        except FileNotFoundError:
            return 0


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vcr", "pytest-recording's options, for netcapture")
    group.addoption("--record-mode", choices=_MODES, default=None, help="default: none")
    group.addoption("--block-network", action="store_true", help="no network but what is allowed")
    group.addoption("--allowed-hosts", default="", help="hosts, separated by commas")
    group.addoption("--disable-recording", action="store_true", help="as if there were no marks")


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "vcr(*paths, **options): record to and replay from vcrpy's YAML",
        "default_cassette(name): the name of the test's cassette",
        "block_network(allowed_hosts=None): no network but what is allowed",
    ):
        config.addinivalue_line("markers", line)
    option = config.option
    option.netcapture = True
    if option.record_mode:
        option.netcapture_record_mode = option.record_mode
    if option.block_network:
        option.netcapture_block = True
        hosts = [host.strip() for host in option.allowed_hosts.split(",") if host.strip()]
        option.netcapture_allow = [*(option.netcapture_allow or ()), *hosts]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the tests with pytest-recording's marks those of ours."""
    try:
        for item in items:
            blocked = item.get_closest_marker("block_network")
            if blocked:
                hosts = list(blocked.kwargs.get("allowed_hosts") or ())
                item.add_marker(pytest.mark.netcapture(block=True, allow=hosts))
            if item.get_closest_marker("vcr") and not config.option.disable_recording:
                work = item.stash[_WORK] = _work_of(item)
                item.add_marker(pytest.mark.cassette(work.cassette))
    except UsageError as error:
        raise pytest.UsageError(f"netcapture: {error}") from None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    work = item.stash.get(_WORK, None)
    before = work.version if work else 0
    result = yield
    if work and work.version != before:
        _write_back(work)
    return result


@pytest.fixture(scope="module")
def vcr_config() -> dict[str, Any]:
    """Return options of vcrpy's: for a project to override."""
    return {}


@pytest.fixture
def netcapture_config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return what `vcr_config` and the marks say, in netcapture's words."""
    marks = list(request.node.iter_markers("vcr"))
    if not marks:
        return {}
    given = dict(request.getfixturevalue("vcr_config"))
    for mark in reversed(marks):
        given |= mark.kwargs
    return _translated(given, request.node.nodeid)


@pytest.fixture(scope="module")
def record_mode(request: pytest.FixtureRequest) -> str:
    """Return what --record-mode says."""
    return str(request.config.option.record_mode or "none")


@pytest.fixture
def default_cassette_name(request: pytest.FixtureRequest) -> str:
    return _name_of(request.node)


@pytest.fixture
def vcr(netcapture: Netcapture) -> Cassette:
    """Look at the test's cassette, as pytest-recording's fixture lets one."""
    return Cassette(netcapture)


class Cassette:
    """What of vcrpy's `Cassette` a test looks at."""

    def __init__(self, netcapture: Netcapture) -> None:
        self._netcapture = netcapture

    @property
    def play_count(self) -> int:
        state = self._netcapture.cassette
        return state.played if state else 0

    @property
    def all_played(self) -> bool:
        state = self._netcapture.cassette
        return not any(isinstance(flow, HttpFlow) for flow in (state.unused if state else ()))

    @property
    def requests(self) -> list[Any]:
        return [flow.request for flow in self._netcapture.http]

    @property
    def responses(self) -> list[Any]:
        return [flow.response for flow in self._netcapture.http]

    def __len__(self) -> int:
        return len(self._netcapture.http)


def _translated(given: Mapping[str, Any], nodeid: str) -> dict[str, Any]:
    """Return vcrpy's options as the `netcapture_config` fixture gives them."""
    out: dict[str, Any] = {"match_on": list(given.get("match_on", _MATCH_ON))}
    mode = given.get("record_mode", "none")
    out["record_mode"] = str(mode.value if isinstance(mode, Enum) else mode).lower()
    out["loopback"] = "leave" if given.get("ignore_localhost") else "capture"
    if given.get("allow_playback_repeats"):
        out["repeat"] = "any"
    for key, value in given.items():
        if key in _KNOWN:
            out[key] = value
        elif key not in (*_WITHOUT_MEANING, "match_on", "record_mode", "allow_playback_repeats"):
            raise UsageError(
                f"{nodeid}: netcapture has nothing for vcrpy's option {key!r}",
                cure="see docs/vcrpy.md for what to write instead",
            )
    return out


def _work_of(item: pytest.Item) -> Work:
    """Return where a test's recordings are; make the cassette if there is something to play."""
    folder = os.path.join(str(item.path.parent), "cassettes", item.path.stem)
    name = _name_of(item)
    yaml = os.path.join(folder, name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    extra = [
        os.path.join(folder, str(path)) for mark in item.iter_markers("vcr") for path in mark.args
    ]
    for path in [path for path in extra if not os.path.exists(path)]:
        item.warn(pytest.PytestWarning(f"netcapture: there is no cassette {path}"))
        extra.remove(path)
    paths = [path for path in (yaml, *extra) if os.path.exists(path)]
    stats = [os.stat(path) for path in paths]
    known = [(path, s.st_mtime_ns, s.st_size) for path, s in zip(paths, stats, strict=True)]
    digest = hashlib.sha256(repr((yaml, known)).encode()).hexdigest()[:24]
    stem = _FORBIDDEN.sub("-", name)[:80]
    cassette = os.path.join(_cache(item.config), f"{stem}.{digest}.cassette")
    borrowed = frozenset(key for path in extra for key in map(_key, _read(path)))
    if not paths:
        for left in (cassette, f"{cassette}.txt"):
            if os.path.exists(left):
                os.unlink(left)
    elif not os.path.exists(cassette):
        write_flows(cassette, [flow for path in paths for flow in _read(path)])
        if os.path.exists(cassette):
            os.utime(cassette, (1, 1))  # it is older than this run, as the YAML is
    return Work(yaml, cassette, borrowed)


def _name_of(item: pytest.Item) -> str:
    """Return the cassette's name that a mark gives, or the test's."""
    named = item.get_closest_marker("default_cassette")
    if named:
        return str(named.args[0])
    classes = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
    return shortened(_FORBIDDEN.sub("-", ".".join([*classes[-1:], item.name])))


def _cache(config: pytest.Config) -> str:
    cache = getattr(config, "cache", None)
    if cache is not None:
        return str(cache.mkdir("netcapture-vcr"))
    folder = os.path.join(str(config.rootpath), ".pytest_cache", "d", "netcapture-vcr")
    os.makedirs(folder, exist_ok=True)
    return folder


def _read(path: str) -> list[HttpFlow]:
    with open(path, "rb") as file:
        return list(files.read(file.read(), path))


def _key(flow: AnyFlow) -> tuple[object, ...]:
    if not isinstance(flow, HttpFlow):
        return (id(flow),)
    request, response = flow.request, flow.response
    answer = (response.status, response.content) if response else ()
    return request.method, request.url, request.content, *answer


def _write_back(work: Work) -> None:
    """Write what a test has recorded into its YAML file."""
    source = Source(work.cassette)
    try:
        flows = [recording.flow() for recording in source.recordings]
    finally:
        source.close()
    _write_yaml(work.yaml, (flow for flow in flows if _key(flow) not in work.borrowed))


def _write_yaml(path: str, flows: Iterable[AnyFlow]) -> None:
    text, _ = files.write(flows)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    passing = f"{path}.{os.getpid()}.tmp"
    with open(passing, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(passing, path)
