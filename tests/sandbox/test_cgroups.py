"""Where control groups are, from the kernel's tables."""

from __future__ import annotations

import os

import pytest

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox import cgroups


@pytest.mark.parametrize(
    ("mounts", "place"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "/sys/fs/cgroup"),
        (
            "t /sys/fs/cgroup tmpfs rw 0 0\nn /c cgroup rw 0 0\nx /sys/fs/u cgroup2 rw 0 0\n",
            "/sys/fs/u",
        ),
        ("x /a\\040b cgroup2 rw 0 0\n", "/a b"),
        ("proc /proc proc rw 0 0\nbroken\n", ""),
    ],
)
def test_the_mount_of_version_2_is_found(mounts, place):
    assert cgroups.mounted_at(mounts) == place


def test_a_processs_own_group_is_that_of_version_2():
    assert cgroups.group_in("9:cpu:/a\n0::/user.slice/x\n") == "/user.slice/x"
    assert cgroups.group_in("9:cpu:/a\n") == "/"


def test_this_processs_group_is_a_directory():
    try:
        found = cgroups.own()
    except EnvironmentProblem as problem:
        pytest.skip(f"not in CI: {problem.message}")
    assert os.path.exists(f"{found}/cgroup.procs")
