"""`netcapture merge`: several cassettes become one; and what git calls to merge two branches'."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack

import click

from pytest_netcapture.cassettes.format import FORMAT
from pytest_netcapture.cassettes.merging import three_way, union
from pytest_netcapture.cassettes.saving import write
from pytest_netcapture.cassettes.sidecar import sidecar_path
from pytest_netcapture.cli.files import expand, opened
from pytest_netcapture.errors import UsageError
from pytest_netcapture.report.text import count, printable


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="CASSETTE...", type=click.Path())
@click.option("--output", "-o", type=click.Path(dir_okay=False), metavar="FILE")
@click.option("--driver", is_flag=True, help="As git's merge driver: BASE OURS THEIRS NAME.")
def merge(*, paths: Sequence[str], output: str | None, driver: bool) -> int:
    """Write one cassette with all that is in any of these.

    Example: netcapture merge shard-*/api.cassette -o api.cassette
    """
    if driver:
        return _drive(paths)
    if not output:
        raise UsageError("merge: where to is not said", cure="-o FILE")
    with ExitStack() as stack:
        sources = [stack.enter_context(opened(path)) for path in expand(paths)]
        recordings = union(sources)
        total = sum(len(source.recordings) for source in sources)
        saved = write(os.path.abspath(output), recordings, sources[0].header.salt)
    same = total - saved.total
    shared = f", {same} of them in more than one" if same else ""
    click.echo(f"{output}: {count(total, 'flow')}{shared}: {count(saved.total, 'flow')} written")
    return 0


def _drive(paths: Sequence[str]) -> int:
    """Merge two sides as git asks to, leaving the result in OURS; exit with 1 on conflicts."""
    if len(paths) != 4:
        raise UsageError(f"--driver takes BASE OURS THEIRS NAME, not {count(len(paths), 'file')}")
    base, ours, theirs, name = paths
    if not _is_cassette(base):
        base = ours  # both sides added the file: nothing is common but what is the same
    with opened(base) as root, opened(ours) as left, opened(theirs) as right:
        if base == ours:
            root.recordings = []
        recordings, conflicts = three_way(root, left, right)
        write(os.path.abspath(ours), recordings, left.header.salt)
    os.unlink(sidecar_path(os.path.abspath(ours)))  # OURS is a passing file of git's
    for title in conflicts:
        click.echo(f"netcapture: {name}: both sides changed {printable(title)}", err=True)
    if conflicts:
        cure = f"record it again, or take one side's: git checkout --theirs {name}"
        click.echo(f"netcapture: {name} is as on our side there: {cure}", err=True)
    return 1 if conflicts else 0


def _is_cassette(path: str) -> bool:
    """Tell whether a file begins as a cassette does: git gives an empty one if there is no base."""
    with open(path, "rb") as file:
        return FORMAT.encode() in file.read(64)
