"""`netcapture export`: cassettes in the formats of other tools."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Sequence

import click

from pytest_netcapture.cassettes.source import Source
from pytest_netcapture.cli.files import cassette_arguments, expand, opened, write_output
from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import HttpFlow
from pytest_netcapture.report.text import count


@click.command()
@cassette_arguments
@click.option("--har", "form", flag_value="har", help="HTTP Archive 1.2, for browsers' panels.")
@click.option("--vcr", "form", flag_value="yaml", help="vcrpy's YAML.")
@click.option("--curl", "form", flag_value="sh", help="A line for each request.")
@click.option("--pcapng", "form", flag_value="pcapng", help="For Wireshark, with TLS secrets.")
@click.option(
    "--output", "-o", type=click.Path(), metavar="FILE", help="Default: beside it; curl: stdout."
)
def export(*, paths: Sequence[str], form: str | None, output: str | None) -> int:
    """Write cassettes as HAR, vcrpy's YAML, packets, or lines for curl.

    Example: netcapture export --har api.cassette
    """
    if form is None:
        raise UsageError("export: as what?", cure="--har, --vcr, --curl or --pcapng")
    files = expand(paths)
    if output and output != "-" and len(files) > 1:
        raise UsageError(f"-o {output}: there are {len(files)} cassettes", cure="leave it out")
    for path in files:
        beside = "-" if form == "sh" else f"{os.path.splitext(path)[0]}.{form}"
        with opened(path) as source:
            data, left = _FORMS[form](source)
        write_output(output or beside, data)
        if left:
            click.echo(f"{path}: {count(left, 'flow')} left out: no HTTP exchange", err=True)
    return 0


def _har(source: Source) -> tuple[bytes, int]:
    from pytest_netcapture.interchange import har

    return har.write((recording.flow() for recording in source.recordings), _day(source))


def _day(source: Source) -> dt.datetime:
    """Return when a cassette was recorded: it knows the day only."""
    day = dt.datetime.fromisoformat(source.header.recorded or "1970-01-01")
    return day.replace(tzinfo=dt.timezone.utc)


def _vcr(source: Source) -> tuple[bytes, int]:
    from pytest_netcapture.interchange import vcr

    text, left = vcr.write(recording.flow() for recording in source.recordings)
    return text.encode(), left


def _curl(source: Source) -> tuple[bytes, int]:
    from pytest_netcapture.interchange.curl import curl_line

    flows = [recording.flow() for recording in source.recordings]
    lines = [curl_line(flow.request) for flow in flows if isinstance(flow, HttpFlow)]
    text = "".join(f"{line}\n" for line in lines)
    return text.encode("utf-8", "replace"), len(flows) - len(lines)


def _pcapng(source: Source) -> tuple[bytes, int]:
    from pytest_netcapture.interchange import packets

    began = int(_day(source).timestamp()) * 1_000_000_000
    return packets.write((recording.flow() for recording in source.recordings), began)


_FORMS: dict[str, Callable[[Source], tuple[bytes, int]]] = {
    "har": _har,
    "yaml": _vcr,
    "sh": _curl,
    "pcapng": _pcapng,
}
