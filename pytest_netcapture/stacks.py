"""Which Python line connected: a note of the stack at every connect, by socket inode.

The audit hook for that also takes the signs of unanswered.py.

1. One audit hook a process, added once. It cannot be removed (PEP 578): `enable(False)` leaves one
   look into an empty set. It never raises, never reads a file, and keeps no frame: only code
   objects and instruction offsets, which become lines when somebody asks.
2. Notes live in a ring: the newest `KEPT` are found again, innermost `DEEPEST` frames each,
   up to the test or fixture. Datagrams in a row from one socket are noted once.
3. A forked child starts with an empty ring. A socket's inode names one socket for the machine's
   uptime, so a note cannot be taken for another socket's.
4. What fires no audit event in the user's stack is not found: uvloop, libraries in C, other
   programs, asyncio's getaddrinfo (it runs in a thread, which has a stack of its own).
5. Functions that tests patch (`os.fstat`) are taken when this module is imported.

Proved by tests/test_stacks.py.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any

import msgspec

from pytest_netcapture.unanswered import PROCESSES, signs

KEPT = 2048
DEEPEST = 40

_DATAGRAMS = frozenset({"socket.sendto", "socket.sendmsg"})
_NAMED = frozenset({"socket.getaddrinfo", "socket.gethostbyname"})
_WATCHED = frozenset({"socket.connect"}) | _DATAGRAMS | _NAMED | PROCESSES
_OUTERMOST = frozenset({"pytest_pyfunc_call", "call_fixture_func"})
"""pytest's functions that call a test or a fixture: nothing outside of them is the user's."""


class Frame(msgspec.Struct, frozen=True):
    """One call: the line that was running."""

    file: str
    line: int
    function: str

    @property
    def source(self) -> str:
        """Return the line's text, "" when it cannot be read."""
        import linecache

        return linecache.getline(self.file, self.line).strip()

    def place(self, rootdir: str = "") -> str:
        """Return `tests/test_x.py:12`, relative to `rootdir` when it is inside."""
        root = rootdir.rstrip("/\\") + os.sep
        inside = bool(rootdir) and self.file.startswith(root)
        return f"{self.file[len(root) :] if inside else self.file}:{self.line}"


class _Notes:
    """The ring, and whether anything is noted."""

    def __init__(self) -> None:
        self.watched: frozenset[str] = frozenset()
        self.installed = False
        self.ring: deque[tuple[int | str, list[Any]]] = deque(maxlen=KEPT)


_notes = _Notes()


def install() -> None:
    """Note stacks from now on. More calls change nothing."""
    enable(True)
    if _notes.installed:
        return
    _notes.installed = True
    os.register_at_fork(after_in_child=_forget)
    sys.addaudithook(_audit)


def enable(on: bool) -> None:
    """Turn noting off, or on again."""
    _notes.watched = _WATCHED if on else frozenset()


def stack_for(inode: int) -> list[Frame]:
    """Return the stack that last connected, or sent from, a socket, outermost first."""
    return _find(inode) if inode else []


def stack_for_name(name: str) -> list[Frame]:
    """Return the stack that last asked for a host name, outermost first; or nothing."""
    return _find(name.lower().rstrip("."))


def relevant(frames: Iterable[Frame], rootdir: str = "") -> list[Frame]:
    """Return the user's own frames: no library's, no stdlib's, none of pytest's or of ours.

    Frames under `rootdir` are the user's, unless they are in an environment that lies there; when
    there are such frames, those outside of it are left out.
    """
    own = [frame for frame in frames if not _is_foreign(frame.file)]
    root = rootdir.rstrip("/\\") + os.sep
    inside = [frame for frame in own if rootdir and frame.file.startswith(root)]
    return inside or own


def _audit(event: str, args: tuple[Any, ...], notes: _Notes = _notes) -> None:
    if event in notes.watched:
        _note(event, args)


def _note(
    event: str,
    args: tuple[Any, ...],
    fstat: Callable[[int], os.stat_result] = os.fstat,
) -> None:
    try:
        key: int | str
        ring = _notes.ring
        if event in PROCESSES:
            signs.starts()
            return
        if event in _NAMED:
            host = args[0]
            if not host:
                return
            key = (host if isinstance(host, str) else bytes(host).decode("ascii")).lower()
        elif type(args[1]) is tuple:
            key = fstat(args[0].fileno()).st_ino
            if event not in _DATAGRAMS:
                signs.connects(args[0], args[1], key)
            else:
                signs.sends(args[1], key)
                if ring and ring[-1][0] == key:
                    return
        else:
            return
        ring.append((key, _trace(sys._getframe(2))))
    except Exception:  # noqa: S110 - a socket of another make; no note is worth a failed connect
        pass


def _trace(frame: FrameType) -> list[Any]:
    """Return code, offset, code, offset, ..., innermost first; some 0.1 to 0.2 µs a frame."""
    trace: list[Any] = []
    add = trace.append
    for _ in range(DEEPEST):
        code = frame.f_code
        if code.co_name in _OUTERMOST:
            break
        add(code)
        add(frame.f_lasti)
        outer = frame.f_back
        if outer is None:
            break
        frame = outer
    return trace


def _find(key: int | str) -> list[Frame]:
    for noted, trace in reversed(list(_notes.ring)):
        if (noted.rstrip(".") if isinstance(noted, str) else noted) == key:
            calls = zip(trace[::2], trace[1::2], strict=True)
            frames = [Frame(code.co_filename, _line(code, at), code.co_name) for code, at in calls]
            return frames[::-1]
    return []


def _line(code: CodeType, offset: int) -> int:
    for start, end, line in code.co_lines():
        if start <= offset < end and line:
            return line
    return code.co_firstlineno


def _forget() -> None:
    _notes.ring = deque(maxlen=KEPT)


def _is_foreign(file: str) -> bool:
    if file.startswith("<"):
        return True
    file = file.replace("\\", "/")
    if "/site-packages/" in file or "/dist-packages/" in file:
        return True
    return file.startswith(_foreign_roots())


def _foreign_roots() -> tuple[str, ...]:
    import sysconfig

    paths = sysconfig.get_paths()
    here = os.path.dirname(os.path.abspath(__file__))
    roots = {paths["stdlib"], paths["platstdlib"], os.path.dirname(os.__file__), here}
    return tuple(root.replace("\\", "/").rstrip("/") + "/" for root in roots if root)
