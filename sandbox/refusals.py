"""Why the kernel refused a namespace or a mount, and the cure, in words.

1. `explain_*` decide and read nothing: they take the errno and the `Facts` (facts.py).
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

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox.facts import Facts, gather
from pytest_netcapture.sandbox.kernel import SECCOMP_MODE_FILTER, USER_NAMESPACE_DEPTH

__all__ = [
    "Facts",
    "container_cure",
    "explain_user_namespace",
    "gather",
    "namespace_problem",
    "user_namespace_problem",
]

SLUG = "docs/limits.md#namespaces"
_THREAD_CURE = (
    "start pytest without what starts these threads (a debugger, a profiler, a tracer), or let "
    "`netcapture run -- pytest ...` enter the sandbox before pytest starts"
)


def user_namespace_problem(number: int, facts: Facts) -> EnvironmentProblem:
    """Explain a refused unshare(CLONE_NEWUSER) or a refused write to its maps."""
    what = f"cannot make a user namespace: {_name(number)}"
    return _problem(what, *explain_user_namespace(number, facts))


def explain_user_namespace(number: int, facts: Facts) -> tuple[str, str]:
    """Return (cause, cure)."""
    if facts.wsl == 1 or facts.gvisor:
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


def container_cure(facts: Facts) -> str:
    """Return what lets this container make namespaces, in the words of what starts it."""
    options = "--security-opt seccomp=unconfined --security-opt apparmor=unconfined"
    if facts.ci == "GitHub Actions" and facts.container:
        return f"in the job: container: {{ options: {options} }}"
    if facts.ci == "GitLab CI" and facts.container != "Kubernetes":
        return (
            "in the runner's config.toml, [runners.docker]: "
            'security_opt = ["seccomp:unconfined", "apparmor:unconfined"]'
        )
    if facts.container == "Kubernetes":
        return (
            "in the container: securityContext: { seccompProfile: { type: Unconfined }, "
            "appArmorProfile: { type: Unconfined } }"
        )
    if facts.container in {"Docker", "Podman"}:
        return f"{facts.container.lower()} run {options}, or --privileged"
    return f"for a container: {options}, or --privileged; for a systemd unit: RestrictNamespaces=no"


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
        return (f"a seccomp filter of {where} forbids it", container_cure(facts))
    if facts.container:
        return (f"{where} forbids it", container_cure(facts))
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
