"""All that takes privilege: made by the engine itself, or by a helper that hands it over.

1. What is made here are descriptors: of maps, programs, links and sockets. Whoever has them needs
   no privilege (since Linux 5.19, which lets maps be used by whoever has their descriptors).
2. They are sent once, with their names as JSON, over a Unix socket (SCM_RIGHTS, unix(7)).
3. The helper gets nothing from the other side but the control group's descriptor.

Tests: test_ebpf_helper.py.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect.ebpf_following import connect_reports
from pytest_netcapture.redirect.ebpf_programs import SLUG, Programs
from pytest_netcapture.redirect.resets import reset_senders
from pytest_netcapture.redirect.transparent import families, icmp_sender

_LONGEST = 1 << 16
_MANY = 200


class Privileged(NamedTuple):
    """Programs and maps, raw sockets by family, the kernel's reports of processes or why not."""

    programs: Programs
    icmp: dict[int, socket.socket]
    resets: dict[int, socket.socket]
    reports: socket.socket | None
    lacking: str = ""

    def close(self) -> None:
        for sock in (*self.icmp.values(), *self.resets.values()):
            sock.close()
        if self.reports is not None:
            self.reports.close()
        self.programs.close()


def make(*, ipv6: bool) -> Privileged:
    """Make all of it. Raises `EnvironmentProblem`."""
    programs = Programs.load()
    icmp = {family: icmp_sender(family) for family in families(ipv6=ipv6)}
    resets = reset_senders(ipv6=ipv6)
    try:
        return Privileged(programs, icmp, resets, connect_reports())
    except OSError as error:
        return Privileged(programs, icmp, resets, None, error.strerror or "")


def send(conn: socket.socket, made: Privileged) -> None:
    """Hand all of it over."""
    named = made.programs.descriptors()
    named |= {f"icmp {family}": sock.fileno() for family, sock in made.icmp.items()}
    named |= {f"resets {family}": sock.fileno() for family, sock in made.resets.items()}
    if made.reports is not None:
        named["reports"] = made.reports.fileno()
    words = json.dumps({"names": list(named), "lacking": made.lacking})
    socket.send_fds(conn, [words.encode()], list(named.values()))


def refuse(conn: socket.socket, problem: EnvironmentProblem) -> None:
    """Say why there is nothing."""
    words = {"problem": problem.message, "cure": problem.cure}
    conn.sendall(json.dumps(words).encode())


def receive(conn: socket.socket) -> Privileged:
    """Take over what a helper has made. Raises `EnvironmentProblem`."""
    data, descriptors, _, _ = socket.recv_fds(conn, _LONGEST, _MANY)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    try:
        told = json.loads(data)
    except ValueError as error:
        raise EnvironmentProblem(
            "ebpf: the helper said nothing", cure="look what it printed above", slug=SLUG
        ) from error
    if "problem" in told:
        raise EnvironmentProblem(told["problem"], cure=told["cure"], slug=SLUG)
    named = dict(zip(told["names"], descriptors, strict=True))
    reports = _socket(named.pop("reports", -1))
    icmp, resets = _by_family(named, "icmp"), _by_family(named, "resets")
    return Privileged(Programs.received(named), icmp, resets, reports, told["lacking"])


def _by_family(named: Mapping[str, int], kind: str) -> dict[int, socket.socket]:
    found = {}
    for name, descriptor in named.items():
        word, _, family = name.partition(" ")
        sock = _socket(descriptor) if word == kind else None
        if sock is not None:
            found[int(family)] = sock
    return found


def _socket(descriptor: int) -> socket.socket | None:
    with suppress(OSError):
        if descriptor >= 0:
            return socket.socket(fileno=descriptor)
    return None
