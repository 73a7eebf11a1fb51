"""The machine itself as the ground of tests: a seccomp filter, or BPF, leads them to the engine.

Proved by tests/plugin/test_seccomp.py and tests/cli/test_local.py.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from pytest_netcapture.channel import Channel
from pytest_netcapture.grounds import mount_trust, notice
from pytest_netcapture.messages import Begun, EbpfOptions, Moved, Ready, SeccompOptions
from pytest_netcapture.redirect import (
    seccomp_abi,
    seccomp_ancestor,
    seccomp_filter,
    seccomp_listener,
)
from pytest_netcapture.sandbox import processes, trust, trust_variables
from pytest_netcapture.sandbox.syscalls import prctl

_TICK_NS = 10_000_000
_PR_SET_PTRACER = 0x59616D61
_PR_SET_PTRACER_ANY = -1
_THREADS_UNDER_YAMA = (
    "netcapture: kernel.yama.ptrace_scope is 1, and this process had threads before it could "
    "split: what its child processes connect to is refused"
)
_clock, _BOOTTIME = time.clock_gettime_ns, getattr(time, "CLOCK_BOOTTIME", 7)


class _MachineGround:
    """What grounds without namespaces have in common: moves are told."""

    _channel: Channel
    _home: int
    ebpf: EbpfOptions | None = None

    def __init__(self, note: str, *, mounts: bool = False) -> None:
        self.uncovered: tuple[tuple[str, str], ...] = ()
        self.notes: tuple[str, ...] = (note,) if note else ()
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
        super().__init__(notice(reason, mounts=mounts), mounts=mounts)
        self._witness = ctypes.create_string_buffer(os.urandom(16), 16)

    def prepare(self) -> None:
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
        del descriptors
        self._channel, self._home = channel, ready.namespace
        if self.mounts:
            places = trust.find(sys.path, os.environ)
            report, variables = mount_trust(ready, directory, places)
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
        super().__init__("" if options.keeps else notice("", mounts=False))
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


def find_ancestor() -> tuple[str, str]:
    """Return who may look into our programs for the engine, and what to say; "" if none need to.

    May split this process (redirect/seccomp_ancestor.py). Raises `EnvironmentProblem`.
    """
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
