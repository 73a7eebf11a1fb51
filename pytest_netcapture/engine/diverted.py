"""The ground for chosen processes of the machine: places, as under seccomp.

Imported only where it is stood on.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from pytest_netcapture.engine.grounds import Ground
from pytest_netcapture.engine.notified import NotifiedAttribution
from pytest_netcapture.engine.places import HOME, OpenPool, PlacePool
from pytest_netcapture.messages import EbpfOptions, EngineOptions
from pytest_netcapture.redirect import ebpf_privileged
from pytest_netcapture.redirect.ebpf import EbpfRedirector
from pytest_netcapture.redirect.ebpf_targets import parse
from pytest_netcapture.redirect.seccomp_places import Places

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine


def targets(engine: Engine, options: EngineOptions, ebpf: EbpfOptions) -> Ground:
    """Make what the engine stands on. Raises `EnvironmentProblem`."""
    known = Places(options.parent_pid, HOME, lambda: engine.control.catch_up())  # noqa: PLW0108 - made later
    made = None
    if ebpf.helper_fd >= 0:
        with socket.socket(fileno=ebpf.helper_fd) as helper:
            made = ebpf_privileged.receive(helper)
    redirector = EbpfRedirector(
        parse(ebpf.targets),
        ebpf.cgroup,
        known.of,
        capture_loopback=options.settings.capture_loopback,
        made=made,
    )
    pool = OpenPool if ebpf.keeps else PlacePool
    return Ground(
        redirector,
        pool(known, options.runtime_dir),
        NotifiedAttribution(redirector, options.parent_pid),
        {"A": "127.0.0.1", "AAAA": "::1"},
        note=redirector.note,
    )
