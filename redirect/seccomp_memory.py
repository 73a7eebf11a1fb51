"""Looks into captured programs: reads and writes their memory, duplicates their sockets.

1. The kernel allows it to who may trace the program (ptrace(2)): the same user, a program that has
   not made itself undumpable, and what Yama says. CAP_SYS_PTRACE overrides all of these.
2. Yama's ptrace_scope 1 wants an ancestor: then one looks for us (seccomp_ancestor.py).
3. Podman's profile forbids process_vm_readv(2) and its like, and allows pidfd_getfd(2): memory is a
   file then (`FileMemory`), with the same rules. Docker's profile is the other way round.
4. What is read may be cut short where the program's memory ends. Whoever may not look gets
   PermissionError; a program that has ended is ProcessLookupError.

Kernel: process_vm_readv(2), pidfd_getfd(2). Tests: test_seccomp.py, test_seccomp_ancestor.py.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import seccomp_abi as abi

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_MOST = 1 << 20


class _Piece(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Memory(Protocol):
    """A way to look into programs. `thread` is any thread of one."""

    def read(self, thread: int, address: int, length: int) -> bytes:
        """Return up to `length` bytes. Raises OSError, EFAULT if there are none."""

    def write(self, thread: int, address: int, data: bytes) -> None:
        """Write all of `data`. Raises OSError."""

    def duplicate(self, process: int, descriptor: int) -> int:
        """Return our own descriptor of what `descriptor` is in `process`. Raises OSError."""


def unreadable(error: OSError) -> EnvironmentProblem:
    """Explain why programs cannot be looked into at all."""
    return EnvironmentProblem(
        f"seccomp: the engine may not look into the programs that it captures: {error.strerror}",
        cure="--cap-add SYS_PTRACE for the container; without one, run pytest as an ordinary user",
        slug="docs/redirectors.md#seccomp",
    )


class OwnMemory:
    """Looks by itself."""

    def read(self, thread: int, address: int, length: int) -> bytes:
        length = min(length, _MOST)
        buffer = ctypes.create_string_buffer(length)
        moved = _transfer(_libc.process_vm_readv, thread, address, buffer, length)
        return buffer.raw[:moved]

    def write(self, thread: int, address: int, data: bytes) -> None:
        buffer = ctypes.create_string_buffer(data, len(data))
        _transfer(_libc.process_vm_writev, thread, address, buffer, len(data))

    def duplicate(self, process: int, descriptor: int) -> int:
        machine = abi.machine()
        pidfd = _call(machine.pidfd_open, process, 0)
        try:
            return _call(machine.pidfd_getfd, pidfd, descriptor, 0)
        finally:
            os.close(pidfd)


class FileMemory(OwnMemory):
    """Looks by itself, into /proc/PID/mem."""

    def read(self, thread: int, address: int, length: int) -> bytes:
        with _memory_of(thread, os.O_RDONLY) as file:
            return os.pread(file.fileno(), min(length, _MOST), address)

    def write(self, thread: int, address: int, data: bytes) -> None:
        with _memory_of(thread, os.O_RDWR) as file:
            os.pwrite(file.fileno(), data, address)


def own_memory() -> OwnMemory:
    """Return the way to look that is allowed here."""
    known = ctypes.create_string_buffer(1)
    try:
        OwnMemory().read(os.getpid(), ctypes.addressof(known), 1)
    except OSError:
        return FileMemory()
    return OwnMemory()


@contextmanager
def _memory_of(thread: int, flags: int) -> Iterator[BinaryIO]:
    """Open a thread's memory; what is not there is EFAULT, as for process_vm_readv(2)."""
    try:
        descriptor = os.open(f"/proc/{thread}/mem", flags | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            yield file
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
    except OverflowError:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT)) from None
    except OSError as error:
        if error.errno == errno.EIO:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT)) from None
        raise


def _transfer(
    function: ctypes._NamedFuncPointer,
    thread: int,
    address: int,
    buffer: ctypes.Array[ctypes.c_char],
    length: int,
) -> int:
    if not length:
        return 0
    ours, theirs = _Piece(ctypes.addressof(buffer), length), _Piece(address, length)
    moved: int = function(thread, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
    if moved < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return moved


def _call(number: int, *arguments: int) -> int:
    result: int = _syscall(*map(ctypes.c_long, (number, *arguments)))
    if result < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
    return result
