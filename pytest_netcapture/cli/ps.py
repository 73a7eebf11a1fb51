"""`netcapture ps [FILTER]`: the processes that `netcapture local` can name.

1. Threads of the kernel are left out: they have no program, and are never captured.
2. What this user may not see of others' processes is empty. Who ends meanwhile is left out.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

import click

from pytest_netcapture.redirect.processes import all_pids, describe
from pytest_netcapture.redirect.seccomp_places import read_start

_FIRST_USER = 1000
_COLUMN = 24
_NOBODY = 65534


class Row(NamedTuple):
    """A process; `system`: it is no person's, by its user's number (login.defs(5))."""

    pid: int
    parent: int
    name: str
    path: str
    command: tuple[str, ...]
    system: bool


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, for machines.")
@click.argument("filter", default="", metavar="[FILTER]")
def ps(*, as_json: bool, filter: str) -> int:  # noqa: A002 - the name that people see
    """List the processes that `netcapture local` can name.

    FILTER: only those with this in their name, path or command line.

    Example: netcapture ps python
    """
    rows = [row for pid in sorted(all_pids()) if (row := read(pid)) is not None]
    shown = [row for row in rows if _matches(row, filter)]
    if as_json:
        click.echo(json.dumps([row._asdict() for row in shown], indent=2))
        return 0
    click.echo(f"{'PID':>7} {'PARENT':>7} {'NAME':{_COLUMN}} COMMAND")
    for row in shown:
        command = " ".join(row.command) or row.path
        click.echo(f"{row.pid:>7} {row.parent:>7} {row.name[:_COLUMN]:{_COLUMN}} {command}")
    return 0


def read(pid: int) -> Row | None:
    """Read what /proc tells of a process; None of one that has ended, or is the kernel's."""
    started = read_start(pid)
    found = describe(pid)
    try:
        path = os.readlink(f"/proc/{pid}/exe")
    except PermissionError:
        path = ""
    except OSError:
        return None
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            own = os.fsdecode(file.read().rstrip(b"\n"))
        user = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
    if started is None or not (path or found.command):
        return None
    name = path.rpartition("/")[2].removesuffix(" (deleted)") or own
    system = user < _FIRST_USER or user == _NOBODY
    return Row(pid, started.parent, name, path, tuple(found.command), system)


def _matches(row: Row, text: str) -> bool:
    return any(text in part for part in (row.name, row.path, *row.command))
