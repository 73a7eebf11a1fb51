"""`netcapture doctor`: what works on this machine, what does not, and what mends it."""

from __future__ import annotations

import click

from pytest_netcapture.redirect.base import Support
from pytest_netcapture.sandbox.probe import Finding


@click.command()
def doctor() -> int:
    """Say what works on this machine, and the exact command that mends what does not.

    Example: netcapture doctor
    """
    from pytest_netcapture.redirect.tproxy import probe
    from pytest_netcapture.sandbox.probe import probe_all

    findings = probe_all()
    click.echo("sandbox")
    for finding in findings:
        _finding(finding)
    click.echo("redirectors")
    support = probe()
    _support(support)
    ready = support.available and all(f.ok for f in findings)
    click.echo(
        "\npytest --netcapture works here"
        if ready
        else "\npytest --netcapture does not work here yet"
    )
    return 0 if ready else 3


def _finding(finding: Finding) -> None:
    _line(finding.ok, finding.name, finding.reason, "" if finding.ok else finding.cure)


def _support(support: Support) -> None:
    _line(support.available, support.name, support.reason, support.cure)
    for note in support.notes:
        click.echo(f"       note: {note}")


def _line(ok: bool, name: str, reason: str, cure: str) -> None:
    mark = click.style("ok", fg="green") if ok else click.style("no", fg="red")
    click.echo(f"  {mark}   {name}" + (f": {reason}" if reason else ""))
    if cure:
        click.echo(f"       cure: {cure}")
