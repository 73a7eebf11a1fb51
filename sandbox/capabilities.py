"""What the captured process may do inside its own user namespace: almost nothing.

1. Entering a user namespace grants every capability over it. CAP_DAC_OVERRIDE alone would let a
   test read its own chmod-000 file, CAP_NET_RAW open raw sockets: so the process keeps
   CAP_SYS_ADMIN only, which `setns` wants. Proof: test_a_file_without_permissions_stays_unreadable,
   test_raw_sockets_stay_refused.
2. A program that it executes gets no capability: not root, no file capabilities, nothing ambient.
   Proof: test_a_child_program_has_no_capability.
3. The engine needs some at exec. They are made inheritable and ambient just around that exec
   (capabilities(7): P'(permitted) gains the ambient set) and taken back at once.
4. Real root is left as it is: nothing dropped, nothing raised; exec gives root its capabilities
   anyway.
5. All of this is per thread: call it on the thread that runs the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pytest_netcapture.sandbox import kernel
from pytest_netcapture.sandbox.kernel import CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN
from pytest_netcapture.sandbox.original import original
from pytest_netcapture.sandbox.syscalls import capget, capset, prctl

ENGINE = frozenset({CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW})
"""What the engine is executed with."""

TESTS = frozenset({CAP_SYS_ADMIN})
"""What the process that runs the tests keeps."""


def effective() -> set[int]:
    """Return the capabilities in force for the calling thread, as numbers (capability.h)."""
    mask = capget()[0]
    return {bit for bit in range(mask.bit_length()) if mask >> bit & 1}


def is_root() -> bool:
    """Tell whether exec would give capabilities by user id alone."""
    return original.geteuid() == 0


def keep_only(caps: Iterable[int]) -> None:
    """Reduce the calling thread to `caps`; what it does not hold is not gained. No-op as root."""
    if is_root():
        return
    mask = capget()[1] & _mask(caps)
    capset(mask, mask, 0)


def raise_ambient(caps: Iterable[int]) -> None:
    """Let programs executed from now on have `caps`, which must be permitted. No-op as root."""
    if is_root():
        return
    wanted = list(caps)
    now, permitted, inheritable = capget()
    capset(now, permitted, inheritable | _mask(wanted))
    for cap in wanted:
        prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_RAISE, cap)


def lower_ambient(caps: Iterable[int]) -> None:
    """Undo `raise_ambient`. No-op as root."""
    if is_root():
        return
    now, permitted, inheritable = capget()
    # The kernel removes from the ambient set whatever is no longer inheritable.
    capset(now, permitted, inheritable & ~_mask(caps))


@contextmanager
def ambient(caps: Iterable[int]) -> Iterator[None]:
    """Raise those of `caps` that are not ambient yet, and lower the same ones afterwards."""
    fresh = [] if is_root() else [cap for cap in caps if not _is_ambient(cap)]
    raise_ambient(fresh)
    try:
        yield
    finally:
        lower_ambient(fresh)


def _is_ambient(cap: int) -> bool:
    return prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_IS_SET, cap) == 1


def _mask(caps: Iterable[int]) -> int:
    mask = 0
    for cap in caps:
        mask |= 1 << cap
    return mask
