"""`netcapture show`: a cassette as text, or as JSON lines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import click

from pytest_netcapture.cassettes.sidecar import BRIEF, WHOLE, describe, heading
from pytest_netcapture.cli.files import cassette_arguments, expand, json_option, opened
from pytest_netcapture.errors import UsageError


@click.command()
@cassette_arguments
@click.option("--flow", "-n", "numbers", multiple=True, type=int, help="Only the flow of number N.")
@click.option("--brief", is_flag=True, help="As the .txt beside it: long bodies cut.")
@click.option("--no-name", is_flag=True, help="Not the file's name: git's are passing ones.")
@json_option
def show(
    *, paths: Sequence[str], numbers: Sequence[int], brief: bool, no_name: bool, as_json: bool
) -> int:
    """Print what a cassette holds, as text.

    Example: netcapture show tests/cassettes/test_api/test_users.cassette
    """
    for path in expand(paths):
        _show(path, frozenset(numbers), How(brief=brief, named=not no_name, as_json=as_json))
    return 0


class How(NamedTuple):
    """What is printed of a cassette, and as what."""

    brief: bool
    named: bool
    as_json: bool


def _show(path: str, numbers: frozenset[int], how: How) -> None:
    from pytest_netcapture.interchange.plain import encoded, plain

    with opened(path) as source:
        count = len(source.recordings)
        if strange := sorted(n for n in numbers if not 0 < n <= count):
            raise UsageError(f"{path} has no flow {strange[0]}", cure=f"there are 1 to {count}")
        if how.named and not how.as_json and not numbers:
            click.echo(heading(os.path.basename(path), count).splitlines()[0])
        for number, recording in enumerate(source.recordings, 1):
            if numbers and number not in numbers:
                continue
            if how.as_json:
                place = {"cassette": path, "number": number}
                click.echo(encoded(place | plain(recording.outline())))
            else:
                extent = BRIEF if how.brief else WHOLE
                click.echo(describe(number, recording.record(), source, extent), nl=False)
