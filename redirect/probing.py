"""Finds out whether tproxy or tun works here, by trying it in a namespace that nobody sees.

1. Never raises and changes nothing: the namespace goes with the thread or process that made it. The
   kernel may load modules on the way, as it would for the real thing.
2. With the privilege (the engine, root) a thread unshares. Without it a child process does, since a
   user namespace takes a process with one thread.

Tests: test_probing.py.
"""

from __future__ import annotations

import ctypes
import os
import threading
from dataclasses import asdict

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect.base import Redirector, Support

NAME = "tproxy"
_TIMEOUT = 30
_NO_GATE = (
    "no connect gate (the kernel lacks nft_queue, and nft_compat or xt_NFQUEUE): a connection is "
    "accepted before its server is dialled, so a closed port looks open until the first read"
)
_NO_IPV6 = "no IPv6 in this kernel: only IPv4 is captured"


def probe() -> Support:
    """Try everything that `attach` does. Takes 5 ms after the imports, 0.3 s without privilege."""
    return try_out(NAME)


def try_out(name: str) -> Support:
    """Try the redirector of that name."""
    try:
        return _try_in_thread(name) or _try_in_child(name)
    except Exception as error:
        return Support(name, available=False, reason=f"the probe failed: {error!r}")


def _try_in_thread(name: str) -> Support | None:
    """Return None when this thread may not unshare."""
    found: list[Support | None] = []

    def body() -> None:
        found.append(_try_here(name) if _unshare(k.CLONE_NEWNET) == 0 else None)

    thread = threading.Thread(target=body, name="netcapture-probe", daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    if not found:
        return Support(name, available=False, reason=f"the probe took more than {_TIMEOUT} s")
    return found[0]


def _try_in_child(name: str) -> Support:
    import json
    import subprocess
    import sys

    command = [
        sys.executable,
        "-c",
        f"from pytest_netcapture.redirect.probing import child; child({name!r})",
    ]
    done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False)
    try:
        told = json.loads(done.stdout)
    except ValueError:
        tail = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return Support(name, available=False, reason=f"the probe's process failed: {tail}")
    return Support(**{**told, "notes": tuple(told["notes"])})


def child(name: str) -> None:
    """Enter new user and network namespaces, try, and print the result as JSON."""
    import json

    number = _unshare(k.CLONE_NEWUSER | k.CLONE_NEWNET)
    if number:
        support = Support(
            name,
            available=False,
            reason=f"no user and network namespace for this user: {os.strerror(number)}",
            cure="see `netcapture doctor` on namespaces",
        )
    else:
        support = _try_here(name)
    print(json.dumps(asdict(support)))


def _try_here(name: str) -> Support:
    """Attach in the calling thread's namespace."""

    class Here:
        id = 0

        @staticmethod
        def run(function):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
            return function()

    try:
        redirector = make(name)
    except EnvironmentProblem as problem:
        return Support(name, available=False, reason=problem.message, cure=problem.cure)
    try:
        redirector.attach(Here())
    except EnvironmentProblem as problem:
        return Support(name, available=False, reason=problem.message, cure=problem.cure)
    except Exception as error:
        return Support(name, available=False, reason=f"attaching failed: {error!r}")
    finally:
        redirector.stop()
    notes = () if redirector.gates else (_NO_GATE,)
    return Support(name, available=True, notes=notes)


def make(name: str) -> Redirector:
    """Return a redirector that works in namespaces. Raises `EnvironmentProblem`."""
    if name == NAME:
        from pytest_netcapture.redirect.tproxy import TproxyRedirector

        return TproxyRedirector()
    from pytest_netcapture.redirect.tun import TunRedirector

    return TunRedirector()


def _unshare(flags: int) -> int:
    """Return 0, or the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.unshare(flags) else 0
