"""`netcapture import`: other tools' recordings become cassettes."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from pytest_netcapture.errors import UsageError
from pytest_netcapture.report.text import count

_ENDINGS = (".yaml", ".yml", ".json", ".har")


@click.command("import")
@click.argument("paths", nargs=-1, required=True, metavar="FILE...", type=click.Path())
@click.option("--output", "-o", type=click.Path(), metavar="FILE", help="Of one FILE only.")
@click.option("--force", is_flag=True, help="Replace cassettes that are there.")
def import_command(*, paths: Sequence[str], output: str | None, force: bool) -> int:
    """Write a cassette beside each FILE, from what vcrpy, cassetter or a browser recorded.

    YAML, JSON or HAR; folders are looked through. Secrets are scrubbed as in a recording.

    Example: netcapture import tests/cassettes
    """
    files = _files(paths)
    if output and len(files) != 1:
        raise UsageError(f"-o {output}: there are {len(files)} files", cure="leave it out")
    for path in files:
        _import(path, output or os.path.splitext(path)[0] + ".cassette", force=force)
    return 0


def _files(paths: Sequence[str]) -> list[str]:
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            for folder, folders, names in os.walk(path):
                folders.sort()
                ours = sorted(name for name in names if name.endswith(_ENDINGS))
                found += [os.path.join(folder, name) for name in ours]
        elif os.path.exists(path):
            found.append(path)
        else:
            raise UsageError(f"there is no file {path}")
    if not found:
        raise UsageError(f"no recording in {', '.join(paths)}", cure=f"a {', '.join(_ENDINGS)}")
    return found


def _import(path: str, target: str, *, force: bool) -> None:
    from pytest_netcapture.cassettes.writing import write_flows
    from pytest_netcapture.interchange import har, vcr

    if os.path.exists(target) and not force:
        raise UsageError(f"{target} is there already", cure="--force replaces it")
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    flows = list((har if _is_har(path, text) else vcr).read(text, path))
    saved = write_flows(target, flows)
    click.echo(f"{path}: {count(saved.total, 'flow')} to {target}" if flows else f"{path}: empty")


def _is_har(path: str, text: bytes) -> bool:
    return path.endswith(".har") or (text.lstrip()[:1] == b"{" and b'"log"' in text[:2000])
