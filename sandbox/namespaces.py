"""Enter a user, a mount and a network namespace, without becoming someone else.

1. The own uid and gid are mapped to themselves: getuid(), $HOME and the ownership of own files stay
   as they were. Ids that are not ours show as 65534. `deny` goes into setgroups first
   (user_namespaces(7)). Proof: test_ids_and_home_stay_as_they_were.
2. Real root that holds CAP_SYS_ADMIN needs no user namespace and gets none.
3. `unshare_mounts` leaves mounts as slaves: what the host mounts later still appears, what we mount
   never gets out. Proof: test_mounts_do_not_get_out, test_host_mounts_still_appear.
4. User and mount namespaces are for a process with one thread, the kernel insists (EINVAL). Network
   namespaces are per thread: `unshare_network` and `enter_network` move the calling thread and what
   it starts, no other. Proof: test_another_thread_keeps_its_network.
5. A refusal known beforehand is raised before anything has changed. One that comes after the
   process entered a namespace that it cannot map is `Stranded`: the process must end, its ids are
   gone.
"""

from __future__ import annotations

import errno
import os

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox import capabilities, kernel
from pytest_netcapture.sandbox.original import original, read_text, write_proc
from pytest_netcapture.sandbox.syscalls import mount, setns, unshare

_OWN_NETWORK = "/proc/thread-self/ns/net"
_APPARMOR_RESTRICTS = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_SLUG = "docs/limits.md#namespaces"


class Stranded(EnvironmentProblem):
    """The process sits in a half-made user namespace: say so and end it."""


def needs_user_namespace() -> bool:
    """Tell whether `enter_user_namespace` would make one."""
    return not (capabilities.is_root() and kernel.CAP_SYS_ADMIN in capabilities.effective())


def enter_user_namespace() -> bool:
    """Enter a new user namespace that maps the own uid and gid; False as real root, who needs none.

    All capabilities over it are held afterwards: reduce them with `capabilities.keep_only`.
    """
    if not needs_user_namespace():
        return False
    uid, gid = original.geteuid(), original.getegid()
    if read_text(_APPARMOR_RESTRICTS) == "1":
        _refuse_what_apparmor_would_strand()
    try:
        unshare(kernel.CLONE_NEWUSER)
    except OSError as error:
        raise _refused("user", error) from error
    try:
        _map_ids(uid, gid)
    except OSError as error:
        problem = _refused("user", error)
        raise Stranded(problem.message, cure=problem.cure, slug=problem.slug) from error
    return True


def unshare_mounts() -> None:
    """Give the process its own mount table, into which the host's later mounts still come."""
    try:
        unshare(kernel.CLONE_NEWNS)
        mount("", "/", "", kernel.MS_REC | kernel.MS_SLAVE)
    except OSError as error:
        raise _refused("mount", error) from error


def unshare_network() -> int:
    """Move the calling thread into a new, unconfigured network namespace; return its descriptor."""
    try:
        unshare(kernel.CLONE_NEWNET)
    except OSError as error:
        raise _refused("network", error) from error
    return current_network()


def current_network() -> int:
    """Open the calling thread's network namespace. The caller owns the descriptor."""
    return original.open(_OWN_NETWORK, os.O_RDONLY | os.O_CLOEXEC)


def enter_network(descriptor: int) -> None:
    """Move the calling thread into the network namespace of `descriptor`."""
    try:
        setns(descriptor, kernel.CLONE_NEWNET)
    except OSError as error:
        raise _cannot_enter(descriptor, error) from error


def network_inode(descriptor: int) -> int:
    """Return the number that names a network namespace machine-wide while it lives."""
    return original.fstat(descriptor).st_ino


def current_network_inode() -> int:
    """Return that number for the calling thread."""
    return original.stat(_OWN_NETWORK).st_ino


def _map_ids(uid: int, gid: int) -> None:
    write_proc("/proc/self/setgroups", "deny")
    write_proc("/proc/self/uid_map", f"{uid} {uid} 1")
    write_proc("/proc/self/gid_map", f"{gid} {gid} 1")


def _refuse_what_apparmor_would_strand() -> None:
    """Refuse now what unshare would allow and the kernel take back at the maps, too late."""
    from pytest_netcapture.sandbox import refusals

    facts = refusals.gather()
    if facts.apparmor_label == "unconfined":
        raise refusals.user_namespace_problem(errno.EPERM, facts)


def _refused(kind: str, error: OSError) -> EnvironmentProblem:
    # Imported only when something failed: it would cost every start-up a millisecond.
    from pytest_netcapture.sandbox import refusals

    number = error.errno or 0
    if kind == "user":
        return refusals.user_namespace_problem(number, refusals.gather())
    return refusals.namespace_problem(kind, number, refusals.gather())


def _cannot_enter(descriptor: int, error: OSError) -> EnvironmentProblem:
    what = "cannot enter the network namespace"
    if error.errno in {errno.EBADF, errno.EINVAL}:
        state = "was closed" if error.errno == errno.EBADF else "is something else by now"
        return EnvironmentProblem(
            f"{what}: descriptor {descriptor} {state}",
            cure="do not close descriptors that you did not open (os.closerange in a test?)",
            slug=_SLUG,
        )
    if error.errno == errno.EPERM and kernel.CAP_SYS_ADMIN not in capabilities.effective():
        return EnvironmentProblem(
            f"{what}: this thread has lost CAP_SYS_ADMIN",
            cure="the test changed the process's user or capabilities: do that in a child process",
            slug=_SLUG,
        )
    return _refused("network", error)
