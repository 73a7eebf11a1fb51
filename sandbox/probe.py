"""Try, for the doctor, whether each thing that the sandbox needs works on this machine.

1. Each probe runs in a forked child that ends with `_exit`: nothing of this process or machine
   changes.
2. A child that says nothing in time is killed and reported as such; a probe never raises.
3. A probe takes the product's own path, not an imitation of it: what it says is what a session
   gets.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import NamedTuple

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox import (
    bundles,
    capabilities,
    kernel,
    mounts,
    namespaces,
    refusals,
    trust,
)
from pytest_netcapture.sandbox.original import original, read_file, write_all, write_file
from pytest_netcapture.sandbox.syscalls import mount

TIMEOUT_MS = 5000
_END = "\x00"


class Finding(NamedTuple):
    """One line of the doctor. `reason` says what was seen, `cure` what to do if not ok."""

    name: str
    ok: bool
    reason: str
    cure: str = ""


def probe_all() -> list[Finding]:
    return [probe() for probe in PROBES]


def probe_user_namespaces() -> Finding:
    """Enter a user namespace, ids unchanged."""
    return _try("user namespaces", _enter, "an ordinary user may make them")


def probe_mounts() -> Finding:
    """Bind a file over another in a private mount namespace."""
    return _try("mounts", _bind, "files can be laid over files for the process tree alone")


def probe_overlays() -> Finding:
    """Lay an overlay over a directory; where that fails mirrors are used and little is lost."""
    return _try("overlays", _overlay, "new files can appear in directories")


def probe_network_namespaces() -> Finding:
    """Make two network namespaces and go back to the first."""
    return _try("network namespaces", _hop, "a thread can make them and move between them")


def probe_capabilities() -> Finding:
    """Raise what the engine is executed with, then reduce to what tests keep."""
    return _try("capabilities", _hand_over, "the engine can get its own, tests keep one")


def probe_trust() -> Finding:
    """Cover everything on this machine that lists roots, with one that is among them already."""
    return _try("trust", _cover, "every list of roots on this machine can be covered")


PROBES = (
    probe_user_namespaces,
    probe_mounts,
    probe_overlays,
    probe_network_namespaces,
    probe_capabilities,
    probe_trust,
)
NEEDED = ("user namespaces", "mounts", "network namespaces", "capabilities")
"""Without these there is no sandbox; without the others something is missing."""


def _enter() -> str:
    if not namespaces.needs_user_namespace():
        return "not needed: real root"
    uid = original.getuid()
    namespaces.enter_user_namespace()
    if original.getuid() != uid:
        raise EnvironmentProblem(f"the user id became {original.getuid()}, it was {uid}")
    return ""


def _bind() -> str:
    directory = _private_mounts()
    write_file(f"{directory}/below", b"below")
    write_file(f"{directory}/above", b"above")
    mounts.bind_file(f"{directory}/above", f"{directory}/below")
    return ""


def _overlay() -> str:
    directory = _private_mounts()
    original.mkdir(f"{directory}/new", 0o755)
    mounts.overlay([f"{directory}/new"], "/etc/ssl")
    return ""


def _cover() -> str:
    roots = list(bundles.original_roots({}))
    if not roots:
        return "no list of roots was found on this machine"
    ca_pem = _first_certificate(read_file(roots[0]))
    places = trust.find(sys.path, os.environ)
    directory = _private_mounts()
    report = trust.install(ca_pem, directory=directory, places=places, subject_hash="0badcafe")
    if report.failed:
        left = "\n".join(f"{path}: {reason}" for path, reason in report.failed)
        raise EnvironmentProblem(
            f"{len(report.covered)} places can be covered, but not:\n{left}",
            cure="clients that read only these do not trust the sandbox: docs/clients.md",
        )
    return f"{len(report.covered)} places that list roots can be covered"


def _first_certificate(pem: bytes) -> bytes:
    end = b"-----END CERTIFICATE-----"
    return pem.partition(end)[0] + end + b"\n"


def _private_mounts() -> str:
    """Enter, and return an empty directory on a file system of ours that ends with the child."""
    namespaces.enter_user_namespace()
    namespaces.unshare_mounts()
    # Not over /tmp, where a virtual environment may be, with lists of roots in it.
    directory = "/sys" if os.path.isdir("/sys") else tempfile.gettempdir()
    try:
        mount("netcapture", directory, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV)
    except OSError as error:
        problem = refusals.namespace_problem("mount", error.errno or 0, refusals.gather())
        raise EnvironmentProblem(problem.message, cure=problem.cure) from error
    return directory


def _hop() -> str:
    namespaces.enter_user_namespace()
    first = namespaces.unshare_network()
    second = namespaces.unshare_network()
    namespaces.enter_network(first)
    if namespaces.current_network_inode() != namespaces.network_inode(first):
        raise EnvironmentProblem(f"setns({first}) led elsewhere, {second} perhaps")
    return ""


def _hand_over() -> str:
    namespaces.enter_user_namespace()
    with capabilities.ambient(capabilities.ENGINE):
        held = capabilities.effective()
    missing = capabilities.ENGINE - held
    if missing:
        raise EnvironmentProblem(
            f"capabilities {sorted(missing)} are not held",
            cure="start the container with --privileged or --cap-add SYS_ADMIN --cap-add NET_ADMIN",
        )
    capabilities.keep_only(capabilities.TESTS)
    return ""


def _try(name: str, attempt: Callable[[], str], good: str) -> Finding:
    try:
        said = _in_child(attempt)
    except OSError as error:
        return Finding(name, False, f"no child process could be made: {error.strerror}")
    if said is None:
        return Finding(name, False, f"no answer within {TIMEOUT_MS} ms, or the child crashed")
    verdict, reason, cure = said
    return Finding(name, verdict == "ok", reason or good, cure)


def _in_child(attempt: Callable[[], str]) -> tuple[str, str, str] | None:
    """Return (verdict, reason, cure) of the child, or None if it did not say."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with warnings.catch_warnings():
        # Python 3.12 warns of fork with threads: this child calls nothing that could be locked.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _answer(attempt, writer)
    original.close(writer)
    try:
        said = _read_all(reader)
    finally:
        original.close(reader)
        _reap(pid)
    return said


def _answer(attempt: Callable[[], str], writer: int) -> None:
    """Run in the child; never return."""
    try:
        answer = ("ok", attempt(), "")
    except EnvironmentProblem as problem:
        answer = ("no", problem.message, problem.cure)
    except BaseException as error:  # all of it is for the parent to say
        answer = ("no", f"{type(error).__name__}: {error}", "")
    try:
        write_all(writer, (_END.join(answer) + _END).encode())
    finally:
        os._exit(0)


def _read_all(reader: int) -> tuple[str, str, str] | None:
    poll, text = original.poll(), b""
    poll.register(reader)
    while poll.poll(TIMEOUT_MS):
        chunk = original.read(reader, 65536)
        if not chunk:
            break
        text += chunk
    parts = text.decode("utf-8", "replace").split(_END)
    return (parts[0], parts[1], parts[2]) if len(parts) == 4 else None


def _reap(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)  # ended already, or stuck: nothing that it made outlives it
    os.waitpid(pid, 0)
