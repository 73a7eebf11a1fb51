"""Send every name lookup out as a DNS packet, to an address that the engine answers at.

1. /etc/resolv.conf keeps all its lines (search, options) but the nameservers. glibc 2.26 and later,
   and musl, look at the file again at the next lookup, also in a process that has resolved before.
   Proof: test_a_process_that_resolved_before_follows.
2. /etc/nsswitch.conf looks hosts up in files, then DNS; `myhostname`, which asks nobody, stays
   where it was. Every other database stays as it is. Without the file glibc does that by itself.
3. Sockets that answer lookups without a packet (nscd, systemd-resolved) are covered by an empty
   file: connecting to it is refused, and libc goes on to DNS. Proof: test_a_covered_socket_refuses.
4. A missing or dangling resolv.conf needs a new name in /etc: an overlay. Where that is refused it
   is reported; libc then asks 127.0.0.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox.mounts import bind_file, overlay
from pytest_netcapture.sandbox.original import exists, original, read_file, real_path, write_file

NAMESERVER = "192.0.2.53"
RESOLV_CONF = "/etc/resolv.conf"
NSSWITCH_CONF = "/etc/nsswitch.conf"
SOCKETS = (
    "/var/run/nscd/socket",
    "/run/nscd/socket",
    "/var/run/.nscd_socket",
    "/run/systemd/resolve/io.systemd.Resolve",
)
_ASKS_NOBODY = ("files", "myhostname")


class ResolverReport(NamedTuple):
    """What was laid over. NamedTuple: a dataclass costs start-up time."""

    covered: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    """(path, reason)."""


def install(directory: str, nameserver: str = NAMESERVER) -> ResolverReport:
    """Lay our files over the resolver's. Call it once, in a private mount namespace.

    `directory` is private, exists, and stays.
    """
    covered: list[str] = []
    failed: list[tuple[str, str]] = []
    for path, install_one in _steps(directory, nameserver).items():
        try:
            install_one()
            covered.append(path)
        except (EnvironmentProblem, OSError) as error:
            failed.append((path, getattr(error, "message", str(error))))
    return ResolverReport(tuple(covered), tuple(failed))


def nameservers(path: str = RESOLV_CONF) -> list[str]:
    """Return the addresses of the `nameserver` lines, in order; none if there is no such file."""
    return _values(_read(path), "nameserver")


def resolv_conf(original_text: str, nameserver: str) -> str:
    """Return the text with our nameserver instead of all others."""
    kept = [line for line in original_text.splitlines() if line.split()[:1] != ["nameserver"]]
    return "\n".join([*kept, f"nameserver {nameserver}", ""])


def nsswitch_conf(original_text: str) -> str:
    """Return the text with hosts looked up in files and DNS only."""
    lines, seen = [], False
    for line in original_text.splitlines():
        database, colon, sources = line.partition("#")[0].partition(":")
        if colon and database.strip() == "hosts":
            lines.append(f"hosts: {_hosts(sources)}")
            seen = True
        else:
            lines.append(line)
    if not seen:
        lines.append(f"hosts: {_hosts('')}")
    return "\n".join([*lines, ""])


def _hosts(sources: str) -> str:
    words = re.sub(r"\[[^]]*\]", " ", sources).split()
    kept = [word for word in words if word in {"dns", *_ASKS_NOBODY}]
    kept = kept if "files" in kept else ["files", *kept]
    kept = kept if "dns" in kept else [*kept, "dns"]
    return " ".join(dict.fromkeys(kept))


def _steps(directory: str, nameserver: str) -> dict[str, Callable[[], object]]:
    steps: dict[str, Callable[[], object]] = {
        RESOLV_CONF: partial(_replace_resolv_conf, directory, nameserver)
    }
    if exists(NSSWITCH_CONF):
        steps[NSSWITCH_CONF] = partial(_replace_nsswitch_conf, directory)
    empty = f"{directory}/no-socket"
    for path in {real_path(path): None for path in SOCKETS if exists(path)}:
        steps[path] = partial(_cover, path, empty)
    return steps


def _replace_resolv_conf(directory: str, nameserver: str) -> None:
    text = resolv_conf(_read(RESOLV_CONF), nameserver)
    ours = f"{directory}/etc"
    original.mkdir(ours, 0o755)
    write_file(f"{ours}/resolv.conf", text.encode(), 0o644)
    if exists(RESOLV_CONF):
        bind_file(f"{ours}/resolv.conf", RESOLV_CONF)
    else:
        overlay([ours], "/etc")


def _replace_nsswitch_conf(directory: str) -> None:
    ours = f"{directory}/nsswitch.conf"
    write_file(ours, nsswitch_conf(_read(NSSWITCH_CONF)).encode(), 0o644)
    bind_file(ours, NSSWITCH_CONF)


def _cover(path: str, empty: str) -> None:
    write_file(empty, b"", 0o644)
    bind_file(empty, path)


def _read(path: str) -> str:
    try:
        return read_file(path).decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def _values(text: str, keyword: str) -> list[str]:
    lines = [line.split() for line in text.splitlines()]
    return [words[1] for words in lines if len(words) > 1 and words[0] == keyword]
