"""The functions of `os` and `time` as they were when this package was imported.

1. Tests replace `os.open`, `time.monotonic`, `open` and `socket`; nothing here may notice. Some
   tools (pyfakefs, freezegun) also look for these functions among the globals of every module, so
   they are kept as attributes of a class, where nobody looks. Proof:
   tests/sandbox/test_original.py.
2. Files are small (sysctls, /proc, CA bundles) and read whole.
3. Descriptors are close-on-exec.
"""

from __future__ import annotations

import errno
import os
import select
import time


class original:  # noqa: N801 - reads as a namespace: original.open(...)
    """Where the functions are kept. Never instantiated."""

    open = staticmethod(os.open)
    read = staticmethod(os.read)
    pread = staticmethod(os.pread)
    write = staticmethod(os.write)
    close = staticmethod(os.close)
    stat = staticmethod(os.stat)
    lstat = staticmethod(os.lstat)
    fstat = staticmethod(os.fstat)
    statvfs = staticmethod(os.statvfs)
    listdir = staticmethod(os.listdir)
    readlink = staticmethod(os.readlink)
    symlink = staticmethod(os.symlink)
    mkdir = staticmethod(os.mkdir)
    rmdir = staticmethod(os.rmdir)
    unlink = staticmethod(os.unlink)
    rename = staticmethod(os.rename)
    urandom = staticmethod(os.urandom)
    getpid = staticmethod(os.getpid)
    getuid = staticmethod(os.getuid)
    geteuid = staticmethod(os.geteuid)
    getegid = staticmethod(os.getegid)
    waitid = staticmethod(os.waitid)
    poll = staticmethod(select.poll)
    monotonic_ns = staticmethod(time.monotonic_ns)
    time = staticmethod(time.time)


def read_file(path: str) -> bytes:
    """Read all of `path`."""
    descriptor = original.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := original.read(descriptor, 1 << 20):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        original.close(descriptor)


def read_text(path: str) -> str | None:
    """Read a line or two of /proc, or None if it is not there or not ours to read."""
    try:
        return read_file(path).decode("utf-8", "replace").strip()
    except OSError:
        return None


def write_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Make or empty `path` and write `data`. `mode` counts only for a new file, less the umask."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = original.open(path, flags, mode)
    try:
        write_all(descriptor, data)
    finally:
        original.close(descriptor)


def write_proc(path: str, data: str) -> None:
    """Write a file of /proc: one write, since the kernel takes the value of each call."""
    descriptor = original.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        original.write(descriptor, data.encode())
    finally:
        original.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[original.write(descriptor, view) :]


def exists(path: str) -> bool:
    """Tell whether `path` leads to something (a dangling symlink does not)."""
    try:
        original.stat(path)
    except OSError:
        return False
    return True


def real_path(path: str) -> str:
    """Follow every symlink of `path`, whose end need not exist, as os.path.realpath does."""
    head, seen = "/", 0
    rest = [part for part in reversed(_absolute(path).split("/")) if part]
    while rest:
        part = rest.pop()
        if part in {".", ".."}:
            head = head.rpartition("/")[0] or "/" if part == ".." else head
            continue
        step = f"{head.rstrip('/')}/{part}"
        link = _link(step)
        if link is None:
            head = step
            continue
        seen += 1
        if seen > 40:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        head = "/" if link.startswith("/") else head
        rest += [piece for piece in reversed(link.split("/")) if piece]
    return head


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"{os.getcwd()}/{path}"


def _link(path: str) -> str | None:
    try:
        return original.readlink(path)
    except OSError:
        return None
