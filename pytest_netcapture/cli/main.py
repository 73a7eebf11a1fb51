"""`netcapture`: the command's entry point and its exit statuses.

0, 1 (found a difference or failed), 2 (usage), 3 (cannot capture on this machine); `run` exits as
its program does.
"""

from __future__ import annotations

import sys

import click

from pytest_netcapture.cli.ca import ca
from pytest_netcapture.cli.check import check, scrub
from pytest_netcapture.cli.diff import diff_command
from pytest_netcapture.cli.doctor import doctor
from pytest_netcapture.cli.exporting import export
from pytest_netcapture.cli.git_setup import git_setup
from pytest_netcapture.cli.grep import grep
from pytest_netcapture.cli.importing import import_command
from pytest_netcapture.cli.local import local
from pytest_netcapture.cli.merge import merge
from pytest_netcapture.cli.proxy import proxy
from pytest_netcapture.cli.ps import ps
from pytest_netcapture.cli.run import run
from pytest_netcapture.cli.show import show
from pytest_netcapture.cli.stats import stats
from pytest_netcapture.cli.verify import verify_command
from pytest_netcapture.errors import EngineGone, EnvironmentProblem, NetcaptureError, UsageError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pytest-netcapture")
def cli() -> None:
    """Capture, record and replay the network traffic of any program.

    Example: netcapture run --record api.cassette -- curl https://api.example.com/
    """


@click.command(hidden=True)
def helper() -> None:
    """Do what takes privilege for `netcapture local --sudo`, which starts it."""
    from pytest_netcapture.redirect import ebpf_helper

    ebpf_helper.main()


for command in (
    run,
    helper,
    local,
    proxy,
    ps,
    ca,
    doctor,
    show,
    grep,
    diff_command,
    stats,
    check,
    scrub,
    verify_command,
    import_command,
    export,
    merge,
    git_setup,
):
    cli.add_command(command)


def main() -> None:
    """Run the command; errors by blame become exit statuses."""
    try:
        sys.exit(cli(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except UsageError as error:
        click.echo(f"netcapture: {error}", err=True)
        sys.exit(2)
    except (EnvironmentProblem, EngineGone) as error:
        click.echo(f"netcapture: cannot capture on this machine: {error}", err=True)
        sys.exit(3)
    except NetcaptureError as error:
        click.echo(f"netcapture: {error}", err=True)
        sys.exit(1)
