"""What this machine says about itself, as far as it bears on capture.

1. Read from files only: nothing is tried (that is probe.py) and nothing explained (refusals.py).
2. `root` is a directory that has the files of another machine: its `proc`, `sys`, `run`.
3. A sysctl is None where it does not exist.

Tests: test_facts.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

from pytest_netcapture.sandbox.original import exists, original, read_text

_GVISOR = ("gVisor", "gvisor", "Sun Jan 10 15:06:54 PST 2016")
"""In /proc/version; the last is the date of a Linux that it says it is."""

_SYSTEMD_CONTAINER = "/run/systemd/container"
_KUBERNETES = "/var/run/secrets/kubernetes.io"
_EVERY_ID = 4294967295


class Facts(NamedTuple):
    """See above. NamedTuple: a dataclass costs start-up time.

    `threads` are the names of those beside the caller.
    """

    threads: tuple[str, ...] = ()
    max_user_namespaces: int | None = None
    max_mnt_namespaces: int | None = None
    max_net_namespaces: int | None = None
    unprivileged_userns_clone: int | None = None
    apparmor_restrict: int | None = None
    apparmor_label: str = ""
    selinux_enforcing: bool = False
    seccomp: int = 0
    container: str = ""
    chrooted: bool = False
    user_namespaces_built: bool = True
    kernel: str = ""
    ci: str = ""
    """The service that runs this: "GitHub Actions", "GitLab CI", or ""."""
    yama: int | None = None
    """kernel.yama.ptrace_scope."""
    nested: bool = False
    """Inside of a user namespace that is not the machine's first."""

    @property
    def wsl(self) -> int:
        """Return which WSL this is, 0 for none."""
        if "microsoft" not in self.kernel.lower():
            return 0
        return 2 if "WSL2" in self.kernel or "microsoft-standard" in self.kernel else 1

    @property
    def gvisor(self) -> bool:
        return any(sign in self.kernel for sign in _GVISOR)


def gather(root: str = "", environ: Mapping[str, str] | None = None) -> Facts:
    """Read the facts. Quick (some twenty small files), but only called when something failed."""
    environ = os.environ if environ is None else environ
    return Facts(
        threads=() if root else other_threads(),
        max_user_namespaces=_sysctl(root, "user/max_user_namespaces"),
        max_mnt_namespaces=_sysctl(root, "user/max_mnt_namespaces"),
        max_net_namespaces=_sysctl(root, "user/max_net_namespaces"),
        unprivileged_userns_clone=_sysctl(root, "kernel/unprivileged_userns_clone"),
        apparmor_restrict=_sysctl(root, "kernel/apparmor_restrict_unprivileged_userns"),
        apparmor_label=apparmor_label(root),
        selinux_enforcing=read_text(f"{root}/sys/fs/selinux/enforce") == "1",
        seccomp=int(_status(root, "Seccomp") or 0),
        container=container(root, environ),
        chrooted=_chrooted(root),
        user_namespaces_built=exists(f"{root}/proc/self/ns/user"),
        kernel=read_text(f"{root}/proc/version") or "",
        ci=service(environ),
        yama=_sysctl(root, "kernel/yama/ptrace_scope"),
        nested=_nested(root),
    )


def other_threads() -> tuple[str, ...]:
    """Name the threads of this process beside the calling one, Python's by their Python names."""
    threading = sys.modules.get("threading")
    known = {t.native_id: t.name for t in threading.enumerate()} if threading else {}
    own = os.path.basename(original.readlink("/proc/thread-self"))
    names = []
    for task in sorted(original.listdir("/proc/self/task"), key=int):
        if task != own:
            native = read_text(f"/proc/self/task/{task}/comm") or "?"
            names.append(known.get(int(task)) or f"{native} (native)")
    return tuple(names)


def apparmor_label(root: str = "") -> str:
    """Return the AppArmor profile of this process, or "" without AppArmor."""
    return read_text(f"{root}/proc/self/attr/apparmor/current") or ""


def container(root: str, environ: Mapping[str, str]) -> str:
    """Name the container runtime around this process, or ""."""
    if "KUBERNETES_SERVICE_HOST" in environ or exists(f"{root}{_KUBERNETES}"):
        return "Kubernetes"
    if exists(f"{root}/.dockerenv"):
        return "Docker"
    if exists(f"{root}/run/.containerenv"):
        return "Podman"
    return read_text(f"{root}{_SYSTEMD_CONTAINER}") or ""


def service(environ: Mapping[str, str]) -> str:
    """Name the CI service that runs this, as far as its containers differ from others."""
    if environ.get("GITHUB_ACTIONS") == "true":
        return "GitHub Actions"
    return "GitLab CI" if environ.get("GITLAB_CI") else ""


def _sysctl(root: str, name: str) -> int | None:
    text = read_text(f"{root}/proc/sys/{name}")
    return int(text) if text and text.isdigit() else None


def _status(root: str, field: str) -> str:
    for line in (read_text(f"{root}/proc/self/status") or "").splitlines():
        if line.startswith(f"{field}:"):
            return line.partition(":")[2].strip()
    return ""


def _chrooted(root: str) -> bool:
    # mountinfo lists what our root reaches: a chroot that is no mount point has no "/".
    table = read_text(f"{root}/proc/self/mountinfo")
    return bool(table) and all(line.split(" ", 5)[4] != "/" for line in (table or "").splitlines())


def _nested(root: str) -> bool:
    words = (read_text(f"{root}/proc/self/uid_map") or "").split()
    return bool(words) and words != ["0", "0", str(_EVERY_ID)]
