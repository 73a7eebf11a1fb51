"""How sessions end that do not end by themselves, and what is left of them: nothing."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import textwrap
from pathlib import Path

import pytest
from plugin_lab import TIMEOUT, Project


def gone(pidfds: dict[int, int]) -> bool:
    """Wait until all have ended."""
    poll = select.poll()
    for descriptor in pidfds.values():
        poll.register(descriptor, select.POLLIN)
    while pidfds:
        events = poll.poll(TIMEOUT * 1000)
        if not events:
            return False
        for descriptor, _ in events:
            poll.unregister(descriptor)
            pidfds = {pid: fd for pid, fd in pidfds.items() if fd != descriptor}
            os.close(descriptor)
    return True


ENGINE_PID = """
    def engine_pid(request):  # ask the engine anything: the kernel says who answers
        import struct
        from pytest_netcapture.messages import FlowList, GetFlows
        channel = request.config.pluginmanager.get_plugin("netcapture-active")._session.channel
        channel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        found, receive = [], channel._recvmsg
        def recvmsg(*args):
            data, ancillary, flags, address = receive(*args)
            for _, kind, content in ancillary:
                if kind == socket.SCM_CREDENTIALS:
                    found.append(struct.unpack("3i", content)[0])
            rights = [one for one in ancillary if one[1] == socket.SCM_RIGHTS]
            return data, rights, flags, address
        channel._recvmsg = recvmsg
        channel.ask(GetFlows(0), FlowList)
        return found[0]
"""


def test_kill_9_in_the_middle_of_a_recording_leaves_the_old_cassette_and_nothing_else(
    project: Project,
) -> None:
    project.test(
        textwrap.dedent(ENGINE_PID)
        + textwrap.dedent("""
        @pytest.mark.cassette("c")
        def test_x(request):
            get("/one")
            child = subprocess.Popen(["sleep", "1000"])
            daemon = subprocess.Popen(["sh", "-c", "setsid sleep 1001 & echo $!"], stdout=subprocess.PIPE, text=True)
            if os.path.exists("wait"):
                for n in range(50):
                    get(f"/more/{n}")
                while not any(name.endswith(".journal") for name in os.listdir("cassettes")):
                    get("/again")
                with open("wait", "w") as fifo:
                    print(child.pid, daemon.stdout.readline().strip(), os.getpid(), engine_pid(request), file=fifo)
                    print(os.readlink("/proc/thread-self/ns/net"), os.readlink("/proc/self/ns/mnt"), file=fifo)
                threading.Event().wait()
            child.kill()
            child.wait()
            subprocess.run(["kill", daemon.stdout.readline().strip()])
            daemon.stdout.close()
            daemon.wait()
        """)
    )
    project.run().assert_outcomes(passed=1)
    cassette = project.path / "cassettes/c.cassette"
    sidecar = project.path / "cassettes/c.cassette.txt"
    before = cassette.read_bytes(), sidecar.read_bytes()
    os.mkfifo(project.path / "wait")
    with project.popen(
        "--netcapture-record-mode=rewrite",
        "-s",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        with open(project.path / "wait") as fifo:
            pids = [int(word) for word in fifo.readline().split()]
            namespaces = fifo.readline().split()
        assert len(pids) == 4
        watched = {pid: os.pidfd_open(pid) for pid in pids}
        inside = set(namespaces_left(namespaces))
        running.kill()
        running.wait(TIMEOUT)
        assert gone(watched)
    assert (cassette.read_bytes(), sidecar.read_bytes()) == before
    assert project.left_behind() == []
    # Only those that were inside: the numbers are given to new namespaces again.
    assert inside
    assert inside.isdisjoint(namespaces_left(namespaces))
    assert str(project.temp) not in Path("/proc/self/mountinfo").read_text()
    (project.path / "wait").unlink()
    project.run("--netcapture-record-mode=none").assert_outcomes(passed=1)
    project.run().assert_outcomes(passed=1)


def namespaces_left(links: list[str]) -> list[str]:
    """Return which of these namespaces a process still is in."""
    left = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        for kind in ("net", "mnt"):
            try:
                if os.readlink(f"/proc/{entry}/ns/{kind}") in links:
                    left.append(f"{entry} {kind}")
            except OSError:
                continue
    return left


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_an_engine_that_is_killed_ends_the_run_at_once(
    project: Project, workers: tuple[str, ...]
) -> None:
    project.test(
        ENGINE_PID
        + """
    def test_good():
        pass
    def test_killed(request):
        import select, signal
        pid = engine_pid(request)
        left = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([left], [], [])
        swallow("/x")
    @pytest.mark.parametrize("n", range(30))
    def test_after(n):
        pass
"""
    )
    result = project.run(*workers, use="xdist")
    text = result.stdout.str() + result.stderr.str()
    assert result.ret == 3, text
    assert "the capture engine ended" in text
    assert "INTERNALERROR" not in text
    assert "test_after" not in text
    assert project.left_behind() == []


def test_ctrl_c_keeps_the_old_cassette(project: Project) -> None:
    project.test(
        """
        @pytest.mark.cassette("c")
        def test_x(netcapture):
            get("/one")
            if os.path.exists("wait"):
                with open("wait", "w"):
                    pass
                netcapture.wait_for(path="/never", timeout=50)
        """
    )
    project.run().assert_outcomes(passed=1)
    cassette = project.path / "cassettes/c.cassette"
    before = cassette.read_bytes()
    os.mkfifo(project.path / "wait")
    with project.popen("--netcapture-record-mode=rewrite", "-s", stdout=subprocess.PIPE) as running:
        with open(project.path / "wait") as fifo:
            fifo.read()
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=TIMEOUT)
    assert running.returncode == 2, out
    assert b"KeyboardInterrupt" in out
    assert b"netcapture: " in out
    assert project.left_behind() == []
    assert cassette.read_bytes() == before
