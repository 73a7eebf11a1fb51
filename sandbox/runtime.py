"""The session's private directory: found again and swept if its owner was killed.

1. `netcapture-<random>` under the temporary directory, mode 0700. An flock on `owner.lock` inside
   is held while the owner lives; the kernel drops it with the process, however that dies. Proof:
   test_a_killed_owners_directory_is_swept.
2. The directory gets that name only when the lock is held, so that a sweep never sees one half
   made. What dies before that is called `netcapture-new-<random>` and is swept after an hour.
3. Only own directories are swept, symlinks never followed. Proof: test_a_symlink_is_not_swept.
4. A process that was forked from the owner never removes it, but keeps the lock while it lives
   without exec. Proof: test_a_forked_child_does_not_remove_it.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tempfile

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox.original import original

PREFIX = "netcapture-"
_HALF_MADE = "netcapture-new-"
_LOCK = "owner.lock"
_HALF_MADE_SECONDS = 3600
_OURS = re.compile(rf"{PREFIX}(new-)?[0-9a-f]{{12}}")
"""Only what we name so is swept: a user's own netcapture-something is not ours."""


class RuntimeDirectory:
    """A private directory of the process that created it. Removed by `remove`."""

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._owner = original.getpid()

    @classmethod
    def create(cls, parent: str | None = None) -> RuntimeDirectory:
        """Make one under `parent` (the temporary directory)."""
        parent = parent or tempfile.gettempdir()
        name = original.urandom(6).hex()
        unlocked = f"{parent}/{_HALF_MADE}{name}"
        try:
            original.mkdir(unlocked, 0o700)
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot make a private directory in {parent}: {error.strerror}",
                cure="set TMPDIR to a writable directory",
            ) from error
        lock = original.open(f"{unlocked}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = f"{parent}/{PREFIX}{name}"
        original.rename(unlocked, path)
        return cls(path, lock)

    def make(self, name: str) -> str:
        """Make a sub-directory and return its path."""
        path = f"{self.path}/{name}"
        original.mkdir(path, 0o700)
        return path

    def remove(self) -> None:
        """Remove it with all it holds. Idempotent; does nothing in a forked child."""
        if self._lock < 0 or self._owner != original.getpid():
            return
        _remove_tree(self.path)
        original.close(self._lock)
        self._lock = -1


def sweep_stale(parent: str | None = None) -> list[str]:
    """Remove own runtime directories whose owners are dead; return their paths."""
    parent = parent or tempfile.gettempdir()
    swept = []
    try:
        names = original.listdir(parent)
    except OSError:
        return []  # `create` says what is wrong with it
    for name in names:
        path = f"{parent}/{name}"
        if _OURS.fullmatch(name) and _is_ours(path) and _is_stale(path, name):
            _remove_tree(path)
            swept.append(path)
    return swept


def _is_ours(path: str) -> bool:
    try:
        found = original.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == original.geteuid()


def _is_stale(path: str, name: str) -> bool:
    if name.startswith(_HALF_MADE):
        return original.time() - original.stat(path).st_mtime > _HALF_MADE_SECONDS
    try:
        lock = original.open(f"{path}/{_LOCK}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True  # a removal that was cut short
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        original.close(lock)


def _remove_tree(path: str) -> None:
    """Remove bottom up, never through a symlink; what resists stays for the next sweep."""
    try:
        entries = original.listdir(path)
    except OSError:
        return
    for name in sorted(entries, key=_LOCK.__eq__):  # the lock goes last
        _remove_entry(f"{path}/{name}")
    try:
        original.rmdir(path)
    except OSError:
        return


def _remove_entry(path: str) -> None:
    try:
        if stat.S_ISDIR(original.lstat(path).st_mode):
            _remove_tree(path)
        else:
            original.unlink(path)
    except OSError:
        return
