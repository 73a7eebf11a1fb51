"""The engine's process is started first, and its options follow: both sides import meanwhile.

1. The ground is prepared before, since the engine belongs into its user namespace, while the
   process has one thread; what is private to tests (mounts) comes after.
2. Nothing here may import what it can do without: session.py and all that it needs come later.
3. Options that never come end the engine: it reads them to the end, and finds none.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import sys
from dataclasses import dataclass

from pytest_netcapture import grounds
from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox.runtime import RuntimeDirectory, sweep_stale

_BOOT = (
    "import os, sys; os.fork() and os._exit(0); sys.path[:] = {path!r}; "
    "from pytest_netcapture.engine.main import main; main()"
)


@dataclass
class Launched:
    """An engine that waits for its options, and what it has inherited."""

    ground: grounds.Ground
    runtime: RuntimeDirectory
    control: socket.socket
    control_fd: int
    page_fd: int
    log: str
    _options: int
    _process: subprocess.Popen[bytes]

    def tell(self, options: bytes) -> None:
        """Send the options. An engine that is gone says so on the control channel."""
        with contextlib.suppress(BrokenPipeError), open(self._options, "wb") as pipe:
            pipe.write(options)

    def reap(self) -> None:
        """Wait for what the engine has forked from, so that no test meets a child of ours."""
        self._process.wait()


def launch(redirector: str) -> Launched:
    """Enter the sandbox and start an engine there. Raises `EnvironmentProblem` with the cure."""
    ground = grounds.choose(redirector)
    try:
        return launch_on(ground)
    except EnvironmentProblem as refused:
        return launch_on(grounds.instead(refused, redirector, ground))


def launch_on(ground: grounds.Ground) -> Launched:
    """Start an engine for a ground that is prepared. Raises `EnvironmentProblem`."""
    sweep_stale()
    with contextlib.ExitStack() as made:  # undone unless all of it is
        runtime = RuntimeDirectory.create()
        made.callback(runtime.remove)
        page = create_page()
        made.callback(os.close, page)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        made.enter_context(contextlib.closing(ours))
        # A pipe: options hold secrets, and command lines are public.
        reading, writing = os.pipe()
        made.callback(os.close, writing)
        log = os.path.join(runtime.path, "engine.log")
        with contextlib.closing(theirs), open(reading, "rb") as stdin, ground.spawning():
            number = theirs.fileno()
            process = _spawn((number, page, *ground.descriptors), stdin.fileno(), log)
            made.callback(process.wait)
        made.pop_all()
    return Launched(ground, runtime, ours, number, page, log, writing, process)


def create_page() -> int:
    """Return the descriptor of a new shared page (memfd_create(2), messages.Page)."""
    page = os.memfd_create("netcapture-page", os.MFD_CLOEXEC)
    os.ftruncate(page, mmap.PAGESIZE)
    return page


def _spawn(descriptors: tuple[int, ...], stdin: int, log: str) -> subprocess.Popen[bytes]:
    """Start the engine with no more of our environment than it needs.

    Its module path is ours but for the working directory, whose modules could shadow its own.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    here = os.getcwd()
    path = [p for p in sys.path if (p and os.path.abspath(p) != here) or p == package]
    if package not in path:
        path.append(package)
    with open(log, "wb") as stderr:
        # The engine forks and its parent exits: a test that waits for any child never meets it.
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BOOT.format(path=path)],
            pass_fds=descriptors,
            stdin=stdin,
            stdout=stderr,
            stderr=stderr,
            cwd="/",
        )
