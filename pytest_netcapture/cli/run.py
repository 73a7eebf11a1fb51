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
import threading
from collections.abc import Sequence

import click
import msgspec

from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import AnyFlow, Problem
from pytest_netcapture.ports import parse_published
from pytest_netcapture.report.exchange import flow_line
from pytest_netcapture.report.problem import problem_text
from pytest_netcapture.report.receipt import Receipt
from pytest_netcapture.settings import (
    REDIRECTORS,
    CassetteUse,
    RecordMode,
    Settings,
    check_ca_file,
    parse_mapping,
    parse_pattern,
)
from pytest_netcapture.unanswered import signs

_TICK = 0.05
"""Seconds between looks at whether the program has ended, while nothing changes."""


_OPTIONS = {
    "--netcapture-record-mode=new_episodes": "--record",
    "--netcapture-allow": "--allow",
    ", or netcapture.allow(...)": "",
}


@click.command(context_settings={"ignore_unknown_options": False})
@click.option("--record", metavar="FILE", help="Record to this cassette, replacing what it holds.")
@click.option("--replay", metavar="FILE", help="Answer from this cassette only; no network.")
@click.option("--block", is_flag=True, help="No network but what is allowed.")
@click.option(
    "--allow",
    multiple=True,
    metavar="PATTERN",
    help="Allow a host, *.host, CIDR, host:port, loopback.",
)
@click.option("--passthrough", multiple=True, metavar="PATTERN", help="Never decrypt these.")
@click.option(
    "--map-host", multiple=True, metavar="FROM=TO", help="Dial TO for connections to FROM."
)
@click.option(
    "--upstream-ca", multiple=True, metavar="FILE", help="More roots to trust upstream (PEM)."
)
@click.option(
    "--loopback", type=click.Choice(["leave", "capture"]), default="leave", show_default=True
)
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
@click.option("--quiet", "-q", is_flag=True, help="No live lines, no summary.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    *,
    record: str | None,
    replay: str | None,
    block: bool,
    allow: Sequence[str],
    passthrough: Sequence[str],
    map_host: Sequence[str],
    upstream_ca: Sequence[str],
    loopback: str,
    publish: Sequence[str],
    redirector: str,
    pcap: str | None,
    quiet: bool,
    program: Sequence[str],
) -> int:
    """Run PROGRAM in a sandbox and show its traffic.

    Example: netcapture run --record api.cassette -- curl https://api.example.com/
    """
    settings = Settings(
        block=block,
        allow=tuple(parse_pattern(p, "--allow") for p in allow),
        passthrough=tuple(parse_pattern(p, "--passthrough") for p in passthrough),
        map_host=tuple(parse_mapping(m, "--map-host") for m in map_host),
        upstream_ca=tuple(check_ca_file(f, "--upstream-ca") for f in upstream_ca),
        capture_loopback=loopback == "capture",
        redirector=redirector,
        packets=pcap is not None,
        cassette=cassette_use(record, replay),
    )
    ports = [parse_published(text, "--publish") for text in publish]
    return _run(settings, list(program), ports, pcap=pcap, quiet=quiet)


def cassette_use(record: str | None, replay: str | None) -> CassetteUse | None:
    """Return what --record and --replay ask for. Raises `UsageError`."""
    if record and replay:
        raise UsageError("--record and --replay exclude each other", cure="give one of them")
    if replay:
        if not os.path.exists(replay):
            raise UsageError(
                f"--replay: there is no cassette {replay}",
                cure=f"record it first: --record {replay}",
            )
        return CassetteUse(os.path.abspath(replay), RecordMode.NONE)
    return CassetteUse(os.path.abspath(record), RecordMode.REWRITE) if record else None


def _run(
    settings: Settings,
    program: list[str],
    ports: list[tuple[int, int]],
    *,
    pcap: str | None,
    quiet: bool,
) -> int:
    from pytest_netcapture.session import Session

    session = Session.start(msgspec.structs.replace(settings, cassette=None))
    for note in () if quiet else session.notes:
        click.echo(note, err=True)
    scope = session.begin("netcapture run", settings)
    for host_port, port in ports:
        published = scope.publish(port, host_port)
        if not (quiet and host_port):
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
    ended = threading.Event()
    lines = threading.Thread(target=live_lines, args=(scope, ended), daemon=True)
    if not quiet:
        lines.start()
    status = child.wait()
    ended.set()
    if not quiet:
        lines.join(2)
    if pcap is not None:
        scope.save_packets(os.path.abspath(pcap))
    result = session.end(scope)
    counts = session.close().counts
    problems = [problem_text(in_our_terms(problem)) for problem in result.problems]
    for text in problems:
        click.echo(text, err=True)
    if not quiet:
        receipt = Receipt.from_dict(msgspec.structs.asdict(result.counts))
        click.echo(receipt + Receipt.from_dict(msgspec.structs.asdict(counts)), err=True)
    sys.stdout.flush()
    if status < 0:
        return 128 - status
    return 1 if problems and status == 0 else status


def live_lines(scope: object, ended: threading.Event) -> None:
    """Print each flow once it is complete."""
    from pytest_netcapture.session import TestScope

    assert isinstance(scope, TestScope)
    shown: set[int] = set()
    seen = -1
    while True:
        over = ended.is_set()
        seen = scope.wait_change(seen, _TICK if not over else 0.0)
        flows: list[AnyFlow] = scope.flows()
        for flow in flows:
            if flow.id not in shown and (flow.ended or over):
                shown.add(flow.id)
                click.echo(flow_line(flow), err=True)
        if over:
            return


def in_our_terms(problem: Problem) -> Problem:
    """Give advice in options of this command, not of pytest."""
    advice = problem.advice
    for pytests, ours in _OPTIONS.items():
        advice = advice.replace(pytests, ours)
    return msgspec.structs.replace(problem, advice=advice)
