"""Run what enters namespaces in forked children, so that pytest itself never does."""

from __future__ import annotations

import os
import pathlib
import pickle
import select
import shutil
import signal
import stat
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

from pytest_netcapture.sandbox import kernel, namespaces, probe
from pytest_netcapture.sandbox.syscalls import prctl

ORDINARY_USER = 12345
"""An id without an account: what a container started with `--user` has."""

TIMEOUT_MS = 20_000


class ChildFailed(AssertionError):
    """The child's traceback, or that it said nothing."""


def run_in_child(function: Callable[[], Any], *, rootless: bool = True) -> Any:
    """Run `function` in a forked child, as an ordinary user if `rootless`; return its result."""
    if rootless and os.geteuid() == 0 and not _others_can_run(sys.executable):
        pytest.skip(f"an ordinary user cannot run {sys.executable}: a folder above is private")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork of a threaded xdist worker
        pid = os.fork()
    if pid == 0:
        _answer(function, writer, rootless)
    os.close(writer)
    try:
        kind, value = _read(reader)
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if kind == "skipped":
        pytest.skip(value)
    if kind == "failed":
        raise ChildFailed(value)
    return value


def _others_can_run(path: str) -> bool:
    """Tell whether every folder above `path`, links followed, may be passed by anyone."""
    folders = [*pathlib.Path(path).absolute().parents, *pathlib.Path(path).resolve().parents]
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in folders)


def become_ordinary() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER)
        os.setresuid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER)
        # Changing user made /proc/self root's: as if executed by that user, it is ours again.
        prctl(kernel.PR_SET_DUMPABLE, 1)


def _answer(function: Callable[[], Any], writer: int, rootless: bool) -> NoReturn:
    try:
        if rootless:
            become_ordinary()
        answer = ("returned", function())
    except pytest.skip.Exception as skip:
        answer = ("skipped", str(skip))
    except BaseException:
        answer = ("failed", traceback.format_exc())
    os.write(writer, pickle.dumps(answer))
    os._exit(0)


def _read(reader: int) -> tuple[str, Any]:
    poll, data = select.poll(), b""
    poll.register(reader)
    while poll.poll(TIMEOUT_MS):
        chunk = os.read(reader, 65536)
        if not chunk:
            break
        data += chunk
    return pickle.loads(data) if data else ("failed", "the child said nothing")


@pytest.fixture(scope="session")
def _namespaces_work() -> None:
    finding = run_in_child(probe.probe_user_namespaces)
    if not finding.ok:
        pytest.skip(f"{finding.reason}; {finding.cure}")


@pytest.fixture
def in_child(_namespaces_work: None) -> Callable[..., Any]:
    """`in_child(function)`: see `run_in_child`."""
    return run_in_child


@pytest.fixture
def in_sandbox(_namespaces_work: None) -> Callable[..., Any]:
    """`in_sandbox(function)`: the same, inside a user and a mount namespace, as a session is."""

    def run(function: Callable[[], Any], *, rootless: bool = True) -> Any:
        def entered() -> Any:
            namespaces.enter_user_namespace()
            namespaces.unshare_mounts()
            return function()

        return run_in_child(entered, rootless=rootless)

    return run


@pytest.fixture
def scratch() -> Iterator[str]:
    """Return a directory that an ordinary user can write to (tmp_path is 0700)."""
    path = tempfile.mkdtemp(prefix="test-sandbox-")
    os.chmod(path, 0o777)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs real root")
