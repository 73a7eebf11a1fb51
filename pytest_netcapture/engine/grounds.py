"""What tests stand on, by redirector: namespaces of their own, or places on the machine itself.

The engine's other parts know only what both kinds have in common.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, NamedTuple

from pytest_netcapture.engine.attribution import Attribution, KnownOwner, Owner
from pytest_netcapture.engine.namespaces import Hopper, Pool
from pytest_netcapture.engine.places import HOME, PlacePool
from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.flows import Address
from pytest_netcapture.messages import EngineOptions, SeccompOptions
from pytest_netcapture.redirect.base import Redirector
from pytest_netcapture.redirect.kernel import OWN_V4, OWN_V6
from pytest_netcapture.redirect.owners import Owners
from pytest_netcapture.redirect.seccomp import SeccompRedirector
from pytest_netcapture.redirect.seccomp_ancestor import AncestorsMemory
from pytest_netcapture.redirect.seccomp_listener import receive
from pytest_netcapture.redirect.seccomp_memory import Memory, own_memory, unreadable
from pytest_netcapture.redirect.seccomp_places import Places

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine
    from pytest_netcapture.redirect.tproxy import TproxyRedirector
    from pytest_netcapture.redirect.tun import TunRedirector

AUTO, TUN = "auto", "tun"
_HOST = 0
_SLUG = "docs/redirectors.md#seccomp"


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
        return _places(engine, options, options.seccomp)
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


def _places(engine: Engine, options: EngineOptions, seccomp: SeccompOptions) -> Ground:
    memory: Memory = AncestorsMemory(seccomp.ancestor) if seccomp.ancestor else own_memory()
    duplicates = _check_access(memory, options.parent_pid, seccomp)
    places = Places(options.parent_pid, HOME, lambda: engine.control.catch_up())  # noqa: PLW0108 - made later
    redirector = SeccompRedirector(
        places, memory, duplicates=duplicates, name_servers=options.nameservers
    )
    handover = socket.socket(fileno=seccomp.handover_fd)

    def given() -> None:
        engine.loop.remove_reader(handover.fileno())
        listener = receive(handover)
        handover.close()
        if listener >= 0:
            redirector.supervise(listener)

    engine.loop.add_reader(handover.fileno(), given)
    own = {"A": "127.0.0.1", "AAAA": "::1"}
    return Ground(
        redirector,
        PlacePool(places, options.runtime_dir),
        NotifiedAttribution(redirector, options.parent_pid),
        own,
        makes_sockets=not duplicates,
    )


def _check_access(memory: Memory, process: int, seccomp: SeccompOptions) -> bool:
    """Look into the test process; tell whether descriptors can be duplicated, too."""
    try:
        seen = memory.read(process, seccomp.witness_at, len(seccomp.witness))
    except OSError as error:
        raise unreadable(error) from error
    if seen != seccomp.witness:
        raise EnvironmentProblem(
            "seccomp: what the engine reads of the test process is not what is there",
            cure="run on a Linux kernel of its own, not one that imitates it",
            slug=_SLUG,
        )
    try:
        descriptor = memory.duplicate(process, seccomp.handover_theirs)
    except OSError:
        return False
    socket.socket(fileno=descriptor).close()
    return True


class NotifiedAttribution(Attribution):
    """Whose a connection is comes with the notification of it."""

    def __init__(self, redirector: SeccompRedirector, test_pid: int) -> None:
        self._host = Owners()
        self._host.attach_here(_HOST)
        super().__init__(self._host, test_pid)
        self._redirector = redirector

    def owner(self, namespace: int, protocol: int, client: Address, server: Address) -> Owner:
        del namespace, server
        inode, process = self._redirector.owner(protocol, client)
        return KnownOwner(inode, process, self._test_pid, self._describe)

    def listens(self, namespace: int, address: Address) -> bool:
        del namespace
        return super().listens(_HOST, address)

    def sockets_left(self, namespace: int) -> int:
        """Return 0: sockets are not told apart by place."""
        del namespace
        return 0

    def close(self) -> None:
        super().close()
        self._host.detach(_HOST)
