"""The ground without namespaces: places on the machine itself, told apart by seccomp notifications.

Imported only where it is stood on, so that engines with namespaces start sooner.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol

from pytest_netcapture.engine.attribution import Attribution, KnownOwner, Owner
from pytest_netcapture.engine.grounds import Ground
from pytest_netcapture.engine.places import HOME, PlacePool
from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.flows import Address
from pytest_netcapture.messages import EngineOptions, SeccompOptions
from pytest_netcapture.redirect.owners import Owners
from pytest_netcapture.redirect.seccomp import SeccompRedirector
from pytest_netcapture.redirect.seccomp_ancestor import AncestorsMemory
from pytest_netcapture.redirect.seccomp_listener import receive
from pytest_netcapture.redirect.seccomp_memory import Memory, own_memory, unreadable
from pytest_netcapture.redirect.seccomp_places import Places

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine

_HOST = 0
_SLUG = "docs/redirectors.md#seccomp"


def places(engine: Engine, options: EngineOptions, seccomp: SeccompOptions) -> Ground:
    """Make what the engine stands on without namespaces. Raises `EnvironmentProblem`."""
    memory: Memory = AncestorsMemory(seccomp.ancestor) if seccomp.ancestor else own_memory()
    duplicates = _check_access(memory, options.parent_pid, seccomp)
    known = Places(options.parent_pid, HOME, lambda: engine.control.catch_up())  # noqa: PLW0108 - made later
    redirector = SeccompRedirector(
        known, memory, duplicates=duplicates, name_servers=options.nameservers
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
        PlacePool(known, options.runtime_dir),
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


class Knowing(Protocol):
    """A redirector that knows whose a connection is."""

    def owner(self, protocol: int, client: Address) -> tuple[int, int]: ...


class NotifiedAttribution(Attribution):
    """Whose a connection is comes with the notification of it."""

    def __init__(self, redirector: Knowing, test_pid: int) -> None:
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
