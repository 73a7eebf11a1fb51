"""`netcapture run -- PROGRAM`: one program in a sandbox.

1. The program is our child, in a namespace of its own; its exit status is ours, 128 + n when signal
   n ended it, 1 when it was well but its traffic was not (blocked, or not on the cassette).
2. A terminal's Ctrl-C reaches the program itself; a SIGTERM to us is passed on.
3. A line per flow goes to standard error while it runs, then a summary.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click
import msgspec

from pytest_netcapture.cli.capturing import tell_end, traffic_options
from pytest_netcapture.cli.viewing import View, live_lines, view_options
from pytest_netcapture.ports import parse_published
from pytest_netcapture.settings import REDIRECTORS, Settings
from pytest_netcapture.unanswered import signs

if TYPE_CHECKING:
    from pytest_netcapture.session import TestScope


@click.command(context_settings={"ignore_unknown_options": False})
@traffic_options
@click.option(
    "--publish",
    multiple=True,
    metavar="[HOST:]PORT",
    help="Reach PORT of the program at 127.0.0.1:HOST (the same port if left out, 0: a free one).",
)
@click.option(
    "--redirector",
    type=click.Choice(REDIRECTORS),
    default="auto",
    show_default=True,
    help="How packets reach the engine.",
)
@click.option(
    "--pcap",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write its packets to FILE (pcapng), with what Wireshark needs to decrypt them.",
)
@click.option(
    "--har",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write its exchanges to FILE (HTTP Archive), scrubbed.",
)
@view_options
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    *,
    settings: Settings,
    publish: Sequence[str],
    redirector: str,
    pcap: str | None,
    har: str | None,
    view: View,
    program: Sequence[str],
) -> int:
    """Run PROGRAM in a sandbox and show its traffic.

    Example: netcapture run --record api.cassette -- curl https://api.example.com/
    """
    packets = pcap is not None
    settings = msgspec.structs.replace(settings, redirector=redirector, packets=packets)
    ports = [parse_published(text, "--publish") for text in publish]
    return _run(settings, list(program), ports, Files(pcap, har), view)


class Files(NamedTuple):
    """What is written when the program has ended."""

    pcap: str | None
    har: str | None

    def write(self, scope: TestScope) -> None:
        if self.pcap is not None:
            scope.save_packets(os.path.abspath(self.pcap))
        if self.har is not None:
            from pytest_netcapture.interchange.saving import save_har

            save_har(self.har, scope.flows(), scope.settings_now.filters)


def _run(
    settings: Settings,
    program: list[str],
    ports: list[tuple[int, int]],
    files: Files,
    view: View,
) -> int:
    from pytest_netcapture.session import Session

    session = Session.start(msgspec.structs.replace(settings, cassette=None))
    for note in () if view.quiet else session.notes:
        click.echo(note, err=True)
    scope = session.begin("netcapture run", settings)
    for host_port, port in ports:
        published = scope.publish(port, host_port)
        if not (view.quiet and host_port):
            click.echo(f"netcapture: 127.0.0.1:{published} leads to port {port}", err=True)
    try:
        child = subprocess.Popen(program)
    except OSError as error:
        session.end(scope)
        click.echo(f"netcapture: cannot run {program[0]}: {error.strerror}", err=True)
        return 127 if isinstance(error, FileNotFoundError) else 126
    signs.starts()  # no audit hook tells
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    with live_lines(scope, view):
        status = child.wait()
    files.write(scope)
    problems = tell_end(session, scope, quiet=view.quiet)
    sys.stdout.flush()
    if status < 0:
        return 128 - status
    return 1 if problems and status == 0 else status
