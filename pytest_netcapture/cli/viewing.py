"""What the commands that capture one thing show while it runs: a line per flow, or more, or JSON.

1. Lines go to standard error, whole, when a flow is complete; what a program prints is its own.
2. What came off the wire is printed safe: it cannot move the terminal's cursor.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import click

from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import AnyFlow, HttpFlow, Origin, TlsFailure
from pytest_netcapture.report.exchange import flow_block, flow_line

if TYPE_CHECKING:
    from pytest_netcapture.session import TestScope

_TICK = 0.05
"""Seconds between looks at whether it has ended, while nothing changes."""
_BAD = (Origin.BLOCKED, Origin.UNMATCHED)
_CLIENT_ERROR = 400

_OPTIONS = (
    click.option("--quiet", "-q", is_flag=True, help="No live lines, no summary."),
    click.option("--verbose", "-v", is_flag=True, help="Header fields and how bodies begin, too."),
    click.option(
        "--grep", metavar="PATTERN", help="Only flows whose lines this regular expression is in."
    ),
    click.option(
        "--json",
        "json_file",
        type=click.File("w", encoding="utf-8", lazy=False),
        metavar="FILE",
        help="Write each flow as a line of JSON; - is standard output.",
    ),
)


class View(NamedTuple):
    """How flows are shown."""

    quiet: bool = False
    verbose: bool = False
    pattern: re.Pattern[str] | None = None
    json_file: IO[str] | None = None

    def show(self, flow: AnyFlow) -> None:
        """Print a flow, unless the pattern is not in it."""
        lines = flow_block(flow) if self.verbose else [flow_line(flow)]
        if self.pattern is not None and not any(map(self.pattern.search, lines)):
            return
        if self.json_file is not None:
            from pytest_netcapture.interchange.plain import encoded, plain

            self.json_file.write(encoded(plain(flow)) + "\n")
            self.json_file.flush()
        if not self.quiet:
            lines[0] = click.style(lines[0], fg="red" if _is_bad(flow) else None)
            click.echo("\n".join(lines), err=True)


def view_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options above; they come as one argument, `view`. Raises `UsageError`."""

    @functools.wraps(function)
    def command(
        *, quiet: bool, verbose: bool, grep: str | None, json_file: IO[str] | None, **more: Any
    ) -> int:
        try:
            pattern = re.compile(grep) if grep else None
        except re.error as error:
            problem = f"--grep: {grep!r} is no regular expression: {error}"
            raise UsageError(problem, cure="correct it") from None
        return function(view=View(quiet, verbose, pattern, json_file), **more)

    decorated: Callable[..., int] = command
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


@contextmanager
def live_lines(scope: TestScope, view: View) -> Iterator[None]:
    """Show each flow once it is complete, while this is open."""
    if view.quiet and view.json_file is None:
        yield
        return
    ended = threading.Event()
    lines = threading.Thread(target=_show_all, args=(scope, ended, view), daemon=True)
    lines.start()
    try:
        yield
    finally:
        ended.set()
        lines.join(2)


def _show_all(scope: TestScope, ended: threading.Event, view: View) -> None:
    shown: set[int] = set()
    seen = -1
    while True:
        over = ended.is_set()
        seen = scope.wait_change(seen, _TICK if not over else 0.0)
        for flow in scope.flows():
            if flow.id not in shown and (flow.ended or over):
                shown.add(flow.id)
                view.show(flow)
        if over:
            return


def _is_bad(flow: AnyFlow) -> bool:
    """Tell whether a flow is what somebody who looks for a fault looks for."""
    if flow.error or flow.origin in _BAD or isinstance(flow, TlsFailure):
        return True
    response = flow.response if isinstance(flow, HttpFlow) else None
    return response is not None and response.status >= _CLIENT_ERROR
