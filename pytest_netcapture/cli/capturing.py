"""What the commands have in common that capture one thing: what may be sent, and the end."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import click
import msgspec

from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import Problem
from pytest_netcapture.report.problem import problem_text
from pytest_netcapture.report.receipt import Receipt
from pytest_netcapture.settings import (
    CassetteUse,
    RecordMode,
    Settings,
    check_ca_file,
    parse_mapping,
    parse_pattern,
)

if TYPE_CHECKING:
    from pytest_netcapture.session import Session, TestScope

_OURS = {
    "--netcapture-record-mode=new_episodes": "--record",
    "--netcapture-allow": "--allow",
    ", or netcapture.allow(...)": "",
}
Decorator: TypeAlias = Callable[[Callable[..., int]], Callable[..., int]]
map_host_option: Decorator = click.option(
    "--map-host", multiple=True, metavar="FROM=TO", help="Dial TO for connections to FROM."
)
upstream_ca_option: Decorator = click.option(
    "--upstream-ca", multiple=True, metavar="FILE", help="More roots to trust upstream (PEM)."
)
_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--record", metavar="FILE", help="Record to this cassette, replacing what it holds."
    ),
    click.option("--replay", metavar="FILE", help="Answer from this cassette only; no network."),
    click.option("--block", is_flag=True, help="No network but what is allowed."),
    click.option(
        "--allow",
        multiple=True,
        metavar="PATTERN",
        help="Allow a host, *.host, CIDR, host:port, loopback.",
    ),
    click.option("--passthrough", multiple=True, metavar="PATTERN", help="Never decrypt these."),
    map_host_option,
    upstream_ca_option,
    click.option(
        "--loopback", type=click.Choice(["leave", "capture"]), default="leave", show_default=True
    ),
)


def traffic_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options above; they come as one argument, `settings`. Raises `UsageError`."""

    @functools.wraps(function)
    def command(
        *,
        record: str | None,
        replay: str | None,
        block: bool,
        allow: Sequence[str],
        passthrough: Sequence[str],
        map_host: Sequence[str],
        upstream_ca: Sequence[str],
        loopback: str,
        **more: Any,
    ) -> int:
        settings = Settings(
            block=block,
            allow=tuple(parse_pattern(p, "--allow") for p in allow),
            passthrough=tuple(parse_pattern(p, "--passthrough") for p in passthrough),
            map_host=tuple(parse_mapping(m, "--map-host") for m in map_host),
            upstream_ca=tuple(check_ca_file(f, "--upstream-ca") for f in upstream_ca),
            capture_loopback=loopback == "capture",
            cassette=_cassette(record, replay),
        )
        return function(settings=settings, **more)

    decorated: Callable[..., int] = command
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def tell_end(session: Session, scope: TestScope, *, quiet: bool) -> bool:
    """End both, print problems and the receipt; tell whether there were any problems."""
    result = session.end(scope)
    counts = session.close().counts
    for problem in result.problems:
        click.echo(problem_text(_in_our_terms(problem)), err=True)
    if not quiet:
        receipt = Receipt.from_dict(msgspec.structs.asdict(result.counts))
        click.echo(receipt + Receipt.from_dict(msgspec.structs.asdict(counts)), err=True)
    return bool(result.problems)


def _cassette(record: str | None, replay: str | None) -> CassetteUse | None:
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


def _in_our_terms(problem: Problem) -> Problem:
    """Give advice in options of a command, not of pytest."""
    advice = problem.advice
    for pytests, ours in _OURS.items():
        advice = advice.replace(pytests, ours)
    return msgspec.structs.replace(problem, advice=advice)
