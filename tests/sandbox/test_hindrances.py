"""Every cause that files show is listed, each with its cure, however many there are."""

from __future__ import annotations

import pytest

from pytest_netcapture.sandbox.facts import Facts
from pytest_netcapture.sandbox.hindrances import description, hindrances
from pytest_netcapture.sandbox.refusals import container_cure

CAUSES = [
    (Facts(max_user_namespaces=0), "user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=28633"),
    (Facts(max_mnt_namespaces=0), "user.max_mnt_namespaces is 0", "sysctl -w user.max_mnt_namespaces=28633"),
    (Facts(max_net_namespaces=0), "user.max_net_namespaces is 0", "sysctl -w user.max_net_namespaces=28633"),
    (Facts(unprivileged_userns_clone=0), "unprivileged_userns_clone is 0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    (Facts(apparmor_restrict=1, apparmor_label="unconfined"), "apparmor_restrict_unprivileged_userns is 1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    (Facts(chrooted=True), "chroot", "outside the chroot"),
    (Facts(user_namespaces_built=False), "CONFIG_USER_NS", "kernel that has them"),
    (Facts(kernel="Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016"), "only imitates", "virtual machine"),
    (Facts(kernel="Linux version 4.4.0-19041-Microsoft"), "only imitates", "WSL2"),
    (Facts(yama=2), "ptrace_scope is 2", "sysctl -w kernel.yama.ptrace_scope=1"),
    (Facts(yama=3), "ptrace_scope is 3", "reboot"),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "cause", "cure"), CAUSES)
def test_causes(facts, cause, cure):
    (found,) = hindrances(facts)
    assert cause in found.cause
    assert cure in found.cure


def test_several_at_the_same_time():
    facts = Facts(
        max_user_namespaces=0,
        unprivileged_userns_clone=0,
        apparmor_restrict=1,
        chrooted=True,
        max_net_namespaces=0,
        yama=2,
    )
    assert len(hindrances(facts)) == 6
    assert len(hindrances(facts, privileged=True)) == 1  # max_net_namespaces


def test_what_does_not_hinder():
    facts = Facts(
        max_user_namespaces=96365,
        unprivileged_userns_clone=1,
        apparmor_restrict=0,
        yama=1,
        seccomp=2,
        container="Docker",
        kernel="Linux version 5.15.90.1-microsoft-standard-WSL2",
    )
    assert hindrances(facts) == []


def test_root_cannot_escape_a_kernel_that_imitates():
    assert hindrances(Facts(kernel="Linux version 4.4.0-19041-Microsoft"), privileged=True)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (Facts(container="Docker"), ("docker run", "seccomp=unconfined", "apparmor=unconfined")),
        (Facts(container="Podman"), ("podman run", "seccomp=unconfined")),
        (Facts(container="Kubernetes"), ("securityContext", "seccompProfile", "Unconfined")),
        (Facts(container="Docker", ci="GitHub Actions"), ("in the job: container: { options:",)),
        (Facts(container="Docker", ci="GitLab CI"), ("[runners.docker]", '"seccomp:unconfined"')),
        (Facts(container="Kubernetes", ci="GitLab CI"), ("securityContext",)),
        (Facts(), ("RestrictNamespaces=no",)),
    ],
)
def test_what_starts_a_container_is_told_in_its_own_words(facts, words):
    cure = container_cure(facts)
    assert all(word in cure for word in words)


def test_description():
    facts = Facts(
        kernel="Linux version 5.15.90.1-microsoft-standard-WSL2 (oe-user@oe-host)",
        container="Docker",
        ci="GitLab CI",
        nested=True,
        seccomp=2,
    )
    assert description(facts) == (
        "Linux version 5.15.90.1-microsoft-standard-WSL2, WSL 2, Docker, GitLab CI, "
        "in a user namespace, under a seccomp filter"
    )
