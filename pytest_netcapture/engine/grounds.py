"""What tests stand on, by redirector: namespaces of their own, or places on the machine itself.

The engine's other parts know only what both kinds have in common.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from pytest_netcapture.engine.attribution import Attribution
from pytest_netcapture.engine.namespaces import Hopper, Pool
from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.messages import EngineOptions
from pytest_netcapture.redirect.base import Redirector
from pytest_netcapture.redirect.kernel import OWN_V4, OWN_V6

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine
    from pytest_netcapture.redirect.tproxy import TproxyRedirector
    from pytest_netcapture.redirect.tun import TunRedirector

AUTO, TUN = "auto", "tun"


class Ground(NamedTuple):
    """One kind, whole."""

    redirector: Redirector
    pool: Pool
    attribution: Attribution
    own: dict[str, str]
    """The addresses of this machine's own name, by type of record."""
    makes_sockets: bool = False
    note: str = ""
    """Why it is not the first choice."""


def make(engine: Engine, hopper: Hopper, addresses: tuple[str, ...]) -> Ground:
    """Make what the options ask for. Raises `EnvironmentProblem`."""
    options = engine.options
    if options.seccomp is not None:
        from pytest_netcapture.engine.notified import places

        return places(engine, options, options.seccomp)
    if options.ebpf is not None:
        from pytest_netcapture.engine.diverted import targets

        return targets(engine, options, options.ebpf)
    if options.settings.redirector == TUN:
        return _tun(engine.loop, options, hopper, addresses)
    from pytest_netcapture.redirect.tproxy import TproxyRedirector

    redirector = TproxyRedirector(addresses=addresses)
    return _namespaces(redirector, engine.loop, options, hopper)


def instead(
    engine: Engine, hopper: Hopper, addresses: tuple[str, ...], refused: EnvironmentProblem
) -> Ground:
    """Make what is tried where namespaces work and tproxy does not. Raises `refused`, if none."""
    if engine.options.seccomp is not None or engine.options.settings.redirector != AUTO:
        raise refused
    try:
        ground = _tun(engine.loop, engine.options, hopper, addresses)
    except EnvironmentProblem as problem:
        raise combined(refused, problem) from problem
    first = refused.message.partition("\n")[0]
    note = f"netcapture: tun takes the place of tproxy ({first}): see docs/redirectors.md#tun"
    return ground._replace(note=note)


def combined(refused: EnvironmentProblem, also: EnvironmentProblem) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{refused.message}\n  nor with tun: {also.message}",
        cure=f"{refused.cure}; or {also.cure}",
        slug=refused.slug,
    )


def _tun(
    loop: asyncio.AbstractEventLoop,
    options: EngineOptions,
    hopper: Hopper,
    addresses: tuple[str, ...],
) -> Ground:
    from pytest_netcapture.redirect.tun import TunRedirector

    return _namespaces(TunRedirector(addresses=addresses), loop, options, hopper)


def _namespaces(
    redirector: TproxyRedirector | TunRedirector,
    loop: asyncio.AbstractEventLoop,
    options: EngineOptions,
    hopper: Hopper,
) -> Ground:
    attribution = Attribution(redirector.owners, options.parent_pid)
    own = {"A": OWN_V4, "AAAA": OWN_V6}
    return Ground(redirector, Pool(loop, hopper, redirector), attribution, own)
