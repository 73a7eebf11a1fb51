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
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from pytest_netcapture.chaos import waiting

SIGNAL = signal.SIGRTMAX - 2
_QUIET, _QUIET_OF_SLOW = 0.15, 0.8
_MOST_TIMEOUTS = 10
_STEP = 0.03
_AGAIN = 0.2
_OURS = "pytest_netcapture.channel"
_monotonic, _sleep = time.monotonic, time.sleep


class Hung(BaseException):
    """Ends a test of a chaos run that hangs; no `except Exception` catches it."""


class Watch:
    """What is watched of one run of a test. `shortened`: seconds that were not waited."""

    def __init__(
        self, limit: float, *, silent: bool, struck: Callable[[], int], work: Callable[[], bool]
    ) -> None:
        """`silent`: the server never answers. `work` tells whether too much has been done.

        `struck` asks the engine how often the fault has struck: a slow engine is no server that
        hangs.
        """
        self.limit = limit
        self.silent = silent
        self.struck = struck
        self.work = work
        self.hung = ""
        """Why the test was stopped."""
        self.shortened: list[float] = []


class Watcher:
    """The thread that watches; made in the main thread, outside of any test, for the whole run.

    A thread of a test's own would have the engine look for what it has left.
    """

    def __init__(self) -> None:
        self._main = threading.main_thread()
        self._lock = threading.Lock()
        self._due = threading.Event()
        self._watch: Watch | None = None
        self._raise: BaseException | None = None
        threading.Thread(target=self._run, name="netcapture-chaos", daemon=True).start()

    @contextlib.contextmanager
    def watching(self, watch: Watch) -> Iterator[None]:
        """Watch what the main thread does meanwhile."""
        before = signal.signal(SIGNAL, self._interrupted)
        self._watch = watch
        self._due.set()
        try:
            yield
        finally:
            with self._lock:
                self._watch = self._raise = None
                self._due.clear()
            signal.signal(SIGNAL, before)

    def _interrupted(self, _number: int, frame: FrameType | None) -> None:
        error, self._raise = self._raise, None
        while frame is not None:
            if frame.f_globals.get("__name__") == _OURS:
                return  # said again soon
            frame = frame.f_back
        if error is not None:
            raise error

    def _send(self, watch: Watch, error: BaseException) -> None:
        with self._lock:
            if self._watch is watch:
                self._raise = error
                signal.pthread_kill(self._main.ident or 0, SIGNAL)

    def _run(self) -> None:
        while True:
            self._due.wait()
            if (watch := self._watch) is not None:
                self._look(watch)

    def _look(self, watch: Watch) -> None:
        started = quiet_since = _monotonic()
        own = threading.get_native_id()
        last: dict[int, waiting.Wait] | None = None
        while self._watch is watch:
            _sleep(_AGAIN if watch.hung else _STEP)
            now = _monotonic()
            if watch.hung:
                self._send(watch, Hung(watch.hung))
                continue
            waits = waiting.of_all(own)
            if watch.work():
                self._stop(watch, "it asked again and again: are its retries limited?")
            elif now - started > watch.limit:
                self._stop(watch, f"it still {_doing(waits)} after {watch.limit:g} s")
            elif waits is None or waits != last:
                last, quiet_since = waits, now
            elif now - quiet_since >= (_QUIET if watch.silent else _QUIET_OF_SLOW):
                self._quiet(watch, waits)
                quiet_since = now

    def _quiet(self, watch: Watch, waits: dict[int, waiting.Wait]) -> None:
        """Act on a test of which no thread has run for a while."""
        struck = watch.struck()
        if waiting.of_all(threading.get_native_id()) != waits:
            return
        if watch.silent and struck <= len(watch.shortened):
            return
        longest = max((w.seconds for w in waits.values() if w.seconds < math.inf), default=math.inf)
        if longest == math.inf:
            self._stop(watch, "it waited without a time-out")
            return
        if not watch.silent:
            return
        if len(watch.shortened) >= _MOST_TIMEOUTS:
            self._stop(watch, f"it timed out {_MOST_TIMEOUTS} times: are its retries limited?")
            return
        main = waits.get(self._main.native_id or 0)
        if main is None or main.seconds == math.inf:
            return
        if waiting.on_socket(main):
            watch.shortened.append(main.seconds)
            self._send(watch, TimeoutError("timed out"))
        elif main.call.startswith("epoll") and (loop := _loop_of(self._main.ident or 0)):
            watch.shortened.append(main.seconds)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_next_timer_now, loop)

    def _stop(self, watch: Watch, why: str) -> None:
        watch.hung = why
        self._send(watch, Hung(why))


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
