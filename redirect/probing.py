"""Finds out whether tproxy works here, by trying it in a namespace that nobody sees.

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
from pytest_netcapture.redirect.base import Support

NAME = "tproxy"
_TIMEOUT = 30
_NO_GATE = (
    "no connect gate (the kernel lacks nft_queue, and nft_compat or xt_NFQUEUE): a connection is "
    "accepted before its server is dialled, so a closed port looks open until the first read"
)
_NO_IPV6 = "no IPv6 in this kernel: only IPv4 is captured"


def probe() -> Support:
    """Try everything that `attach` does. Takes 5 ms after the imports, 0.3 s without privilege."""
    try:
        return _try_in_thread() or _try_in_child()
    except Exception as error:
        return Support(NAME, available=False, reason=f"the probe failed: {error!r}")


def _try_in_thread() -> Support | None:
    """Return None when this thread may not unshare."""
    found: list[Support | None] = []

    def body() -> None:
        found.append(_try_here() if _unshare(k.CLONE_NEWNET) == 0 else None)

    thread = threading.Thread(target=body, name="netcapture-probe", daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    if not found:
        return Support(NAME, available=False, reason=f"the probe took more than {_TIMEOUT} s")
    return found[0]


def _try_in_child() -> Support:
    import json
    import subprocess
    import sys

    command = [
        sys.executable,
        "-c",
        "from pytest_netcapture.redirect.probing import child; child()",
    ]
    done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False)
    try:
        told = json.loads(done.stdout)
    except ValueError:
        tail = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return Support(NAME, available=False, reason=f"the probe's process failed: {tail}")
    return Support(**{**told, "notes": tuple(told["notes"])})


def child() -> None:
    """Enter new user and network namespaces, try, and print the result as JSON."""
    import json

    number = _unshare(k.CLONE_NEWUSER | k.CLONE_NEWNET)
    if number:
        support = Support(
            NAME,
            available=False,
            reason=f"no user and network namespace for this user: {os.strerror(number)}",
            cure="see `netcapture doctor` on namespaces",
        )
    else:
        support = _try_here()
    print(json.dumps(asdict(support)))


def _try_here() -> Support:
    """Attach in the calling thread's namespace."""
    from pytest_netcapture.redirect import tproxy

    class Here:
        id = 0

        @staticmethod
        def run(function):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
            return function()

    redirector = tproxy.TproxyRedirector()
    try:
        redirector.attach(Here())
    except EnvironmentProblem as problem:
        return Support(NAME, available=False, reason=problem.message, cure=problem.cure)
    except Exception as error:
        return Support(NAME, available=False, reason=f"attaching failed: {error!r}")
    finally:
        redirector.stop()
    notes = () if redirector.gates else (_NO_GATE,)
    return Support(NAME, available=True, notes=notes)


def _unshare(flags: int) -> int:
    """Return 0, or the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.unshare(flags) else 0
