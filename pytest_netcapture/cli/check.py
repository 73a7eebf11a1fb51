"""`netcapture check` and `scrub`: is a cassette sound and free of secrets, and make it so."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import click
import msgspec

from pytest_netcapture.cassettes.checking import damage, leaks, text_differs, text_of
from pytest_netcapture.cassettes.scrub import Scrubber
from pytest_netcapture.cassettes.secrets import Secrets
from pytest_netcapture.cassettes.sidecar import sidecar_path
from pytest_netcapture.cassettes.source import Source
from pytest_netcapture.cassettes.writing import scrub_file
from pytest_netcapture.cli.files import cassette_arguments, expand, json_option, opened
from pytest_netcapture.errors import CassetteError, UsageError
from pytest_netcapture.report.text import count, printable
from pytest_netcapture.settings import Filters

_NAMES: dict[str, str] = {
    "secret-header": "headers",
    "secret-query": "query",
    "secret-form": "form",
    "secret-json": "json",
    "secret-value": "values",
    "keep": "keep",
}
"""Of options to those of `Filters`."""


def _filter_options(function: Callable[..., int]) -> Callable[..., int]:
    helps = {
        "secret-value": "TEXT is a secret wherever it stands.",
        "keep": "What is so named is no secret.",
    }
    for name, field in reversed(_NAMES.items()):
        metavar = "TEXT" if name == "secret-value" else "NAME"
        told = helps.get(name, f"The {name.partition('-')[2]} field of this name is a secret.")
        option = click.option(f"--{name}", f"of_{field}", multiple=True, metavar=metavar, help=told)
        function = option(function)
    return function


def _scrubber(source: Source, named: dict[str, Sequence[str]]) -> Scrubber:
    lists = {field: tuple(named[f"of_{field}"]) for field in _NAMES.values()}
    return Scrubber(Secrets.from_environ(os.environ), Filters(**lists), source.header.salt)


@click.command()
@cassette_arguments
@click.option("--secrets", "secrets_only", is_flag=True, help="Look for secrets only.")
@click.option("--fix", is_flag=True, help="Write the texts beside cassettes anew if they differ.")
@_filter_options
@json_option
def check(
    *, paths: Sequence[str], secrets_only: bool, fix: bool, as_json: bool, **named: Sequence[str]
) -> int:
    """Tell whether cassettes are whole, hold no secret, and have the right text beside them.

    Exits with 1 when something is wrong. Secrets are what a recording would scrub, values of
    environment variables that are named like secrets included; they are told by place, not shown.

    Example: netcapture check tests/cassettes
    """
    wrong = 0
    files = expand(paths)
    for path in files:
        for kind, problem in _problems(path, named, secrets_only=secrets_only, fix=fix):
            wrong += 1
            if as_json:
                found = {"cassette": path, "kind": kind, "problem": problem}
                click.echo(msgspec.json.encode(found).decode())
            else:
                click.echo(f"{path}: {kind}: {printable(problem)}")
    if not as_json:
        found_some = f"{count(wrong, 'problem')}" if wrong else "nothing wrong"
        click.echo(f"{count(len(files), 'cassette')}: {found_some}", err=bool(wrong))
    return 1 if wrong else 0


def _problems(
    path: str, named: dict[str, Sequence[str]], *, secrets_only: bool, fix: bool
) -> Iterator[tuple[str, str]]:
    try:
        with opened(path) as source:
            if not secrets_only:
                yield from (("damage", problem) for problem in damage(source))
                if problem := text_differs(source):
                    if fix:
                        _write_text(source)
                    else:
                        yield "text", f"{problem}; netcapture check --fix {path} writes it anew"
            yield from (("secret", leak) for leak in leaks(source, _scrubber(source, named)))
    except CassetteError as error:
        yield "damage", error.message


def _write_text(source: Source) -> None:
    path = sidecar_path(source.path)
    try:
        with open(path, "wb") as file:
            file.write(text_of(source).encode("utf-8", "replace"))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    click.echo(f"{path}: written anew")


@click.command()
@cassette_arguments
@_filter_options
def scrub(*, paths: Sequence[str], **named: Sequence[str]) -> int:
    """Take secrets out of cassettes, in place, as a recording does.

    What was replaced before stays as it is.

    Example: netcapture scrub --secret-json pin --secret-value "$OLD_PASSWORD" tests/cassettes
    """
    for path in expand(paths):
        with opened(path) as source:
            found = list(leaks(source, _scrubber(source, named)))
            if found:
                scrub_file(source, _scrubber(source, named))
        for leak in found:
            click.echo(f"{path}: scrubbed: {printable(leak)}")
    return 0
