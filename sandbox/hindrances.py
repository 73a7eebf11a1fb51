"""What of a machine is known to keep capture from working, all of it, each with its cure.

1. A refusal has one reason (refusals.py names the first that fits), a machine may have several: who
   mends one finds the next. So all that the facts show are listed here.
2. Decides over `Facts` and reads nothing. Whether a seccomp filter, AppArmor's profile or SELinux
   forbids something cannot be told without trying: that is what probe.py does.

Tests: test_hindrances.py.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from pytest_netcapture.sandbox.facts import Facts
from pytest_netcapture.sandbox.refusals import explain_user_namespace


class Hindrance(NamedTuple):
    """One cause. `only_ordinary`: it does not bear on root with CAP_SYS_ADMIN."""

    cause: str
    cure: str
    only_ordinary: bool = True


def hindrances(facts: Facts, *, privileged: bool = False) -> list[Hindrance]:
    """Return what keeps from making namespaces here, or from supervising programs."""
    found = [_of(number, alone) for number, alone in _alone(facts)]
    for short, limit in (
        ("mnt", facts.max_mnt_namespaces),
        ("net", facts.max_net_namespaces),
    ):
        if limit == 0:
            name = f"user.max_{short}_namespaces"
            found.append(Hindrance(f"{name} is 0", f"sudo sysctl -w {name}=28633", False))
    if facts.yama is not None and facts.yama >= 2:
        found.append(_yama(facts.yama))
    return [one for one in found if not (privileged and one.only_ordinary)]


def description(facts: Facts) -> str:
    """Say in a line what kind of machine this is."""
    kernel = " ".join(facts.kernel.split()[:3]) or "unknown kernel"
    words = [
        "gVisor" if facts.gvisor else f"WSL {facts.wsl}" if facts.wsl else "",
        facts.container,
        facts.ci,
        "in a user namespace" if facts.nested else "",
        "under a seccomp filter" if facts.seccomp else "",
        f"AppArmor: {facts.apparmor_label}" if facts.apparmor_label else "",
        "SELinux enforcing" if facts.selinux_enforcing else "",
    ]
    return ", ".join([kernel, *(word for word in words if word)])


def _alone(facts: Facts) -> list[tuple[int, Facts]]:
    """Return each cause by itself, with the errno that it has: an explanation names the first."""
    causes = []
    if facts.gvisor or facts.wsl == 1:
        causes.append((errno.EPERM, Facts(kernel=facts.kernel)))
    if not facts.user_namespaces_built:
        causes.append((errno.EINVAL, Facts(user_namespaces_built=False)))
    if facts.max_user_namespaces == 0:
        causes.append((errno.ENOSPC, Facts(max_user_namespaces=0)))
    if facts.unprivileged_userns_clone == 0:
        causes.append((errno.EPERM, Facts(unprivileged_userns_clone=0)))
    if facts.chrooted:
        causes.append((errno.EPERM, Facts(chrooted=True)))
    if facts.apparmor_restrict:
        label = facts.apparmor_label
        causes.append((errno.EPERM, Facts(apparmor_restrict=1, apparmor_label=label)))
    return causes


def _of(number: int, alone: Facts) -> Hindrance:
    cause, cure = explain_user_namespace(number, alone)
    return Hindrance(cause, cure, only_ordinary=not (alone.gvisor or alone.wsl))


def _yama(scope: int) -> Hindrance:
    reboot = " and reboot: 3 cannot be lowered" if scope == 3 else ""
    return Hindrance(
        f"kernel.yama.ptrace_scope is {scope}: the seccomp redirector cannot look into programs",
        f"sudo sysctl -w kernel.yama.ptrace_scope=1{reboot}",
    )
