"""The system calls that the standard library lacks, through ctypes. Each raises OSError.

1. Thin: arguments as the manual page has them, no policy. What a failure means is said elsewhere.
2. `unshare`, `setns`, `capset` and `prctl` act on the calling thread only.
3. ctypes releases the GIL during a call and keeps errno per thread, so any thread may call.
"""

from __future__ import annotations

import ctypes
import os

from pytest_netcapture.sandbox import kernel

_libc = ctypes.CDLL(None, use_errno=True)
_errno = ctypes.get_errno
_buffer = ctypes.create_string_buffer

_text = ctypes.c_char_p
_word = ctypes.c_ulong
_libc.mount.argtypes = (_text, _text, _text, _word, _text)
_libc.umount2.argtypes = (_text, ctypes.c_int)
_libc.prctl.argtypes = (ctypes.c_int, _word, _word, _word, _word)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.capget.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
_libc.capset.argtypes = (ctypes.c_void_p, ctypes.c_void_p)

_unshare, _setns, _mount, _umount2 = _libc.unshare, _libc.setns, _libc.mount, _libc.umount2
_prctl, _capget, _capset, _syscall = _libc.prctl, _libc.capget, _libc.capset, _libc.syscall
_syscall.restype = ctypes.c_long


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces."""
    _check(_unshare(flags))


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread into the namespace of `descriptor`."""
    _check(_setns(descriptor, kind))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount. Empty strings stand for NULL."""
    _check(_mount(_name(source), _name(target), _name(kind), flags, _name(data)), target)


def umount(target: str, flags: int = 0) -> None:
    _check(_umount2(_name(target), flags), target)


def prctl(option: int, first: int = 0, second: int = 0) -> int:
    """Call prctl and return its value."""
    value: int = _prctl(option, first, second, 0, 0)
    _check(-1 if value < 0 else 0)
    return value


def pidfd_open(pid: int) -> int:
    """Open a close-on-exec descriptor of a process (`os` lacks it where built with old headers)."""
    descriptor: int = _syscall(_word(kernel.SYS_PIDFD_OPEN), _word(pid), _word(0))
    _check(-1 if descriptor < 0 else 0)
    return descriptor


def pidfd_send_signal(descriptor: int, number: int) -> None:
    arguments = (kernel.SYS_PIDFD_SEND_SIGNAL, descriptor, number, 0, 0)
    _check(_syscall(*map(_word, arguments)))


def capget() -> tuple[int, int, int]:
    """Return the calling thread's effective, permitted and inheritable sets as bit masks."""
    data = _buffer(kernel.CAPABILITY_DATA.size)
    _check(_capget(_capability_header(), data))
    low_e, low_p, low_i, high_e, high_p, high_i = kernel.CAPABILITY_DATA.unpack(data.raw)
    return low_e | high_e << 32, low_p | high_p << 32, low_i | high_i << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the calling thread's three sets."""
    low, high = (1 << 32) - 1, 32
    sets = (effective, permitted, inheritable)
    words = [mask & low for mask in sets] + [mask >> high for mask in sets]
    _check(_capset(_capability_header(), kernel.CAPABILITY_DATA.pack(*words)))


def _capability_header() -> ctypes.Array[ctypes.c_char]:
    # The kernel writes its preferred version into the header, so each call has its own.
    header = kernel.CAPABILITY_HEADER.pack(kernel.CAPABILITY_VERSION_3, 0)
    return _buffer(header, len(header))


def _name(text: str) -> bytes | None:
    return os.fsencode(text) if text else None


def _check(result: int, path: str | None = None) -> None:
    if result:
        number = _errno()
        raise OSError(number, os.strerror(number), path)
