"""`netcapture diff`: what changed between two cassettes, field by field."""

from __future__ import annotations

import click
import msgspec

from pytest_netcapture.cassettes.diffing import Change, diff
from pytest_netcapture.cli.files import json_option, opened
from pytest_netcapture.report.differences import difference_lines
from pytest_netcapture.report.text import count, printable


@click.command("diff")
@click.argument("old", type=click.Path())
@click.argument("new", type=click.Path())
@json_option
def diff_command(*, old: str, new: str, as_json: bool) -> int:
    """Print what NEW has that OLD has not, lacks, or has otherwise.

    Exits with 1 when they differ. What was scrubbed counts as equal.

    Example: netcapture diff before.cassette after.cassette
    """
    with opened(old) as before, opened(new) as after:
        changes = list(diff(before, after))
        if as_json:
            for change in changes:
                click.echo(_as_json(change))
        elif changes:
            click.echo(f"--- {old}: {count(len(before.recordings), 'flow')}")
            click.echo(f"+++ {new}: {count(len(after.recordings), 'flow')}")
            for change in changes:
                click.echo("\n".join(_lines(change)))
    return 1 if changes else 0


def _lines(change: Change) -> list[str]:
    if not change.new:
        return [f"- {printable(change.title)}"]
    if not change.old:
        return [f"+ {printable(change.title)}"]
    lines = [f"~ {printable(change.title)}"]
    lines += difference_lines(change.differences, indent="    ", limit=len(change.differences))
    return lines + [f"    {line}" for line in change.lines]


def _as_json(change: Change) -> str:
    kind = "removed" if not change.new else "added" if not change.old else "changed"
    value = {"change": kind, **change._asdict()}
    return msgspec.json.encode(value).decode()
