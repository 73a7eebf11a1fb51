"""multiprocessing's fork server must not outlive the test that started it.

1. Processes are its children and live where it does: in the namespace of the test in which it was
   started. In a later test they would be counted for the earlier one, and meet none of its servers.
   So it is ended with its test; multiprocessing starts another when it needs one.
2. One that wider fixtures have started lives in the session's namespace, and stays: the session
   knows. So does one that has running children, who would be lost to their parent.
3. It is left unreaped: multiprocessing waits for it, and only that tells it to start another.

Nothing of this is public in multiprocessing: where it looks different, nothing is done. Proved by
tests/plugin/test_processes.py.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

_kill, _waitid = os.kill, os.waitid
_END = os.WEXITED | os.WNOWAIT


def pid() -> int:
    """Return the fork server's process, 0 when there is none."""
    module: Any = sys.modules.get("multiprocessing.forkserver")
    server = getattr(module, "_forkserver", None)
    return getattr(server, "_forkserver_pid", 0) or 0


def end(server: int) -> None:
    """End the fork server, unless it has children (rule 2)."""
    if _has_children():
        return
    try:
        _kill(server, signal.SIGKILL)
        _waitid(os.P_PID, server, _END)
    except OSError:
        pass  # it has ended by itself


def _has_children() -> bool:
    module: Any = sys.modules.get("multiprocessing.process")
    known = tuple(getattr(module, "_children", ()))
    started = [getattr(child, "_popen", None) for child in known]
    return any(p is not None and p.method == "forkserver" and p.poll() is None for p in started)
