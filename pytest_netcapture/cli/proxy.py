"""`netcapture proxy`: for programs that cannot be started in a sandbox, but take a proxy.

The proxy itself is in a sandbox, its ports are published to the host: what it dials for its clients
is captured as a program's traffic is.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import NamedTuple

import click
import msgspec

from pytest_netcapture.cli.capturing import tell_end, traffic_options
from pytest_netcapture.cli.viewing import View, live_lines, view_options
from pytest_netcapture.errors import UsageError
from pytest_netcapture.forwarding import Serve, listen, serve_http, serve_reverse, serve_socks5
from pytest_netcapture.ports import check_port
from pytest_netcapture.settings import Settings


class Mode(NamedTuple):
    """What serves a client, the host's port (0: a free one), and the scheme of its URL."""

    serve: Serve
    port: int
    scheme: str


_MODES = {
    "regular": Mode(serve_http, 8080, "http"),
    "socks5": Mode(serve_socks5, 1080, "socks5h"),
}
_REVERSE = "reverse:"
_REVERSE_PORT = 8080


@click.command()
@traffic_options
@view_options
@click.option(
    "--mode",
    "modes",
    multiple=True,
    default=("regular",),
    show_default=True,
    metavar="MODE[@PORT]",
    help="regular (HTTP), socks5, reverse:URL; several at once. Port 0: a free one.",
)
def proxy(*, settings: Settings, view: View, modes: Sequence[str]) -> int:
    """Capture what clients of a proxy on 127.0.0.1 send, until Ctrl-C.

    Example: netcapture proxy --mode regular@8080 --record api.cassette
    """
    return _run(settings, view, [_parsed(mode) for mode in modes])


def _parsed(mode: str) -> Mode:
    name, at, port = mode.rpartition("@")
    if not at or "/" in port:  # of a URL's user
        name, port = mode, ""
    if name.startswith(_REVERSE):
        try:
            known = Mode(serve_reverse(name.removeprefix(_REVERSE)), _REVERSE_PORT, "http")
        except ValueError as error:
            cure = "write reverse:https://api.example.com@8080"
            raise UsageError(f"--mode: {error}", cure=cure) from None
    elif name in _MODES:
        known = _MODES[name]
    else:
        cure = f"known: {', '.join(_MODES)}, {_REVERSE}URL"
        raise UsageError(f"--mode: {name!r} is none", cure=cure)
    if not port:
        return known
    if not port.isdigit():
        raise UsageError(f"--mode: {port!r} is no port", cure=f"write {name}@8080")
    return known._replace(port=0 if port == "0" else check_port(int(port), "--mode"))


def _run(settings: Settings, view: View, modes: list[Mode]) -> int:
    from pytest_netcapture.session import Session

    session = Session.start(msgspec.structs.replace(settings, cassette=None))
    scope = session.begin("netcapture proxy", settings)

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        servers = []
        for mode in modes:
            server = await listen(mode.serve, 0)
            servers.append(server)
            published = scope.publish(server.sockets[0].getsockname()[1], mode.port)
            click.echo(f"netcapture: {mode.scheme}://127.0.0.1:{published}", err=True)
        if not view.quiet:
            path = os.path.join(session.directory, "netcapture-ca.pem")
            click.echo(f"netcapture: its clients are to trust {path}; Ctrl-C ends it", err=True)
        await stop.wait()
        for server in servers:
            server.close()

    try:
        with live_lines(scope, view):
            asyncio.run(serve())
    except UsageError:
        session.end(scope)
        session.close()
        raise
    return int(tell_end(session, scope, quiet=view.quiet))
