"""Which processes are left in our network namespaces, and how they are ended.

1. A process counts if any of its threads is in the namespace; the calling process never does.
   Double-forked daemons count as well: nobody needs to be their parent. Proof:
   test_a_daemon_is_found_and_ended.
2. Processes are held by pidfd and looked at once more after it is open, so that a reused pid is
   never signalled. Proof: test_a_pid_that_left_is_not_signalled.
3. SIGTERM, a short grace, SIGKILL. A zombie has left its namespaces (exit_task_namespaces) and is
   its parent's to reap: it is neither found nor waited for.
4. `last_pid` and `children` are cheap signs that nothing was left behind: when in doubt they err
   towards "something was". `last_pid` also moves for processes that are not ours.
5. Rootless, processes with more capabilities than the caller's (the engine) cannot be looked into
   and are not found; pass them in `spare` to have that as root too.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Collection, Iterable

from pytest_netcapture.sandbox.kernel import WALL
from pytest_netcapture.sandbox.original import original, read_file
from pytest_netcapture.sandbox.syscalls import pidfd_open, pidfd_send_signal

GRACE_NS = 500_000_000
_ROUNDS = 10


def processes_in(network_inodes: Collection[int], spare: Iterable[int] = ()) -> list[int]:
    """Return the pids, ascending, of others with a thread in one of these namespaces."""
    skip = {original.getpid(), *spare}
    pids = sorted(int(name) for name in original.listdir("/proc") if name.isdigit())
    return [pid for pid in pids if pid not in skip and is_in(pid, network_inodes)]


def is_in(pid: int, network_inodes: Collection[int]) -> bool:
    """Tell whether a thread of `pid` is in one of these; False if that may not be known."""
    try:
        if original.stat(f"/proc/{pid}/ns/net").st_ino in network_inodes:
            return True
    except PermissionError:
        return False
    except OSError:
        pass  # its first thread has ended, others may run
    try:
        threads = original.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    return len(threads) > 1 and any(_thread_is_in(pid, tid, network_inodes) for tid in threads)


def end(
    pids: Iterable[int],
    *,
    grace_ns: int = GRACE_NS,
    still: Callable[[int], bool] = lambda _pid: True,
) -> list[int]:
    """End processes: SIGTERM, `grace_ns` in all, SIGKILL. Return the pids that were ended.

    `still(pid)` is asked once its pidfd is held: False leaves the process alone.
    """
    held = _hold(pids, still)
    try:
        _signal(held, signal.SIGTERM)
        left = _await_exit(held, grace_ns)
        _signal({fd: held[fd] for fd in left}, signal.SIGKILL)
        _await_exit({fd: held[fd] for fd in left}, grace_ns)
        return sorted(held.values())
    finally:
        for descriptor in held:
            original.close(descriptor)


def end_in(
    network_inodes: Collection[int], spare: Iterable[int] = (), *, grace_ns: int = GRACE_NS
) -> list[int]:
    """End every process in these namespaces, also those that they start meanwhile."""
    spared, ended = tuple(spare), []
    for _ in range(_ROUNDS):
        found = processes_in(network_inodes, spared)
        if not found:
            break
        ended += end(found, grace_ns=grace_ns, still=lambda pid: is_in(pid, network_inodes))
    return ended


def thread_count() -> int:
    """Count the threads of this process, native ones too."""
    return len(original.listdir("/proc/self/task"))


class _LastPid:
    """An open /proc/loadavg: a test may leave no descriptor to open it with, or close this one."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._doubts = 0

    def read(self) -> int:
        for _ in range(2):
            try:
                if self._descriptor < 0:
                    flags = os.O_RDONLY | os.O_CLOEXEC
                    self._descriptor = original.open("/proc/loadavg", flags)
                return int(original.pread(self._descriptor, 64, 0).rpartition(b" ")[2])
            except (OSError, ValueError):
                self._descriptor = -1
        self._doubts -= 1
        return self._doubts


_last = _LastPid()


def last_pid() -> int:
    """Return the number given last to a process or thread, in this pid namespace.

    Equal before and after: none was made, by anyone (but for a full turn of pid_max). Where it
    cannot be known it is negative, and another one each time.
    """
    return _last.read()


def children() -> set[int]:
    """Return the pids of this process's children, zombies included."""
    found: set[int] = set()
    for task in original.listdir("/proc/self/task"):
        try:
            found.update(map(int, read_file(f"/proc/self/task/{task}/children").split()))
        except FileNotFoundError:
            continue  # the thread has ended; its children went to a sibling
    return found


def has_children(spare: Collection[int] = ()) -> bool:
    """Tell whether there is a child beside those in `spare` (the engine)."""
    try:
        # Free, and the usual answer where the engine is not a child. WNOWAIT: nobody is reaped.
        original.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | WALL)
    except ChildProcessError:
        return False
    found = children()
    return not found or not found <= set(spare)  # none: this kernel has no `children` file


def _thread_is_in(pid: int, tid: str, network_inodes: Collection[int]) -> bool:
    try:
        return original.stat(f"/proc/{pid}/task/{tid}/ns/net").st_ino in network_inodes
    except OSError:
        return False


def _hold(pids: Iterable[int], still: Callable[[int], bool]) -> dict[int, int]:
    """Open a pidfd for each: descriptor to pid."""
    held = {}
    for pid in pids:
        try:
            descriptor = pidfd_open(pid)
        except OSError:
            continue
        if still(pid):
            held[descriptor] = pid
        else:
            original.close(descriptor)
    return held


def _signal(held: dict[int, int], number: int) -> None:
    for descriptor in held:
        try:
            pidfd_send_signal(descriptor, number)
        except OSError:
            continue


def _await_exit(held: dict[int, int], grace_ns: int) -> list[int]:
    """Wait until all have ended or the grace is over; return descriptors of those that have not."""
    waiting, poll = set(held), original.poll()
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    deadline = original.monotonic_ns() + grace_ns
    while waiting and (rest := deadline - original.monotonic_ns()) > 0:
        for descriptor, _ in poll.poll(rest / 1e6):
            poll.unregister(descriptor)
            waiting.discard(descriptor)
    return sorted(waiting)
