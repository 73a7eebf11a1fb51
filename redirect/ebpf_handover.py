"""Starts the helper that does for us what takes privilege, and gives it the control group.

Imported by who starts it: neither this nor the helper needs the engine. Tests: test_ebpf_helper.py.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sysconfig
from collections.abc import Sequence

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect.ebpf_programs import SLUG, open_group

_REFUSED = 3
"""Its status when it says why."""


def command() -> list[str]:
    """Return what has sudo run the helper: always the same words, as sudoers(5) wants them."""
    return ["sudo", os.path.join(sysconfig.get_path("scripts"), "netcapture"), "helper"]


def start_helper(helper: Sequence[str], cgroup: str) -> socket.socket:
    """Run it until it has ended; return where its answer waits. Raises `EnvironmentProblem`."""
    ours, theirs = socket.socketpair()
    try:
        _run(helper, cgroup, ours, theirs)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours


def _run(helper: Sequence[str], cgroup: str, ours: socket.socket, theirs: socket.socket) -> None:
    group = open_group(cgroup)
    try:
        socket.send_fds(ours, [b"g"], [group])
        done = subprocess.run(list(helper), stdin=theirs.fileno(), check=False)
    except OSError as error:
        raise EnvironmentProblem(
            f"ebpf: {helper[0]} cannot be run: {error.strerror}",
            cure="install sudo, or run all of netcapture as root",
            slug=SLUG,
        ) from error
    finally:
        os.close(group)
    if done.returncode not in {0, _REFUSED}:
        raise EnvironmentProblem(
            f"ebpf: the helper has failed: {helper[0]} ended with {done.returncode}",
            cure="see what it says above",
            slug=SLUG,
        )
