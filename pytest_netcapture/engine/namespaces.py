"""The engine's network namespaces: one thread hops between them, a pool is made ahead.

1. A thread that left the host's network cannot go back when we are not root, so the event loop's
   thread never leaves; `Hopper` owns the one thread that does (setns(2), user_namespaces(7)).
2. A namespace is given to a test, then reused when nothing of that test is left in it; otherwise it
   lingers, so that late traffic still has an owner, and is looked at again later.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from pytest_netcapture.redirect.base import Redirector
from pytest_netcapture.sandbox import namespaces, processes

T = TypeVar("T")


class Hopper:
    """A thread that runs functions inside namespaces."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[int, Callable[[], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._loop, name="netcapture-hopper", daemon=True)
        self._thread.start()

    def submit(self, fd: int, function: Callable[[], T]) -> Future[T]:
        """Run `function` in the namespace of `fd` (-1: wherever the thread is)."""
        future: Future[T] = Future()
        self._jobs.put((fd, function, future))
        return future

    def run(self, fd: int, function: Callable[[], T]) -> T:
        if threading.current_thread() is self._thread:
            self._enter(fd)
            return function()
        return self.submit(fd, function).result()

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join(2)

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            fd, function, future = job
            try:
                self._enter(fd)
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

    @staticmethod
    def _enter(fd: int) -> None:
        if fd >= 0:
            namespaces.enter_network(fd)


class EngineNamespace:
    """A network namespace: `id` for messages, `fd` keeps it alive, `inode` names it in /proc."""

    def __init__(self, identity: int, fd: int, hopper: Hopper) -> None:
        self.id = identity
        self.fd = fd
        self.inode = os.fstat(fd).st_ino
        self._hopper = hopper

    def run(self, function: Callable[[], T]) -> T:
        return self._hopper.run(self.fd, function)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)


class Pool:
    """Namespaces that a redirector is attached to, made ahead of need."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, hopper: Hopper, redirector: Redirector, size: int = 3
    ) -> None:
        self._loop = loop
        self._hopper = hopper
        self._redirector = redirector
        self._size = size
        self._next = 1
        self._free: list[EngineNamespace] = []
        self._making = 0
        self._waiting: list[asyncio.Future[EngineNamespace]] = []
        self.all: dict[int, EngineNamespace] = {}

    async def make(self) -> EngineNamespace:
        """Make, configure and watch one namespace."""
        identity, self._next = self._next, self._next + 1
        namespace = await asyncio.wrap_future(
            self._hopper.submit(-1, lambda: self._build(identity))
        )
        self.all[namespace.id] = namespace
        self._redirector.watch(namespace)
        return namespace

    def take(self) -> EngineNamespace | None:
        """Return a free namespace at once, or None; either way keep the pool filled."""
        namespace = self._free.pop() if self._free else None
        self.fill()
        return namespace

    async def wait(self) -> EngineNamespace:
        future: asyncio.Future[EngineNamespace] = self._loop.create_future()
        self._waiting.append(future)
        self.fill()
        return await future

    def give_back(self, namespace: EngineNamespace) -> None:
        while self._waiting:
            waiting = self._waiting.pop(0)
            if not waiting.done():
                waiting.set_result(namespace)
                return
        self._free.append(namespace)

    def fill(self) -> None:
        """Start making namespaces until `size` are free or under way."""
        while len(self._free) + self._making < self._size + len(self._waiting):
            self._making += 1
            task = self._loop.create_task(self.make())
            task.add_done_callback(self._made)

    def retire(self, namespace: EngineNamespace) -> None:
        self.all.pop(namespace.id, None)
        if namespace in self._free:
            self._free.remove(namespace)
        self._redirector.detach(namespace)
        namespace.close()

    def is_empty(self, namespace: EngineNamespace) -> bool:
        """Tell whether no process is left in it. Looks at all of them: not on the loop's thread."""
        return not processes.processes_in({namespace.inode})

    def are_empty(self, namespaces: Iterable[EngineNamespace]) -> bool:
        """Tell whether no process is left in any of them: for one look at all processes."""
        return not processes.processes_in({namespace.inode for namespace in namespaces})

    def moved(self, tick: int, last_number: int, identity: int) -> None:
        """Learn where the test process is, if that cannot be seen."""

    def remember(self) -> None:
        """Note who is left, if that cannot be seen any more when the test process has ended."""

    def end_processes(self, spare: Iterable[int]) -> None:
        """End what the tests have left behind."""
        processes.end_in({namespace.inode for namespace in self.all.values()}, spare)

    def close(self) -> None:
        self._size = 0
        for namespace in list(self.all.values()):
            self.retire(namespace)

    def _build(self, identity: int) -> EngineNamespace:
        namespace = EngineNamespace(identity, namespaces.unshare_network(), self._hopper)
        try:
            self._redirector.attach(namespace)
        except BaseException:
            namespace.close()
            raise
        return namespace

    def _made(self, task: asyncio.Task[EngineNamespace]) -> None:
        self._making -= 1
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self.give_back(task.result())
        elif self._waiting:
            waiting = self._waiting.pop(0)
            if not waiting.done():
                waiting.set_exception(error)
