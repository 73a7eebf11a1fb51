"""What commands that read cassettes have in common: their arguments, opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from pytest_netcapture.cassettes.source import Source
from pytest_netcapture.errors import UsageError

ENDING = ".cassette"

cassette_arguments: Callable[[Callable[..., int]], Callable[..., int]] = click.argument(
    "paths", nargs=-1, required=True, metavar="CASSETTE...", type=click.Path()
)
json_option: Callable[[Callable[..., int]], Callable[..., int]] = click.option(
    "--json", "as_json", is_flag=True, help="For programs: a JSON value on each line."
)


def expand(paths: Sequence[str]) -> list[str]:
    """Return the cassettes that are named, those in folders included, once each.

    Raises `UsageError` for what is not there, and when there is none.
    """
    found: dict[str, None] = {}
    for path in paths:
        if os.path.isdir(path):
            found.update(dict.fromkeys(_below(path)))
        elif os.path.exists(path):
            found[path] = None
        else:
            raise UsageError(f"there is no cassette {path}", cure=_cure(path))
    if not found:
        raise UsageError(f"no {ENDING} file in {', '.join(paths)}", cure="name the file itself")
    return list(found)


@contextmanager
def opened(path: str) -> Iterator[Source]:
    """Open a cassette. Raises `CassetteError`, and `UsageError` when it is not there."""
    try:
        source = Source(path)
    except FileNotFoundError:
        raise UsageError(f"there is no cassette {path}", cure=_cure(path)) from None
    try:
        yield source
    finally:
        source.close()


def write_output(path: str, data: bytes) -> None:
    """Write what a command makes; "-" is standard output. Raises `UsageError`."""
    try:
        with click.open_file(path, "wb") as file:
            file.write(data)
    except OSError as error:
        problem = f"cannot write {path}: {error.strerror}"
        raise UsageError(problem, cure="name another: -o FILE") from None
    if path != "-":
        click.echo(f"Wrote {path}.", err=True)


def _below(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            os.path.join(parent, name)
            for name in sorted(names)
            if name.endswith(ENDING) and not name.startswith(".")
        )


def _cure(path: str) -> str:
    folder = os.path.dirname(path) or "."
    near = [name for name in _names(folder) if name.endswith(ENDING)][:5]
    return f"there are: {', '.join(near)}" if near else "record one: netcapture run --record FILE"


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
