"""Machines as they show in their files: trees that have what each kind has."""

from __future__ import annotations

import pytest

from pytest_netcapture.sandbox import facts
from pytest_netcapture.sandbox.facts import Facts, gather

HERE = "Linux version 6.8.0-40-generic (buildd@lcy02) #40-Ubuntu SMP\n"
ROOT_MOUNT = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
MACHINES = {
    "plain": ({}, {}, {"container": "", "ci": "", "wsl": 0, "gvisor": False, "nested": False}),
    "Ubuntu 24.04": (
        {
            "proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
            "proc/self/attr/apparmor/current": "unconfined\n",
            "proc/sys/kernel/yama/ptrace_scope": "1\n",
        },
        {},
        {"apparmor_restrict": 1, "apparmor_label": "unconfined", "yama": 1},
    ),
    "a hardened image": (
        {
            "proc/sys/user/max_user_namespaces": "0\n",
            "proc/sys/user/max_net_namespaces": "12\n",
            "sys/fs/selinux/enforce": "1",
        },
        {},
        {"max_user_namespaces": 0, "max_net_namespaces": 12, "selinux_enforcing": True},
    ),
    "an old Debian": (
        {"proc/sys/kernel/unprivileged_userns_clone": "0\n"},
        {},
        {"unprivileged_userns_clone": 0},
    ),
    "Docker": (
        {".dockerenv": "", "proc/self/status": "Name:\tpython\nSeccomp:\t2\nSeccomp_filters:\t1\n"},
        {},
        {"container": "Docker", "seccomp": 2},
    ),
    "a job's container at GitHub": (
        {".dockerenv": ""},
        {"GITHUB_ACTIONS": "true"},
        {"container": "Docker", "ci": "GitHub Actions"},
    ),
    "GitLab": ({".dockerenv": ""}, {"GITLAB_CI": "true"}, {"ci": "GitLab CI"}),
    "Podman": (
        {"run/.containerenv": 'engine="podman-4.9.3"\n', "proc/self/uid_map": "0 1000 1\n1 100000 65536\n"},
        {},
        {"container": "Podman", "nested": True},
    ),
    "Kubernetes": (
        {"var/run/secrets/kubernetes.io/serviceaccount/token": "x"},
        {},
        {"container": "Kubernetes"},
    ),
    "Kubernetes without a token": (
        {},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {"container": "Kubernetes"},
    ),
    "systemd-nspawn": ({"run/systemd/container": "systemd-nspawn\n"}, {}, {"container": "systemd-nspawn"}),
    "WSL 1": (
        {"proc/version": "Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com) #1237\n"},
        {},
        {"wsl": 1},
    ),
    "WSL 2": (
        {"proc/version": "Linux version 5.15.90.1-microsoft-standard-WSL2 (oe-user@oe-host) #1\n"},
        {},
        {"wsl": 2},
    ),
    "an early WSL 2": (
        {"proc/version": "Linux version 4.19.84-microsoft-standard (oe-user@oe-host) #1\n"},
        {},
        {"wsl": 2},
    ),
    "gVisor": (
        {"proc/version": "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016\n"},
        {},
        {"gvisor": True, "wsl": 0},
    ),
    "a newer gVisor": (
        {"proc/version": "Linux version 4.19.0-gvisor #1 SMP Sun Jan 10 15:06:54 PST 2016\n"},
        {},
        {"gvisor": True},
    ),
    "a chroot": (
        {"proc/self/mountinfo": "30 22 8:1 /srv/jail/proc /proc rw - proc proc rw\n"},
        {},
        {"chrooted": True},
    ),
    "a Yama that forbids": ({"proc/sys/kernel/yama/ptrace_scope": "3\n"}, {}, {"yama": 3}),
}  # fmt: skip


def tree(top, files):
    given = {
        "proc/version": HERE,
        "proc/self/mountinfo": ROOT_MOUNT,
        "proc/self/ns/user": "",
        "proc/self/uid_map": "         0          0 4294967295\n",
        **files,
    }
    for name, text in given.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(top)


@pytest.mark.parametrize("machine", MACHINES)
def test_machines(tmp_path, machine):
    files, environ, wanted = MACHINES[machine]
    found = gather(tree(tmp_path, files), environ)
    assert {name: getattr(found, name) for name in wanted} == wanted


def test_a_kernel_without_user_namespaces(tmp_path):
    top = tree(tmp_path, {})
    (tmp_path / "proc/self/ns/user").unlink()
    assert not gather(top, {}).user_namespaces_built


def test_nothing_at_all_is_no_error(tmp_path):
    assert gather(str(tmp_path), {}) == Facts(user_namespaces_built=False)


@pytest.mark.live
def test_this_machine():
    found = gather()
    assert found.kernel.startswith("Linux version")
    assert found.user_namespaces_built

    assert facts.apparmor_label() == found.apparmor_label
