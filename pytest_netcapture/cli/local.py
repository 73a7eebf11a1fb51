"""`netcapture local [SPEC]...`: programs that run already, or that others start, on this machine.

1. Nothing is restarted, and nothing is changed but that the kernel diverts what targets connect to;
   that ends with this command, however it ends.
2. Ctrl-C or SIGTERM ends it: what was recorded is saved, a summary printed. Status 1 when traffic
   was not well (blocked, or not on the cassette).
3. Who is named, and what it takes: redirect/ebpf_targets.py, docs/local-mode.md.
"""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from pytest_netcapture.cli.capturing import tell_end, traffic_options
from pytest_netcapture.cli.viewing import View, live_lines, view_options
from pytest_netcapture.messages import EbpfOptions
from pytest_netcapture.settings import Settings

if TYPE_CHECKING:
    from pytest_netcapture.machine_grounds import EbpfGround

_ENVIRONMENT = "environment.sh"


@click.command()
@traffic_options
@click.option(
    "--cgroup",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Only processes of this control group, and of those below it.",
)
@click.option("--sudo", is_flag=True, help="Ask sudo for what takes privilege, and for no more.")
@view_options
@click.argument("spec", nargs=-1)
def local(
    *,
    settings: Settings,
    cgroup: str | None,
    sudo: bool,
    view: View,
    spec: Sequence[str],
) -> int:
    """Capture programs that are running, or that anybody starts, until Ctrl-C.

    SPEC names them: curl, 1234 (and what these start), !curl (all but). Without any: everything.
    Needs root, or --sudo.

    Example: netcapture local --record api.cassette curl,1234
    """
    from pytest_netcapture.redirect.ebpf_targets import parse

    parse(spec)
    settings = msgspec.structs.replace(settings, redirector="ebpf")
    from pytest_netcapture import kept_ca
    from pytest_netcapture.machine_grounds import EbpfGround
    from pytest_netcapture.redirect.ebpf_handover import command
    from pytest_netcapture.sandbox import cgroups

    kept = kept_ca.read()
    options = EbpfOptions(tuple(spec), cgroup or cgroups.root(), keeps=True, authority=kept)
    ground = EbpfGround(options, command() if sudo else ())
    return _capture(settings, ground, view)


def _capture(settings: Settings, ground: EbpfGround, view: View) -> int:
    from pytest_netcapture.launch import launch_on
    from pytest_netcapture.session import Session

    before, targets, kept = dict(os.environ), ground.options.targets, ground.options.authority
    ground.prepare()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    session = Session.start(msgspec.structs.replace(settings, cassette=None), launch_on(ground))
    scope = session.begin("netcapture local", settings)
    if not view.quiet:
        for note in session.notes:
            click.echo(note, err=True)
        script = _write_environment(session.directory, before)
        what = ", ".join(targets) or "everything"
        click.echo(f"netcapture: capturing {what}; Ctrl-C ends it", err=True)
        trusting = "" if kept else f"what you start after `. {script}` trusts its CA"
        trusting = trusting or f"who heeds the system's store, or `. {script}`, trusts its CA"
        click.echo(f"netcapture: {trusting}", err=True)
    with live_lines(scope, view):
        while not stop.wait(1):
            session.check_engine()
    return int(tell_end(session, scope, quiet=view.quiet))


def _write_environment(directory: str, before: Mapping[str, str]) -> str:
    """Write what a shell reads to make its programs trust us; return the file."""
    path = os.path.join(directory, _ENVIRONMENT)
    set_now = {name: value for name, value in os.environ.items() if before.get(name) != value}
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(
            f"export {name}={shlex.quote(value)}\n"
            for name, value in sorted(set_now.items())
            if not name.startswith("NETCAPTURE_")
        )
    return path
