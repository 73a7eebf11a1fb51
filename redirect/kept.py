"""Bytes kept between sessions: what pyroute2 encodes is always the same, and importing it is slow.

1. Importing pyroute2 and encoding takes 0.1 s, a third of what a session may take to start. The
   messages depend on our modules and on pyroute2 only, whose files' times and sizes are the key.
2. The file is the user's own: in a folder of theirs with mode 0700, checksummed, written beside and
   renamed. Whatever is wrong with it, it is made anew; where it cannot be kept, nothing is.

Tests: test_kept.py.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import stat
from collections.abc import Callable, Iterable
from functools import lru_cache

_DIGEST = 16
_LONGEST = 1 << 16


def kept(name: str, build: Callable[[], bytes]) -> bytes:
    """Return what `build` returned in an earlier session, else call it and keep the result."""
    folder = _folder()
    if folder is None:
        return build()
    path = os.path.join(folder, f"{name}-{_versions()}")
    data = _read(path)
    if data is None:
        data = build()
        _write(path, data)
    return data


def _read(path: str) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        content = file.read(_LONGEST)
    digest, data = content[:_DIGEST], content[_DIGEST:]
    return data if digest == _checksum(data) else None


def _write(path: str, data: bytes) -> None:
    beside = f"{path}.{os.getpid()}"
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(_checksum(data) + data)
        os.rename(beside, path)
    except OSError:
        return  # a full or read-only disk: the next session encodes again


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


def _folder() -> str | None:
    """Return our folder in the user's cache, made if needed; None if it is not theirs alone."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(base, "pytest-netcapture")
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError:
        return None
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    return folder if private and found.st_uid == os.geteuid() and os.path.isabs(folder) else None


@lru_cache(maxsize=1)
def _versions() -> str:
    """Return a name for the files that decide what is encoded."""
    here = os.path.dirname(os.path.abspath(__file__))
    ours = [os.path.join(here, f"{name}.py") for name in ("expressions", "kernel", "ruleset")]
    spec = importlib.util.find_spec("pyroute2")
    return _name([*ours, *([spec.origin] if spec and spec.origin else [])])


def _name(paths: Iterable[str]) -> str:
    found = [(path, os.stat(path)) for path in paths]
    facts = repr([(path, s.st_mtime_ns, s.st_size) for path, s in found])
    return hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()
