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

import ctypes
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import msgspec

from pytest_netcapture.channel import Channel
from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.messages import Begun, EbpfOptions, Moved, Ready, SeccompOptions
from pytest_netcapture.sandbox import (
    capabilities,
    kernel,
    namespaces,
    processes,
    resolver,
    trust,
    trust_variables,
)
from pytest_netcapture.sandbox.syscalls import prctl

ENGINE_CAPS = (
    kernel.CAP_SYS_ADMIN,
    kernel.CAP_NET_ADMIN,
    kernel.CAP_NET_RAW,
    kernel.CAP_SYS_PTRACE,
)
AUTO, SECCOMP, EBPF = "auto", "seccomp", "ebpf"
PAGE = "docs/redirectors.md"
NOTICE = "netcapture: no namespaces"
_TICK_NS = 10_000_000
_PR_SET_PTRACER = 0x59616D61
_PR_SET_PTRACER_ANY = -1
_THREADS_UNDER_YAMA = (
    "netcapture: kernel.yama.ptrace_scope is 1, and this process had threads before it could "
    "split: what its child processes connect to is refused"
)
_clock, _BOOTTIME = time.clock_gettime_ns, getattr(time, "CLOCK_BOOTTIME", 7)


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
        self._bundles = trust.find(sys.path, os.environ)  # while the engine starts

    def furnish(
        self, channel: Channel, ready: Ready, descriptors: list[int], directory: str
    ) -> dict[str, str]:
        del channel
        self._home = descriptors[0]
        self._fds = {ready.namespace: self._home}
        report, variables = _mount_trust(ready, directory, self._bundles)
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


class _MachineGround:
    """What grounds without namespaces have in common: moves are told."""

    _channel: Channel
    _home: int
    ebpf: EbpfOptions | None = None

    def __init__(self, notice: str, *, mounts: bool = False) -> None:
        self.uncovered: tuple[tuple[str, str], ...] = ()
        self.notes: tuple[str, ...] = (notice,) if notice else ()
        self.mounts = mounts
        self.seccomp: SeccompOptions | None = None
        self.descriptors: tuple[int, ...] = ()
        self.known: list[int] = []

    def keep(self, begun: Begun, descriptors: list[int]) -> None:
        """Do nothing: a place has no descriptor."""

    def enter(self, namespace: int) -> None:
        tick = _clock(_BOOTTIME) // _TICK_NS
        self._channel.tell(Moved(namespace, tick, processes.last_pid()))

    def go_home(self) -> None:
        self.enter(self._home)

    def _set_variables(self, ready: Ready, directory: str) -> dict[str, str]:
        """Return the variables by which clients trust us, where nothing can be mounted."""
        found = trust_variables.install(ready.ca_pem, directory=directory, environ=os.environ)
        self.uncovered = found.failed
        return found.environment


class SeccompGround(_MachineGround):
    """The machine itself, its network calls supervised by the engine."""

    def __init__(self, reason: str = "", *, mounts: bool = False) -> None:
        """`reason`: why not namespaces."""
        super().__init__(_notice(reason, mounts=mounts), mounts=mounts)
        self._witness = ctypes.create_string_buffer(os.urandom(16), 16)

    def prepare(self) -> None:
        from pytest_netcapture.redirect import seccomp_abi

        seccomp_abi.machine()
        name, note = find_ancestor()
        self.notes += (note,) if note else ()
        self._handover, self._theirs = socket.socketpair()
        self.descriptors = (self._theirs.fileno(),)
        self.seccomp = SeccompOptions(
            handover_fd=self._theirs.fileno(),
            handover_theirs=self._handover.fileno(),
            witness_at=ctypes.addressof(self._witness),
            witness=self._witness.raw,
            ancestor=name,
        )

    @contextmanager
    def spawning(self) -> Iterator[None]:
        yield
        self._theirs.close()

    def furnish(
        self, channel: Channel, ready: Ready, descriptors: list[int], directory: str
    ) -> dict[str, str]:
        from pytest_netcapture.redirect import seccomp_filter, seccomp_listener

        del descriptors
        self._channel, self._home = channel, ready.namespace
        if self.mounts:
            places = trust.find(sys.path, os.environ)
            report, variables = _mount_trust(ready, directory, places)
            self.uncovered = report.failed
        else:
            variables = self._set_variables(ready, directory)
        listener = seccomp_filter.install(sockets=ready.makes_sockets)
        seccomp_listener.hand_over(listener, self._handover)
        self._handover.close()
        return variables


class EbpfGround(_MachineGround):
    """The machine itself, what chosen processes connect to diverted to the engine."""

    def __init__(self, options: EbpfOptions, helper: Sequence[str] = ()) -> None:
        """Let `helper`, a command, do for the engine what takes privilege."""
        super().__init__("" if options.keeps else _notice("", mounts=False))
        self.ebpf = self.options = options
        self._helper = helper
        self._theirs: socket.socket | None = None

    def prepare(self) -> None:
        if self._helper:
            from pytest_netcapture.redirect.ebpf_handover import start_helper

            self._theirs = start_helper(self._helper, self.options.cgroup)
            self.descriptors = (self._theirs.fileno(),)
            self.ebpf = msgspec.structs.replace(self.options, helper_fd=self._theirs.fileno())

    @contextmanager
    def spawning(self) -> Iterator[None]:
        yield
        if self._theirs is not None:
            self._theirs.close()

    def furnish(
        self, channel: Channel, ready: Ready, descriptors: list[int], directory: str
    ) -> dict[str, str]:
        del descriptors
        self._channel, self._home = channel, ready.namespace
        return self._set_variables(ready, directory)


def choose(redirector: str) -> Ground:
    """Enter what the option allows, namespaces first. Raises `EnvironmentProblem`."""
    if redirector == SECCOMP:
        return _prepared(SeccompGround())
    if redirector == EBPF:
        from pytest_netcapture.sandbox import cgroups

        return EbpfGround(EbpfOptions((str(os.getpid()),), cgroups.own()))
    try:
        return _prepared(NamespaceGround())
    except EnvironmentProblem as refused:
        if redirector != AUTO or isinstance(refused, namespaces.Stranded):
            raise
        return instead(refused)


def instead(refused: EnvironmentProblem, tried: Ground | None = None) -> Ground:
    """Return the ground for where another is `refused`; raise that if there is none."""
    if isinstance(tried, SeccompGround):
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
        return _notice("", mounts=False)
    if redirector != SECCOMP:
        try:
            namespaces.enter_user_namespace()
            capabilities.keep_only(ENGINE_CAPS)
            return ""
        except EnvironmentProblem as refused:
            if redirector != AUTO or isinstance(refused, namespaces.Stranded):
                raise
            reason = refused.message
    find_ancestor()
    return _notice(reason, mounts=False)


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


def find_ancestor() -> tuple[str, str]:
    """Return who may look into our programs for the engine, and what to say; "" if none need to.

    May split this process (redirect/seccomp_ancestor.py). Raises `EnvironmentProblem`.
    """
    from pytest_netcapture.redirect import seccomp_ancestor

    if not seccomp_ancestor.is_needed():
        return "", ""
    name = os.environ.get(seccomp_ancestor.VARIABLE, "")
    if name and seccomp_ancestor.answers(name):
        return name, ""
    if processes.thread_count() > 1:
        prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY)
        return "", _THREADS_UNDER_YAMA
    os.environ[seccomp_ancestor.VARIABLE] = name = seccomp_ancestor.split()
    return name, ""


def _prepared(ground: Ground) -> Ground:
    ground.prepare()
    return ground


def _mount_trust(
    ready: Ready, directory: str, places: trust.Places
) -> tuple[trust.TrustReport, dict[str, str]]:
    report = trust.install(
        ready.ca_pem, directory=directory, places=places, subject_hash=ready.subject_hash
    )
    return report, trust.environment(report, os.environ)


def _notice(reason: str, *, mounts: bool) -> str:
    """Say in one line what is different."""
    because = f", since they are refused ({reason.partition(chr(10))[0]})" if reason else ""
    differs = "loopback is the machine's own"
    if not mounts:
        differs += ", clients trust by environment variables only"
    return f"{NOTICE}{because}: {differs} ({PAGE})"
