"""The table of options, and how pytest learns of them.

1. Each has three names: `--netcapture-<name>`, ini `netcapture_<key>`, and `<key>` in the
   `netcapture` marker and in what the `netcapture_config` fixture returns.
2. This module is imported by every pytest run of an environment that has the plugin, so it imports
   nothing (not settings.py, whose enums the choices repeat; test_choices_are_those_of_settings).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest


class Option(NamedTuple):
    """One option. `kind`: flag, list, path, text, words or choice.

    `choices` are what a choice may be; words, separated by commas, may be left out: then all.
    """

    name: str
    kind: str
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.name.replace("-", "_")

    @property
    def dest(self) -> str:
        return f"netcapture_{self.key}"

    @property
    def flag(self) -> str:
        return f"--netcapture-{self.name}"


def _choice(name: str, text: str, *choices: str) -> Option:
    return Option(name, "choice", text, "|".join(choices), choices)


OPTIONS = (
    _choice(
        "record-mode",
        "how cassettes are used; default: once, none when CI is set",
        *("none", "once", "new_episodes", "all", "rewrite"),
    ),
    Option("cassette-dir", "path", "default: cassettes/ beside the test file", "DIR"),
    Option("auto-cassette", "flag", "every test has a cassette, as if marked"),
    Option("block", "flag", "no outside network but what is allowed"),
    Option(
        "allow", "list", "allow host, *.host, CIDR, host:port or loopback (repeatable)", "PATTERN"
    ),
    _choice(
        "redirector",
        "how packets reach the engine; default: auto",
        *("auto", "tproxy", "tun", "seccomp", "ebpf"),
    ),
    Option("passthrough", "list", "never decrypt these (repeatable)", "PATTERN"),
    Option("map-host", "list", "dial TO for FROM, host or host:port each (repeatable)", "FROM=TO"),
    _choice(
        "loopback",
        "loopback servers: left alone (default), or captured as any other host",
        *("leave", "capture"),
    ),
    Option("upstream-ca", "list", "PEM file of more roots trusted upstream (repeatable)", "FILE"),
    _choice(
        "http3",
        "HTTP/3: captured (default), or refused, so that clients fall back to TCP",
        *("capture", "refuse"),
    ),
    _choice(
        "replay-speed",
        "streams are played at once (full, the default), or as slowly as they were recorded",
        *("full", "recorded"),
    ),
    Option("packets", "flag", "keep each test's packets, for netcapture.save"),
    _choice(
        "keep",
        "keep a test's traffic for a look: cassette, HAR, pcapng; default: never",
        *("never", "failed", "always"),
    ),
    Option("keep-dir", "path", "where to; default: netcapture-kept/ in the root folder", "DIR"),
    Option("report", "path", "write what tests sent and got as one HTML file", "FILE"),
    Option("chaos", "words", "each test again for each recorded exchange and fault", "KINDS"),
    Option(
        "chaos-expect",
        "list",
        "what a test is to do under a fault: fail, survive or any (repeatable)",
        "KIND=EXPECTED",
    ),
    Option("chaos-wait", "text", "how long a test may take under a fault; default: 10s", "TIME"),
    Option("chaos-report", "path", "write the matrix as one HTML file", "FILE"),
    Option("strict", "flag", "a cassette's unused interactions fail the test"),
)
BY_KEY = {option.key: option for option in OPTIONS}
SWITCH = "--netcapture"
STAND_IN = "pytest_netcapture.vcr"
_FLAGS = (SWITCH, *(option.flag for option in OPTIONS))


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("netcapture", "network capture, record and replay")
    text = "run every test in a network sandbox of its own; capture, record, replay its traffic"
    group.addoption(SWITCH, action="store_true", default=False, help=text)
    parser.addini("netcapture", text, type="bool", default=False)
    for option in OPTIONS:
        _add_option(group, parser, option)


def _add_option(group: Any, parser: pytest.Parser, option: Option) -> None:
    arguments: dict[str, Any] = {
        "flag": {"action": "store_true"},
        "list": {"action": "append", "metavar": option.metavar},
        "words": {"nargs": "?", "const": "all", "metavar": option.metavar},
    }.get(option.kind, {"metavar": option.metavar})
    group.addoption(option.flag, dest=option.dest, default=None, help=option.help, **arguments)
    # Flags are strings to pytest, whose own error for a bad one is a traceback.
    kind = "linelist" if option.kind == "list" else "string"
    parser.addini(option.dest, option.help, type=kind, default=None)  # type: ignore[arg-type]


def enabled(config: pytest.Config, known: Any = None) -> bool:
    """Tell whether capture is on: by option, by ini, or by standing in for pytest-recording."""
    given = getattr(known or config.option, "netcapture", False)
    stands_in = config.pluginmanager.hasplugin(STAND_IN)
    return bool(given or stands_in or config.getini("netcapture"))


def misspelt(args: Sequence[str]) -> str:
    """Return what is wrong with the first option that is nearly one of ours, or ""."""
    for arg in args:
        name = arg.partition("=")[0]
        if name.startswith(SWITCH) and name not in _FLAGS:
            import difflib

            near = difflib.get_close_matches(name, _FLAGS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            return f"{name} is not an option\n  cure: {hint}known: {', '.join(_FLAGS)}"
    return ""


def without_effect(config: pytest.Config) -> list[str]:
    """Return the options on the command line that do nothing, since capture is off."""
    return [option.flag for option in OPTIONS if getattr(config.option, option.dest, None)]
