"""Keeps a test that is struck from hanging, and spares it the waiting.

1. A thread looks every few hundredths of a second for what all threads of the test wait. When none
   has run for a moment, and none waits for a limited time, the test would hang for ever:
   it is stopped. What is stopped sees `Hung` in its main thread, and its connections reset.
2. Where the server never answers, a main thread that waits for one socket for a limited time gets
   its `TimeoutError` at once, where it waits: a signal's handler raises it, as `socket` itself
   would later. An asyncio event loop that waits has its next timer come early. Other waits take
   their time.
3. After `limit` seconds the test is stopped, whatever it does; and before, if it does too much.
4. Nothing is raised within the plugin's own talk with its engine.

Proved by tests/plugin/test_chaos.py.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from pytest_netcapture.chaos import waiting

SIGNAL = signal.SIGRTMAX - 2
_QUIET, _QUIET_OF_SLOW = 0.15, 0.8
_MOST_TIMEOUTS = 10
_STEP = 0.03
_AGAIN = 0.2
_OURS = "pytest_netcapture.channel"
_monotonic, _wait = time.monotonic, threading.Event.wait


class Hung(BaseException):
    """Ends a test of a chaos run that hangs; no `except Exception` catches it."""


class Watch:
    """Watches one run of a test: a context manager of its main thread."""

    def __init__(self, limit: float, *, silent: bool, work: Callable[[], bool]) -> None:
        """`silent`: the server never answers. `work` tells whether too much has been done."""
        self._limit = limit
        self._silent = silent
        self._work = work
        self._main = threading.main_thread()
        self._done = threading.Event()
        self._raise: BaseException | None = None
        self.hung = ""
        """Why the test was stopped."""
        self.shortened: list[float] = []
        """Seconds of waiting that were not waited."""

    def __enter__(self) -> None:
        self._before = signal.signal(SIGNAL, self._interrupted)
        self._thread = threading.Thread(target=self._look, name="netcapture-chaos", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._raise = None
        self._thread.join()
        signal.signal(SIGNAL, self._before)

    def _interrupted(self, _number: int, frame: FrameType | None) -> None:
        error, self._raise = self._raise, None
        if error is None or self._done.is_set():
            return
        while frame is not None:
            if frame.f_globals.get("__name__") == _OURS:
                return  # said again soon
            frame = frame.f_back
        raise error

    def _send(self, error: BaseException) -> None:
        self._raise = error
        with contextlib.suppress(ProcessLookupError):
            signal.pthread_kill(self._main.ident or 0, SIGNAL)

    def _look(self) -> None:
        started = quiet_since = _monotonic()
        own = threading.get_native_id()
        last: dict[int, waiting.Wait] | None = None
        while not _wait(self._done, _AGAIN if self.hung else _STEP):
            now = _monotonic()
            if self.hung:
                self._send(Hung(self.hung))
                continue
            waits = waiting.of_all(own)
            if self._work():
                self._stop("it asked again and again: are its retries limited?")
                continue
            if now - started > self._limit:
                self._stop(f"it still {_doing(waits)} after {self._limit:g} s")
                continue
            if waits is None or waits != last:
                last, quiet_since = waits, now
            elif now - quiet_since >= (_QUIET if self._silent else _QUIET_OF_SLOW):
                self._quiet(waits)
                quiet_since = now

    def _quiet(self, waits: dict[int, waiting.Wait]) -> None:
        """Act on a test of which no thread has run for a while."""
        longest = max((w.seconds for w in waits.values() if w.seconds < math.inf), default=math.inf)
        if longest == math.inf:
            self._stop("it waited without a time-out")
            return
        if not self._silent:
            return
        if len(self.shortened) >= _MOST_TIMEOUTS:
            self._stop(f"it timed out {_MOST_TIMEOUTS} times: are its retries limited?")
            return
        main = waits.get(self._main.native_id or 0)
        if main is None or main.seconds == math.inf:
            return
        if waiting.on_socket(main):
            self.shortened.append(main.seconds)
            self._send(TimeoutError("timed out"))
        elif main.call.startswith("epoll") and (loop := _loop_of(self._main.ident or 0)):
            self.shortened.append(main.seconds)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_next_timer_now, loop)

    def _stop(self, why: str) -> None:
        self.hung = why
        self._send(Hung(why))


def _doing(waits: dict[int, waiting.Wait] | None) -> str:
    limited = [wait.seconds for wait in (waits or {}).values() if wait.seconds < math.inf]
    return f"waited, for up to {max(limited):.3g} s," if limited else "ran"


def _loop_of(thread: int) -> Any:
    """Return the asyncio event loop that a thread runs, if it is Python's own."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_name == "_run_once" and "self" in frame.f_locals:
            loop = frame.f_locals["self"]
            return loop if hasattr(loop, "_scheduled") else None
        frame = frame.f_back
    return None


def _next_timer_now(loop: Any) -> None:
    """Let the timer that is due next be due; it is the first of the loop's heap."""
    scheduled = [handle for handle in loop._scheduled if not handle.cancelled()]
    if scheduled:
        first = min(scheduled, key=lambda handle: handle.when())
        first._when = min(first._when, loop.time())
        import heapq

        heapq.heapify(loop._scheduled)
