"""The helper: it works for an ordinary user, is given a control group, and checks both."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from ebpf_lab import ATTACHED, Group, needs_ebpf

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import ebpf_handover, ebpf_helper, ebpf_privileged

pytestmark = pytest.mark.live
CODE = "from pytest_netcapture.cli.main import main; main()"
HELPER = [sys.executable, "-c", CODE, "helper"]

ORDINARY = """
import os, socket, sys
descriptor, path, address = int(sys.argv[1]), sys.argv[2], (sys.argv[3], int(sys.argv[4]))
from ebpf_lab import Lab
from pytest_netcapture.redirect import ebpf_privileged

class Given:
    def __init__(self, path):
        self.path = path

assert os.getuid() and not int(open("/proc/self/status").read().split("CapEff:")[1].split()[0], 16)
made = ebpf_privileged.receive(socket.socket(fileno=descriptor))
lab = Lab(made=made, group=Given(path), capture_loopback=True)
print("ready", flush=True)
stream = lab.stream()
assert stream.original_dst == address, stream
stream.socket.sendall(b"captured")
stream.socket.close()
flow = lab.flow()
lab.call(flow.reply, b"echo " + flow.first)
sys.stdin.read()
"""


@pytest.fixture
def group():
    needs_ebpf()
    made = Group()
    yield made
    made.close()


def test_an_ordinary_user_captures_with_what_it_hands_over(group):
    """Root's is only the moment in which it is loaded and attached."""
    server = ("198.51.100.7", 8080)
    conn = ebpf_handover.start_helper(HELPER, group.path)
    assert group.attached() == ATTACHED
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", ORDINARY, str(conn.fileno()), group.path, server[0], str(server[1])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
        pass_fds=[conn.fileno()],
        user=65534,
        group=65534,
        extra_groups=[],
    ) as engine:
        conn.close()
        assert engine.stdout.readline() == b"ready\n"
        client = (
            f"import socket; s = socket.create_connection({server!r}); print(s.recv(99).decode());"
            f"u = socket.socket(type=socket.SOCK_DGRAM); u.sendto(b'x', {server!r});"
            "print(u.recv(99).decode())"
        )
        command = group.command(sys.executable, "-c", client)
        told = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert told.stdout.split("\n")[:2] == ["captured", "echo x"], told.stderr
        engine.stdin.close()
        assert engine.wait(20) == 0
    assert group.attached() == 0


def test_what_is_no_control_group_is_refused(tmp_path):
    needs_ebpf()
    conn = ebpf_handover.start_helper(HELPER, str(tmp_path))
    with conn, pytest.raises(EnvironmentProblem, match="was not given a control group"):
        ebpf_privileged.receive(conn)


def test_another_user_is_refused(monkeypatch):
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(ebpf_helper.os, "environ", {"SUDO_UID": str(os.getuid() + 1)})
    with ours, theirs:
        if os.getuid() == 0:
            ebpf_helper.check_peer(theirs)
            return
        with pytest.raises(EnvironmentProblem, match=f"not for user {os.getuid()}"):
            ebpf_helper.check_peer(theirs)


def test_a_command_that_is_missing_or_fails_is_named(group):
    with pytest.raises(EnvironmentProblem, match="nowhere/sudo cannot be run"):
        ebpf_handover.start_helper(["/nowhere/sudo"], group.path)
    with pytest.raises(EnvironmentProblem, match="the helper has failed: false ended with 1"):
        ebpf_handover.start_helper(["false"], group.path)
