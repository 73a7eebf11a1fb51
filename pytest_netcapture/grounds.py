"""Where tests run, as the test process sees it: in network namespaces, or on the machine itself.

1. Namespaces are tried first. Where they are refused, and no redirector was asked for by name,
   tests run on the machine under a seccomp filter, and `notes` say so.
2. A ground is used in this order: `prepare` before the engine is started, `spawning` around that,
   `furnish` when the engine is ready, then `enter` and `go_home` any number of times.
3. What was entered stays entered: when the engine finds that it cannot capture in namespaces, the
   filter is installed inside of them, and what is mounted there still helps.

Proved by tests/plugin/test_seccomp.py and tests/test_session.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox import capabilities, kernel, namespaces

if TYPE_CHECKING:
    from pytest_netcapture.channel import Channel
    from pytest_netcapture.messages import Begun, EbpfOptions, Ready, SeccompOptions
    from pytest_netcapture.sandbox import trust

ENGINE_CAPS = (
    kernel.CAP_SYS_ADMIN,
    kernel.CAP_NET_ADMIN,
    kernel.CAP_NET_RAW,
    kernel.CAP_SYS_PTRACE,
)
AUTO, SECCOMP, EBPF = "auto", "seccomp", "ebpf"
PAGE = "docs/redirectors.md"
NOTICE = "netcapture: no namespaces"


class Ground(Protocol):
    """See above. `uncovered`: (file or variable, reason) of what does not make clients trust us."""

    notes: tuple[str, ...]
    uncovered: tuple[tuple[str, str], ...]
    seccomp: SeccompOptions | None
    ebpf: EbpfOptions | None
    descriptors: tuple[int, ...]
    """What the engine is to inherit."""
    mounts: bool
    """The process has a mount table of its own."""

    def prepare(self) -> None:
        """Raise `EnvironmentProblem` if it cannot be."""

    def spawning(self) -> AbstractContextManager[None]:
        """Start the engine within."""

    def furnish(
        self, channel: Channel, ready: Ready, descriptors: list[int], directory: str
    ) -> dict[str, str]:
        """Do what needs an engine that is ready; return the variables to set."""

    @property
    def known(self) -> list[int]:
        """Return the namespaces whose descriptors are held."""

    def keep(self, begun: Begun, descriptors: list[int]) -> None:
        """Keep the descriptor of a new namespace."""

    def enter(self, namespace: int) -> None:
        """Move this thread into a namespace that the engine has given."""

    def go_home(self) -> None:
        """Move it into the session's."""


class NamespaceGround:
    """Network namespaces, a private mount table, and the capability to change between them."""

    seccomp: SeccompOptions | None = None
    ebpf: EbpfOptions | None = None
    descriptors: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.notes: tuple[str, ...] = ()
        self.uncovered: tuple[tuple[str, str], ...] = ()
        self._fds: dict[int, int] = {}
        self._home = -1
        self.mounts = False

    def prepare(self) -> None:
        if not set(ENGINE_CAPS) <= capabilities.effective():  # an xdist worker was lent them
            namespaces.enter_user_namespace()

    @contextmanager
    def spawning(self) -> Iterator[None]:
        with capabilities.ambient(ENGINE_CAPS):
            yield
        capabilities.lower_ambient(ENGINE_CAPS)
        capabilities.keep_only((kernel.CAP_SYS_ADMIN,))
        namespaces.unshare_mounts()
        self.mounts = True
        from pytest_netcapture.sandbox import trust

        self._bundles = trust.find(sys.path, os.environ)  # while the engine starts

    def furnish(
        self, channel: Channel, ready: Ready, descriptors: list[int], directory: str
    ) -> dict[str, str]:
        del channel
        from pytest_netcapture.sandbox import resolver

        self._home = descriptors[0]
        self._fds = {ready.namespace: self._home}
        report, variables = mount_trust(ready, directory, self._bundles)
        self.uncovered = report.failed + resolver.install(directory).failed
        return variables

    @property
    def known(self) -> list[int]:
        return list(self._fds)

    def keep(self, begun: Begun, descriptors: list[int]) -> None:
        if descriptors:
            self._fds[begun.namespace] = descriptors[0]

    def enter(self, namespace: int) -> None:
        namespaces.enter_network(self._fds[namespace])

    def go_home(self) -> None:
        namespaces.enter_network(self._home)


def choose(redirector: str) -> Ground:
    """Enter what the option allows, namespaces first. Raises `EnvironmentProblem`."""
    if redirector == SECCOMP:
        from pytest_netcapture.machine_grounds import SeccompGround

        return _prepared(SeccompGround())
    if redirector == EBPF:
        from pytest_netcapture.machine_grounds import EbpfGround
        from pytest_netcapture.messages import EbpfOptions
        from pytest_netcapture.sandbox import cgroups

        return EbpfGround(EbpfOptions((str(os.getpid()),), cgroups.own()))
    try:
        return _prepared(NamespaceGround())
    except EnvironmentProblem as refused:
        return instead(refused, redirector)


def instead(refused: EnvironmentProblem, redirector: str, tried: Ground | None = None) -> Ground:
    """Return the ground for where another is `refused`; raise that if there is to be none."""
    from pytest_netcapture.machine_grounds import SeccompGround

    asked = redirector != AUTO
    if asked or isinstance(refused, namespaces.Stranded) or isinstance(tried, SeccompGround):
        raise refused
    try:
        mounts = tried is not None and tried.mounts
        return _prepared(SeccompGround(refused.message, mounts=mounts))
    except EnvironmentProblem as problem:
        raise EnvironmentProblem(
            f"{refused.message}\n  nor under a filter: {problem.message}",
            cure=refused.cure,
            slug=refused.slug,
        ) from problem


def prepare_workers(redirector: str) -> str:
    """Do for an xdist controller's workers what they cannot: they have threads.

    Return "" when `lend_capabilities` lets them have namespaces, else what is different without.
    """
    reason = ""
    if redirector == EBPF:
        return notice("", mounts=False)
    if redirector != SECCOMP:
        try:
            namespaces.enter_user_namespace()
            capabilities.keep_only(ENGINE_CAPS)
            return ""
        except EnvironmentProblem as refused:
            if redirector != AUTO or isinstance(refused, namespaces.Stranded):
                raise
            reason = refused.message
    from pytest_netcapture.machine_grounds import find_ancestor

    find_ancestor()
    return notice(reason, mounts=False)


def lend_capabilities(lend: bool) -> None:
    """Let programs that are started from now on (xdist workers) have what engines need, or not."""
    if lend:
        capabilities.raise_ambient(ENGINE_CAPS)
    else:
        capabilities.lower_ambient(ENGINE_CAPS)


def uncovered_notes(ground: Ground) -> tuple[str, ...]:
    """Name what will not make clients trust the sandbox, a line each."""
    if not ground.uncovered:
        return ()
    shown = "; ".join(f"{what} ({why.partition(chr(10))[0]})" for what, why in ground.uncovered[:3])
    more = len(ground.uncovered) - 3
    rest = f"; and {more} more, see netcapture doctor" if more > 0 else ""
    return (f"netcapture: could not be covered: {shown}{rest}",)


def _prepared(ground: Ground) -> Ground:
    ground.prepare()
    return ground


def mount_trust(
    ready: Ready, directory: str, places: trust.Places
) -> tuple[trust.TrustReport, dict[str, str]]:
    from pytest_netcapture.sandbox import trust

    report = trust.install(
        ready.ca_pem, directory=directory, places=places, subject_hash=ready.subject_hash
    )
    return report, trust.environment(report, os.environ)


def notice(reason: str, *, mounts: bool) -> str:
    """Say in one line what is different."""
    because = f", since they are refused ({reason.partition(chr(10))[0]})" if reason else ""
    differs = "loopback is the machine's own"
    if not mounts:
        differs += ", clients trust by environment variables only"
    return f"{NOTICE}{because}: {differs} ({PAGE})"
