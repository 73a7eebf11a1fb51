"""Options, ini keys, markers and the config fixture become one frozen `Settings` per test.

1. The command line wins over the nearest marker, that over the `netcapture_config` fixture, that
   over ini, that over the default.
2. Every value is checked here, once; a bad one is a `UsageError` that names option, place and cure.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from pytest_netcapture.errors import UsageError


class RecordMode(str, Enum):
    """vcrpy's and pytest-recording's modes."""

    NONE = "none"
    ONCE = "once"
    NEW_EPISODES = "new_episodes"
    ALL = "all"
    REWRITE = "rewrite"


class Repeat(str, Enum):
    """What happens when every recording of a key was played."""

    ONCE = "once"
    LAST = "last"
    CYCLE = "cycle"
    ANY = "any"


class HostMapping(msgspec.Struct, frozen=True):
    """`FROM=TO`: connections to FROM are dialled at TO. Port 0 means any, and the same."""

    from_host: str
    from_port: int
    to_host: str
    to_port: int

    def applies(self, host: str, port: int) -> bool:
        return host.lower().rstrip(".") == self.from_host and self.from_port in (0, port)

    def __str__(self) -> str:
        def one(host: str, port: int) -> str:
            host = f"[{host}]" if ":" in host else host
            return f"{host}:{port}" if port else host

        return f"{one(self.from_host, self.from_port)}={one(self.to_host, self.to_port)}"


class HostPattern(msgspec.Struct, frozen=True):
    """A host, `*.host`, CIDR block, `host:port` or `loopback`; `port` 0 means any."""

    text: str
    host: str
    port: int = 0
    network: bool = False

    def matches(self, names: Iterable[str], address: str, port: int) -> bool:
        """Tell whether a connection to `address`:`port`, known by `names`, is meant."""
        if self.port not in (0, port):
            return False
        if self.host == "loopback":
            return _is_loopback(address) or "localhost" in names
        if self.network:
            return bool(address) and _in_network(address, self.host)
        return any(self._names(name) for name in names) or address == self.host

    def _names(self, name: str) -> bool:
        return fnmatchcase(name.lower().rstrip("."), self.host)


class Edit(msgspec.Struct, frozen=True, array_like=True):
    """What a request's field becomes before it is recorded or looked up; None: it is left out.

    `place`: header, query or post (a field of a form, or of a JSON object).
    """

    place: str
    name: str
    value: str | None = None


class Filters(msgspec.Struct, frozen=True):
    """What to scrub besides the defaults, and what to keep in spite of them; names, any case.

    `ignore` names what is not compared as the report of a miss does: `query.nonce`,
    `headers.x-date`, `body.items[*].id`; `*` stands for anything. `masks` are regular expressions
    over what a client says in a protocol that is not decoded: what they find (their groups, if they
    have any) is not compared.
    """

    headers: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    form: tuple[str, ...] = ()
    json: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


class CassetteUse(msgspec.Struct, frozen=True):
    """Which cassette one test uses, and how."""

    path: str
    mode: RecordMode = RecordMode.ONCE
    repeat: Repeat = Repeat.ONCE
    match_on: tuple[str, ...] = ("method", "scheme", "host", "port", "path", "query", "body")
    filters: Filters = Filters()
    max_age: int = 0
    """Seconds; 0 means no limit."""
    edits: tuple[Edit, ...] = ()
    ignored_hosts: tuple[HostPattern, ...] = ()
    """Their traffic is live, and not recorded."""
    hooks: tuple[str, ...] = ()
    """What the project's own code wants to be asked of recordings (hooking.py)."""


class Settings(msgspec.Struct, frozen=True):
    """Everything that one test's sandbox and pipeline need to know."""

    block: bool = False
    allow: tuple[HostPattern, ...] = ()
    deny: tuple[HostPattern, ...] = ()
    passthrough: tuple[HostPattern, ...] = ()
    map_host: tuple[HostMapping, ...] = ()
    capture_loopback: bool = False
    upstream_ca: tuple[str, ...] = ()
    redirector: str = "auto"
    strict: bool = False
    http3: str = "capture"
    replay_speed: str = "full"
    packets: bool = False
    keep: str = "never"
    keep_dir: str = ""
    cassette: CassetteUse | None = None

    @property
    def filters(self) -> Filters:
        """What to scrub: as the cassette says, if there is one."""
        return self.cassette.filters if self.cassette else Filters()


MATCHERS = (
    "method",
    "scheme",
    "host",
    "port",
    "path",
    "query",
    "headers",
    "body",
    "json",
    "form",
    "raw_body",
    "uri",
    "url",
)
REDIRECTORS = ("auto", "tproxy", "tun", "seccomp", "ebpf")


def parse_pattern(text: str, where: str) -> HostPattern:
    """Parse one PATTERN of allow, block or passthrough. Raises `UsageError`."""
    if not text or text != text.strip() or "/" in text.replace("/", "", 1):
        raise UsageError(f"{where}: {text!r} is not a host pattern", cure=_PATTERN_FORMS)
    if "/" in text:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError as error:
            raise UsageError(
                f"{where}: {text!r} is not a CIDR block: {error}", cure=_PATTERN_FORMS
            ) from None
        return HostPattern(text, text, network=True)
    host, port = _split(text, where)
    return HostPattern(text, host, port)


_PATTERN_FORMS = "write a host (api.example.com), *.host, CIDR (10.0.0.0/8), host:port, or loopback"


def parse_mapping(text: str, where: str) -> HostMapping:
    """Parse FROM=TO. Raises `UsageError`."""
    source, equals, target = text.partition("=")
    if not equals or not source.strip() or not target.strip():
        raise UsageError(
            f"{where}: {text!r} does not parse as FROM=TO",
            cure="write api.example.com=127.0.0.1:8443, or api.example.com:443=127.0.0.1:8443",
        )
    from_host, from_port = _split(source.strip(), where)
    to_host, to_port = _split(target.strip(), where)
    return HostMapping(from_host, from_port, to_host, to_port)


def _split(text: str, where: str) -> tuple[str, int]:
    """Split host[:port], where an IPv6 address with a port is in brackets (RFC 3986 §3.2.2)."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise UsageError(
                f"{where}: {text!r}: '[' without a matching ']'", cure="write [::1]:8443"
            )
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        if not port:
            raise UsageError(
                f"{where}: {text!r} has a colon but no port",
                cure="leave out the colon, or add a port",
            )
    if not host or any(c.isspace() for c in host):
        raise UsageError(f"{where}: {text!r} has no host", cure="write host or host:port")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(
            f"{where}: {port!r} in {text!r} is not a port", cure="ports are 1 to 65535"
        )
    return host.lower().rstrip("."), int(port or 0)


def check_choice(value: object, choices: Sequence[str], where: str) -> str:
    """Return `value` if it is one of `choices`, else raise a `UsageError` with the nearest."""
    if isinstance(value, str) and value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"{where}: {value!r} is not known", cure=f"{hint}one of: {', '.join(choices)}")


def check_names(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise a `UsageError` with the nearest known name for the first unknown key of `given`."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError(
                f"{where}: unknown argument {name!r}",
                cure=f"{hint}known: {', '.join(sorted(known))}",
            )


def check_ca_file(path: str, where: str) -> str:
    """Return the absolute path of a PEM file with at least one certificate. Raises `UsageError`."""
    absolute = os.path.abspath(path)
    try:
        with open(absolute, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UsageError(
            f"{where}: cannot read {path}: {error.strerror}", cure="name a readable PEM file"
        ) from None
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise UsageError(
            f"{where}: {path} is not PEM: it has no '-----BEGIN CERTIFICATE-----' line",
            cure=f"convert DER with: openssl x509 -inform der -in {path} -out ca.pem",
        )
    return absolute


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _in_network(address: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except (ValueError, TypeError):
        return False
