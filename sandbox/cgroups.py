"""Control groups of version 2: where they are mounted, and in which one a process is.

Kernel: cgroups(7). Tests: test_cgroups.py.
"""

from __future__ import annotations

import os
import re

from pytest_netcapture.errors import EnvironmentProblem

_CURE = "mount -t cgroup2 cgroup2 /sys/fs/cgroup (as root; systemd does so)"
_SLUG = "docs/local-mode.md"


def root() -> str:
    """Return where the hierarchy is mounted. Raises `EnvironmentProblem`."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        found = mounted_at(file.read())
    if not found:
        raise EnvironmentProblem("no cgroup2 hierarchy is mounted", cure=_CURE, slug=_SLUG)
    return found


def own() -> str:
    """Return the directory of this process's control group. Raises `EnvironmentProblem`."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        path = group_in(file.read())
    directory = f"{root()}{path}".rstrip("/")
    if not os.path.isdir(directory):
        raise EnvironmentProblem(
            f"the control group of this process ({path}) is not below {root()}",
            cure="run outside of the container, or with --cgroupns=host",
            slug=_SLUG,
        )
    return directory


def mounted_at(mounts: str) -> str:
    """Return the first place in /proc/mounts that has a cgroup2; "" if none has."""
    for line in mounts.splitlines():
        words = line.split(" ")
        if len(words) > 2 and words[2] == "cgroup2":
            return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), words[1])
    return ""


def group_in(text: str) -> str:
    """Return the path in /proc/PID/cgroup that is of version 2."""
    return next((line[3:] for line in text.splitlines() if line.startswith("0::")), "/")
