"""The half that waits: it ends as the other does, passes signals on, and looks into descendants."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap

import pytest

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import seccomp_ancestor

pytestmark = pytest.mark.live
TIMEOUT = 20

PRELUDE = """
import ctypes, os, signal, subprocess, sys, threading
from pytest_netcapture.redirect import seccomp_ancestor as ancestor
"""


def python(text, **options):
    code = PRELUDE + textwrap.dedent(text)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], **pipes, **options)


def run(text):
    process = python(text)
    out, _ = process.communicate(timeout=TIMEOUT)
    return process.returncode, out


@pytest.mark.parametrize("status", [0, 1, 3, 255])
def test_it_ends_with_the_same_status(status):
    assert run(f"ancestor.split(); sys.exit({status})") == (status, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_it_ends_of_the_same_signal(number):
    assert run(f"ancestor.split(); os.kill(os.getpid(), {int(number)})")[0] == -number


def test_the_other_half_goes_on_with_everything_it_had():
    code, out = run("""
        sys.stdout.write("before ")
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        before = os.getpid()
        ancestor.split()
        assert os.getppid() == before
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGUSR2}
        print("after")
    """)
    assert (code, out) == (0, "before after\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_what_is_sent_to_it_is_passed_on(number):
    process = python(f"""
        ancestor.split()
        signal.signal({int(number)}, lambda *_: (print("got it", flush=True), os._exit(7)))
        print("up", flush=True)
        threading.Event().wait()
    """)
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    assert process.communicate(timeout=TIMEOUT) == ("got it\n", None)
    assert process.returncode == 7


def test_when_it_is_killed_so_is_the_other_half():
    process = python("""
        ancestor.split()
        print(os.getpid(), flush=True)
        threading.Event().wait()
    """)
    other = os.pidfd_open(int(process.stdout.readline()))
    process.kill()
    assert select.select([other], [], [], TIMEOUT)[0]
    os.close(other)
    process.communicate(timeout=TIMEOUT)


def test_it_looks_into_its_descendants():
    code, out = run("""
        name = ancestor.split()
        memory = ancestor.AncestorsMemory(name)
        text = ctypes.create_string_buffer(bytes(range(256)) * 1000, 256_000)
        at = ctypes.addressof(text)
        reader, writer = os.pipe()
        print(memory.read(os.getpid(), at, 256_000) == text.raw)
        memory.write(os.getpid(), at + 1, b"x" * 100_000)
        print(text.raw[:1] + text.raw[1:100_001].replace(b"x", b"") == b"\\0", text.raw[100_001])
        copy = memory.duplicate(os.getpid(), writer)
        os.write(copy, b"through")
        print(os.read(reader, 10).decode())
        for wrong in (lambda: memory.read(os.getpid(), 1, 10), lambda: memory.duplicate(os.getpid(), 999),
                      lambda: memory.read(2**22 - 1, at, 10)):
            try:
                wrong()
            except OSError as error:
                print(error.errno)
    """)
    assert code == 0
    assert out.splitlines() == ["True", f"True {100_001 % 256}", "through", "14", "9", "3"]


def test_it_reads_the_memory_of_an_orphan():
    """A daemon has no other ancestor left."""
    code, out = run("""
        name = ancestor.split()
        memory = ancestor.AncestorsMemory(name)
        text = ctypes.create_string_buffer(b"secret", 6)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            if os.fork():
                os._exit(0)
            os.write(writer, str(os.getpid()).encode())
            signal.pause()
        os.waitpid(child, 0)
        orphan = int(os.read(reader, 20))
        print(memory.read(orphan, ctypes.addressof(text), 6))
        print(ancestor.is_descendant(orphan, os.getppid()), ancestor.is_descendant(orphan, os.getpid()))
        os.kill(orphan, 9)
    """)
    assert (code, out) == (0, "b'secret'\nTrue False\n")


def test_it_serves_its_descendants_only():
    process = python("""
        print(ancestor.split(), flush=True)
        sys.stdin.read()
    """)
    name = process.stdout.readline().strip()
    assert not seccomp_ancestor.answers(name)
    memory = seccomp_ancestor.AncestorsMemory(name)
    with pytest.raises(ConnectionError):
        memory.read(os.getpid(), 0, 1)
    memory.close()
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert not seccomp_ancestor.answers(name)


def test_a_worker_finds_it_again():
    code, out = run("""
        name = ancestor.split()
        ask = f"from pytest_netcapture.redirect import seccomp_ancestor as a; print(a.answers({name!r}))"
        print(subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True).stdout)
    """)
    assert (code, out.strip()) == (0, "True")


@pytest.mark.parametrize(
    ("text", "scope"), [("0\n", 0), ("1\n", 1), ("2\n", 2), ("3\n", 3), ("?", 0), (None, 0)]
)
def test_what_yama_says(tmp_path, text, scope):
    path = tmp_path / "ptrace_scope"
    if text is not None:
        path.write_text(text)
    assert seccomp_ancestor.ptrace_scope(str(path)) == scope


@pytest.mark.parametrize(
    ("scope", "privileged", "needed"),
    [(0, False, False), (0, True, False), (1, True, False), (1, False, True), (2, True, False)],
)
def test_when_it_is_needed(monkeypatch, scope, privileged, needed):
    monkeypatch.setattr(seccomp_ancestor, "ptrace_scope", lambda: scope)
    monkeypatch.setattr(seccomp_ancestor, "_may_trace", lambda: privileged)
    assert seccomp_ancestor.is_needed() is needed


@pytest.mark.parametrize(("scope", "privileged"), [(2, False), (3, False), (3, True)])
def test_when_nobody_may_look(monkeypatch, scope, privileged):
    monkeypatch.setattr(seccomp_ancestor, "ptrace_scope", lambda: scope)
    monkeypatch.setattr(seccomp_ancestor, "_may_trace", lambda: privileged)
    with pytest.raises(EnvironmentProblem, match=f"ptrace_scope is {scope}") as caught:
        seccomp_ancestor.is_needed()
    assert "sysctl -w kernel.yama.ptrace_scope=1" in caught.value.cure
