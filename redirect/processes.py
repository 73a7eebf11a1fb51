"""Which process made a connection: finds the holder of a socket by its inode in /proc.

1. A socket belongs to the process that made it. Several hold it when a process forked afterwards (a
   fork-without-exec worker; any `subprocess` for the moment between fork and exec). The maker came
   first, so of those that hold it the topmost in the process tree is taken: the root before its
   descendants, and a hinted process only if its ancestors do not hold the socket too.
2. Looked at in this order: hints (who connected last), the root and its descendants nearest first,
   then every other process that may be read. Each is one listing of its descriptors.
3. Processes come and go while this runs: what cannot be read is passed over; nobody found is
   `Process()`.

Kernel: proc(5). Tests: test_owners.py.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from pytest_netcapture.flows import Process

_MAX_ANCESTORS = 64


def find_process(inode: int, hints: Sequence[int], root_pid: int) -> Process:
    if inode <= 0:
        return Process()
    link = f"socket:[{inode}]"
    for pid in hints:
        if _holds(pid, link):
            return describe(_topmost(pid, link, root_pid))
    seen = set(hints)
    for pid in _candidates(root_pid):
        if pid not in seen:
            seen.add(pid)
            if _holds(pid, link):
                return describe(pid)
    return Process()


def describe(pid: int) -> Process:
    """Read the command line; name it by its first word, as people know it, or by `comm`."""
    command = tuple(w.decode("utf-8", "replace") for w in _read(pid, "cmdline").split(b"\0"))
    while command and not command[-1]:
        command = command[:-1]
    name = os.path.basename(_program(command[0])) if command else ""
    return Process(pid, name or _read(pid, "comm").decode("utf-8", "replace").strip(), command)


def _program(word: str) -> str:
    """Return the program of a first word, in which one that sets its title has the whole line."""
    return word if os.path.exists(word) else word.partition(" ")[0]


def parse_parent(stat: bytes) -> int:
    """Return the parent of /proc/PID/stat; the name before it may hold anything, `)` too."""
    words = stat.rpartition(b")")[2].split(maxsplit=2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def _topmost(pid: int, link: str, root_pid: int) -> int:
    top = pid
    for _ in range(_MAX_ANCESTORS):
        if pid in {0, 1, root_pid}:
            break
        pid = parse_parent(_read(pid, "stat"))
        if pid <= 1 or not _holds(pid, link):
            break
        top = pid
    return top


def _candidates(root_pid: int) -> Iterator[int]:
    yield root_pid
    if os.path.exists("/proc/thread-self/children"):
        yield from _descendants(root_pid)
        yield from all_pids()
    else:  # a kernel without CONFIG_PROC_CHILDREN
        yield from _by_distance(root_pid)


def _descendants(root_pid: int) -> Iterator[int]:
    queue = deque([root_pid])
    while queue:
        children = list(_children(queue.popleft()))
        yield from children
        queue.extend(children)


def _children(pid: int) -> Iterator[int]:
    for thread in _list(f"/proc/{pid}/task"):
        yield from map(int, _read(pid, f"task/{thread}/children").split())


def _by_distance(root_pid: int) -> Iterator[int]:
    """Yield the root's descendants nearest first, then all other processes."""
    pids = list(all_pids())
    children: dict[int, list[int]] = {}
    for pid in pids:
        children.setdefault(parse_parent(_read(pid, "stat")), []).append(pid)
    queue = deque(children.get(root_pid, ()))
    while queue:
        pid = queue.popleft()
        yield pid
        queue.extend(children.get(pid, ()))
    yield from pids


def all_pids() -> Iterable[int]:
    """Return the numbers of the processes that are seen here."""
    return (int(name) for name in _list("/proc") if name.isdigit())


def _holds(pid: int, link: str) -> bool:
    folder = f"/proc/{pid}/fd"
    for name in reversed(_list(folder)):  # a new socket tends to be among the last
        try:
            if os.readlink(f"{folder}/{name}") == link:
                return True
        except OSError:
            continue
    return False


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _read(pid: int, name: str) -> bytes:
    try:
        descriptor = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
