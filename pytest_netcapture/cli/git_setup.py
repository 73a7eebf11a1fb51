"""`netcapture git-setup`: git shows cassettes as text, and merges them flow by flow."""

from __future__ import annotations

import os
import subprocess

import click

from pytest_netcapture.errors import UsageError

_ATTRIBUTES = (
    "*.cassette diff=netcapture merge=netcapture -text",
    "*.cassette.txt merge=netcapture-text text eol=lf",
)
_CONFIG = {
    "diff.netcapture.textconv": "netcapture show --no-name",
    "diff.netcapture.cachetextconv": "true",
    "merge.netcapture.name": "netcapture: flow by flow",
    "merge.netcapture.driver": "netcapture merge --driver %O %A %B %P",
    # The text is made from the cassette: netcapture check --fix writes it anew.
    "merge.netcapture-text.name": "netcapture: ours, until netcapture check --fix",
    "merge.netcapture-text.driver": "true",
}


@click.command("git-setup")
@click.option("--global", "everywhere", is_flag=True, help="For all repositories of this user.")
def git_setup(*, everywhere: bool) -> int:
    """Let git diff and git log -p show cassettes as text, and git merge merge them.

    Adds two lines to .gitattributes, to be committed; each clone runs this once for the rest.

    Example: netcapture git-setup
    """
    top = _git("rev-parse", "--show-toplevel")
    where = "--global" if everywhere else "--local"
    for name, value in _CONFIG.items():
        _git("config", where, name, value)
    path = os.path.join(top, ".gitattributes")
    added = _add_lines(path)
    click.echo(f"git config {where}: diff.netcapture, merge.netcapture")
    click.echo(f"{path}: {'added' if added else 'had'} what names them" + "; commit it" * added)
    return 0


def _add_lines(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        text = ""
    missing = [line for line in _ATTRIBUTES if line not in text.splitlines()]
    if missing:
        joint = "" if not text or text.endswith("\n") else "\n"
        with open(path, "a", encoding="utf-8") as file:
            file.write(joint + "\n".join(missing) + "\n")
    return bool(missing)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise UsageError("git is not installed", cure="install it") from None
    except subprocess.CalledProcessError as error:
        problem = error.stderr.strip() or f"git {arguments[0]} failed"
        raise UsageError(problem, cure="run it in a git repository") from None
    return done.stdout.strip()
