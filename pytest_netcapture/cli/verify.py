"""`netcapture verify`: do live servers still answer as cassettes say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pytest_netcapture.cli.capturing import map_host_option, upstream_ca_option
from pytest_netcapture.cli.files import cassette_arguments, expand, json_option, opened
from pytest_netcapture.errors import UsageError
from pytest_netcapture.report.differences import difference_lines
from pytest_netcapture.report.exchange import subject
from pytest_netcapture.report.text import count
from pytest_netcapture.settings import Settings, check_ca_file, parse_mapping

if TYPE_CHECKING:
    from pytest_netcapture.verifying import Verdict

_KINDS = ("same", "values", "drift", "skipped")


@click.command("verify")
@cassette_arguments
@map_host_option
@upstream_ca_option
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="Send this value where a request has the field: credentials that were scrubbed.",
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="FIELD",
    help="Does not count: response.headers.x-*, response.body.items[*].id",
)
@click.option("--all-methods", is_flag=True, help="Send what may change something, too.")
@click.option("--verbose", "-v", is_flag=True, help="List the values that differ.")
@json_option
def verify_command(
    *,
    paths: Sequence[str],
    map_host: Sequence[str],
    upstream_ca: Sequence[str],
    headers: Sequence[str],
    ignore: Sequence[str],
    all_methods: bool,
    verbose: bool,
    as_json: bool,
) -> int:
    """Send recorded requests to the live servers, and show how the answers have drifted.

    Status, media type, names of header fields, keys and types of JSON, types of DNS records: when
    one differs, the exit status is 1. Values are counted.

    Example: netcapture verify --header "Authorization: Bearer $TOKEN" tests/cassettes
    """
    from pytest_netcapture.session import Session
    from pytest_netcapture.verifying import Options, verify

    files = expand(paths)
    options = Options(all_methods, _pairs(headers), tuple(ignore))
    settings = Settings(
        map_host=tuple(parse_mapping(m, "--map-host") for m in map_host),
        upstream_ca=tuple(check_ca_file(f, "--upstream-ca") for f in upstream_ca),
    )
    counts: Counter[str] = Counter()
    session = Session.start(settings)
    scope = session.begin("netcapture verify", settings)
    try:
        for path in files:
            with opened(path) as source:
                for verdict in verify(source, scope, options):
                    counts[_kind(verdict)] += 1
                    _tell(path, verdict, verbose=verbose, as_json=as_json)
    finally:
        session.end(scope)
        session.close()
    if not as_json:
        told = ", ".join(
            f"{counts[kind]} {kind}" for kind in ("same", "values", "drift", "skipped")
        )
        click.echo(f"{count(counts.total(), 'flow')}: {told}", err=True)
    return 1 if counts["drift"] else 0


def _pairs(headers: Sequence[str]) -> dict[str, str]:
    out = {}
    for text in headers:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise UsageError(f"--header: {text!r} has no name", cure="write 'NAME: VALUE'")
        out[name.strip().lower()] = value.strip()
    return out


def _kind(verdict: Verdict) -> str:
    if verdict.skipped:
        return "skipped"
    return "drift" if verdict.drift.shape else "values" if verdict.drift.values else "same"


def _tell(path: str, verdict: Verdict, *, verbose: bool, as_json: bool) -> None:
    kind = _kind(verdict)
    if as_json:
        click.echo(_as_json(path, verdict, kind))
        return
    note = f"  ({verdict.skipped})" if verdict.skipped else ""
    if kind == "values":
        note = f"  ({count(len(verdict.drift.values), 'other value')})"
    click.echo(f"{kind:<7} {path}:{verdict.number}: {subject(verdict.flow)}{note}")
    shown = verdict.drift.shape + (verdict.drift.values if verbose else [])
    for line in difference_lines(shown, indent="        ", limit=40):
        click.echo(line)


def _as_json(path: str, verdict: Verdict, kind: str) -> str:
    from pytest_netcapture.interchange.plain import encoded

    value: dict[str, Any] = {"cassette": path, "number": verdict.number, "verdict": kind}
    value |= {"flow": subject(verdict.flow), **verdict.drift._asdict()}
    return encoded(value | ({"skipped": verdict.skipped} if verdict.skipped else {}))
