"""What is left in a namespace is found and ended, whoever its parent is."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

import pytest

from pytest_netcapture.sandbox import capabilities, namespaces, processes

pytestmark = pytest.mark.live


def _enter():
    namespaces.enter_user_namespace()
    capabilities.keep_only(capabilities.TESTS)
    return namespaces.network_inode(namespaces.unshare_network())


def _daemon(*, stubborn=False):
    """Double-fork a process that waits; return its pid once it does."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if stubborn:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(writer, str(os.getpid()).encode())
            while True:
                signal.pause()
        os._exit(0)
    os.wait()
    return int(os.read(reader, 32))


def _gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("rootless", [True, False])
def test_a_daemon_is_found_and_ended(in_child, rootless):
    def child():
        inode = _enter()
        daemon = _daemon()
        return (
            processes.has_children(),
            processes.processes_in({inode}) == [daemon],
            processes.end_in({inode}) == [daemon],
            processes.processes_in({inode}),
            _gone(daemon),
        )

    assert in_child(child, rootless=rootless) == (False, True, True, [], True)


def test_who_ignores_sigterm_is_killed(in_child):
    def child():
        _enter()
        stubborn, polite = _daemon(stubborn=True), _daemon()
        ended = processes.end([stubborn, polite], grace_ns=50_000_000)
        return ended == sorted([stubborn, polite]), _gone(stubborn), _gone(polite)

    assert in_child(child) == (True, True, True)


def test_the_polite_are_not_waited_for(in_child):
    def child():
        _enter()
        start = time.monotonic()
        processes.end([_daemon()], grace_ns=10**10)
        return time.monotonic() - start

    assert in_child(child) < 5


def test_a_process_elsewhere_and_the_spared_are_left_alone(in_child):
    def child():
        _enter()
        elsewhere = _daemon()
        inode = namespaces.network_inode(namespaces.unshare_network())
        spared = _daemon()
        found = processes.end_in({inode}, spare=[spared])
        alive = not _gone(elsewhere), not _gone(spared)
        processes.end([elsewhere, spared])
        return found, alive

    assert in_child(child) == ([], (True, True))


def test_a_pid_that_left_is_not_signalled(in_child):
    def child():
        _enter()
        daemon = _daemon()
        ended = processes.end([daemon, 2**22 + 1], still=lambda _pid: False)
        alive = not _gone(daemon)
        processes.end([daemon])
        return ended, alive

    assert in_child(child) == ([], True)


def test_a_thread_in_the_namespace_counts(in_child):
    def child():
        _enter()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:

            def hop():
                inode = namespaces.network_inode(namespaces.unshare_network())
                os.write(writer, str(inode).encode())
                threading.Event().wait()

            threading.Thread(target=hop).start()
            threading.Event().wait()
        inode = int(os.read(reader, 32))
        capabilities.keep_only(capabilities.TESTS)
        found = processes.processes_in({inode}) == [pid]
        processes.end([pid])
        os.waitpid(pid, 0)
        return found

    assert in_child(child, rootless=os.geteuid() != 0)


def test_children_are_counted_without_reaping(in_child):
    def child():
        nothing = processes.has_children()
        process = subprocess.Popen(["true"])
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        seen = processes.has_children(), processes.children() == {process.pid}
        spared = processes.has_children(spare=[process.pid])
        return nothing, seen, spared, process.wait(), processes.has_children()

    assert in_child(child) == (False, (True, True), False, 0, False)


def test_children_of_another_thread_are_counted(in_child):
    def child():
        made = []

        def run():
            made.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE))
            stop.wait()

        stop = threading.Event()
        thread = threading.Thread(target=run)
        thread.start()
        while not made:
            pass
        counted = processes.children() == {made[0].pid}, processes.thread_count()
        stop.set()
        thread.join()
        made[0].communicate()
        return counted

    assert in_child(child) == (True, 2)


def test_the_last_pid_tells_of_a_new_process(in_child):
    def child():
        before = processes.last_pid()
        subprocess.run(["true"], check=True)
        return before != processes.last_pid()

    assert in_child(child)
