"""`netcapture grep`: where a pattern stands in cassettes, in heads, bodies and messages."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from pytest_netcapture.cassettes.searching import Hit, search
from pytest_netcapture.cli.files import cassette_arguments, expand, json_option, opened
from pytest_netcapture.errors import UsageError
from pytest_netcapture.report.text import printable


@click.command()
@click.argument("pattern")
@cassette_arguments
@click.option("--ignore-case", "-i", is_flag=True)
@click.option("--fixed-strings", "-F", is_flag=True, help="PATTERN is text, no expression.")
@click.option("--files-with-matches", "-l", "names_only", is_flag=True, help="Only files' names.")
@json_option
def grep(
    *,
    pattern: str,
    paths: Sequence[str],
    ignore_case: bool,
    fixed_strings: bool,
    names_only: bool,
    as_json: bool,
) -> int:
    """Print where PATTERN (a regular expression) stands in cassettes.

    Exits with 1 when it stands nowhere. A line is FILE:FLOW:PART:TEXT.

    Example: netcapture grep -i 'x-request-id' tests/cassettes
    """
    wanted = _compiled(pattern, ignore_case=ignore_case, fixed=fixed_strings)
    found = False
    for path in expand(paths):
        with opened(path) as source:
            for hit in search(source, wanted):
                found = True
                if names_only:
                    click.echo(path)
                    break
                _tell(path, hit, as_json=as_json)
    return 0 if found else 1


def _compiled(pattern: str, *, ignore_case: bool, fixed: bool) -> re.Pattern[bytes]:
    text = re.escape(pattern) if fixed else pattern
    try:
        flags = re.MULTILINE | (re.IGNORECASE if ignore_case else 0)
        return re.compile(text.encode(), flags)
    except re.error as error:
        cure = "correct it, or give -F to search for it as text"
        raise UsageError(f"{pattern!r} is no regular expression: {error}", cure=cure) from None


def _tell(path: str, hit: Hit, *, as_json: bool) -> None:
    line = hit.line.decode("utf-8", "replace")
    if as_json:
        from pytest_netcapture.interchange.plain import encoded

        place = {"cassette": path, "number": hit.number, "flow": hit.title}
        click.echo(encoded(place | {"part": hit.part, "line": line}))
    else:
        click.echo(f"{path}:{hit.number}:{hit.part}:{printable(line)}")
