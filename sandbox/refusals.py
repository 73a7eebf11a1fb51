"""Why the kernel refused a namespace or a mount, and the cure, in words.

1. `explain_*` decide and read nothing: they take the errno and the `Facts`. `gather` reads those.
2. The first cause that fits the errno and the facts is named. If none does, the message says what
   was tried and what was ruled out, and never guesses.
3. Sysctls are per machine but `user.max_*_namespaces`, which is per user namespace: in a nested one
   the refusal can come from a limit that cannot be read from here, and the message says so.
Each row is proven in tests/sandbox/test_refusals.py, those that can be provoked also live.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import NamedTuple

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox.kernel import SECCOMP_MODE_FILTER, USER_NAMESPACE_DEPTH
from pytest_netcapture.sandbox.original import exists, original, read_text

SLUG = "docs/limits.md#namespaces"
_THREAD_CURE = (
    "start pytest without what starts these threads (a debugger, a profiler, a tracer), or let "
    "`netcapture run -- pytest ...` enter the sandbox before pytest starts"
)


class Facts(NamedTuple):
    """What this machine says about itself. NamedTuple: a dataclass costs start-up time.

    A sysctl is None where it does not exist. `threads` are the names of those beside the caller.
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


def gather() -> Facts:
    """Read the facts. Quick (some fifteen small files), but only called when something failed."""
    return Facts(
        threads=other_threads(),
        max_user_namespaces=_sysctl("user/max_user_namespaces"),
        max_mnt_namespaces=_sysctl("user/max_mnt_namespaces"),
        max_net_namespaces=_sysctl("user/max_net_namespaces"),
        unprivileged_userns_clone=_sysctl("kernel/unprivileged_userns_clone"),
        apparmor_restrict=_sysctl("kernel/apparmor_restrict_unprivileged_userns"),
        apparmor_label=apparmor_label(),
        selinux_enforcing=read_text("/sys/fs/selinux/enforce") == "1",
        seccomp=int(_status("Seccomp") or 0),
        container=container(),
        chrooted=_chrooted(),
        user_namespaces_built=exists("/proc/self/ns/user"),
        kernel=read_text("/proc/version") or "",
    )


def user_namespace_problem(number: int, facts: Facts) -> EnvironmentProblem:
    """Explain a refused unshare(CLONE_NEWUSER) or a refused write to its maps."""
    what = f"cannot make a user namespace: {_name(number)}"
    return _problem(what, *explain_user_namespace(number, facts))


def explain_user_namespace(number: int, facts: Facts) -> tuple[str, str]:
    """Return (cause, cure)."""
    if _is_wsl1(facts) or "gVisor" in facts.kernel:
        return (
            "this kernel only imitates Linux's namespaces",
            "run where a Linux kernel of its own does (a virtual machine, WSL2)",
        )
    if number == errno.EINVAL:
        return _explain_einval(facts)
    if number in {errno.ENOSPC, errno.EUSERS}:
        return _explain_limit("user", facts.max_user_namespaces)
    if number == errno.ENOSYS:
        return _explain_unbuilt()
    if facts.unprivileged_userns_clone == 0:
        return (
            "kernel.unprivileged_userns_clone is 0: ordinary users may not make any",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        )
    if facts.chrooted:
        return (
            "this process runs in a chroot, where the kernel refuses user namespaces",
            "start pytest outside the chroot, or enter it with pivot_root (bwrap, systemd-nspawn)",
        )
    if facts.apparmor_restrict and facts.apparmor_label in {
        "unconfined",
        "",
        "unprivileged_userns",
    }:
        return _explain_apparmor()
    return _explain_filter(facts)


def namespace_problem(kind: str, number: int, facts: Facts) -> EnvironmentProblem:
    """Explain a refused unshare or setns of a `kind` ("mount" or "network") namespace."""
    what = f"cannot make a {kind} namespace: {_name(number)}"
    if number in {errno.ENOSPC, errno.EUSERS}:
        short = {"mount": "mnt", "network": "net"}[kind]
        limit = facts.max_mnt_namespaces if short == "mnt" else facts.max_net_namespaces
        return _problem(what, *_explain_limit(short, limit))
    if number == errno.EINVAL:
        return _problem(what, f"this kernel is built without {kind} namespaces", "use another one")
    if number == errno.EPERM and facts.apparmor_restrict:
        return _problem(what, *_explain_apparmor())
    return _problem(what, *_explain_filter(facts))


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


def apparmor_label() -> str:
    """Return the AppArmor profile of this process, or "" without AppArmor."""
    return read_text("/proc/self/attr/apparmor/current") or ""


def container() -> str:
    """Name the container runtime around this process, or ""."""
    if exists("/.dockerenv"):
        return "Docker"
    if exists("/run/.containerenv"):
        return "Podman"
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "Kubernetes"
    return ""


def _explain_einval(facts: Facts) -> tuple[str, str]:
    if facts.threads:
        count = len(facts.threads)
        noun = "another thread runs" if count == 1 else f"{count} other threads run"
        names = ", ".join(facts.threads[:8]) + (", ..." if count > 8 else "")
        return (f"{noun} in this process already: {names}", _THREAD_CURE)
    if not facts.user_namespaces_built:
        return _explain_unbuilt()
    return ("this process shares its file system state with another (CLONE_FS)", _THREAD_CURE)


def _explain_unbuilt() -> tuple[str, str]:
    return (
        "this kernel is built without user namespaces (CONFIG_USER_NS)",
        "run as root, or on a kernel that has them",
    )


def _explain_limit(short: str, limit: int | None) -> tuple[str, str]:
    name = f"user.max_{short}_namespaces"
    if limit == 0:
        return (f"{name} is 0", f"sudo sysctl -w {name}=28633")
    return (
        (
            f"as many exist as {name} ({limit}) of this or of an outer user namespace allows, "
            f"or they are nested deeper than {USER_NAMESPACE_DEPTH}"
        ),
        f"raise {name} outside of the container or sandbox around pytest, or nest less",
    )


def _explain_apparmor() -> tuple[str, str]:
    return (
        (
            "kernel.apparmor_restrict_unprivileged_userns is 1 (Ubuntu from 23.10): a namespace "
            "of an unconfined program gets no capability"
        ),
        (
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile "
            f"with `userns,` for {os.path.realpath(sys.executable)}"
        ),
    )


def _explain_filter(facts: Facts) -> tuple[str, str]:
    where = facts.container or "the container or service manager around this process"
    if facts.seccomp == SECCOMP_MODE_FILTER:
        return (
            f"a seccomp filter of {where} forbids it",
            (
                "--security-opt seccomp=unconfined (and apparmor=unconfined) or --privileged for "
                "the container; Kubernetes: seccompProfile: Unconfined; systemd: "
                "RestrictNamespaces=no"
            ),
        )
    if facts.container:
        return (
            f"{where} forbids it",
            "--security-opt seccomp=unconfined --security-opt apparmor=unconfined, or --privileged",
        )
    if facts.selinux_enforcing:
        return (
            "SELinux may forbid it (it is enforcing)",
            "look for it: ausearch -m avc -ts recent",
        )
    if facts.apparmor_label not in {"", "unconfined"}:
        return (
            f"AppArmor's profile {facts.apparmor_label!r} may forbid it",
            "add `userns,` and `capability sys_admin,` to that profile",
        )
    return (
        "the kernel gives no reason; sysctls, seccomp, chroot, AppArmor and SELinux were ruled out",
        "run `netcapture doctor` and report what it prints",
    )


def _problem(what: str, cause: str, cure: str) -> EnvironmentProblem:
    return EnvironmentProblem(f"{what}: {cause}", cure=cure, slug=SLUG)


def _name(number: int) -> str:
    return f"{errno.errorcode.get(number, number)} ({os.strerror(number)})"


def _is_wsl1(facts: Facts) -> bool:
    return "Microsoft" in facts.kernel and "WSL2" not in facts.kernel


def _sysctl(name: str) -> int | None:
    text = read_text(f"/proc/sys/{name}")
    return int(text) if text and text.isdigit() else None


def _status(field: str) -> str:
    for line in (read_text("/proc/self/status") or "").splitlines():
        if line.startswith(f"{field}:"):
            return line.partition(":")[2].strip()
    return ""


def _chrooted() -> bool:
    # mountinfo lists what our root reaches: a chroot that is no mount point has no "/".
    table = read_text("/proc/self/mountinfo")
    return bool(table) and all(line.split(" ", 5)[4] != "/" for line in (table or "").splitlines())
