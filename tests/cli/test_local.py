"""`netcapture local`: whom it captures, how it ends, and that nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "redirect"))  # for the labs
sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))

from ebpf_lab import ATTACHED, Group, needs_ebpf
from engine_lab import Authority, answer, serving

pytestmark = pytest.mark.live
CODE = "from pytest_netcapture.cli.main import main; main()"
COMMAND = [sys.executable, "-c", CODE]
HOST = "api.example.com"
TIMEOUT = 30


class Local:
    """A running `netcapture local`."""

    def __init__(self, group, *arguments, under=()):
        self.group = group
        self.process = subprocess.Popen(
            [*under, *COMMAND, "local", "--cgroup", group.path, *arguments],
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self.script = ""

    def begin(self):
        """Wait until it captures."""
        told = self.wait_for(r"trusts its CA")
        self.script = re.search(r"`\. (\S+)`", told)[1]
        return self

    def wait_for(self, pattern):
        """Read what it says until there is `pattern`; return all of that."""
        told, deadline = "", time.monotonic() + TIMEOUT
        stderr = self.process.stderr.fileno()
        while not re.search(pattern, told):
            left = deadline - time.monotonic()
            ready = select.select([stderr], [], [], max(left, 0))[0]
            data = os.read(stderr, 4096) if ready else b""
            assert data, f"no {pattern!r} in:\n{told}"
            told += data.decode()
        return told

    def run(self, *command):
        """Run a program in the group that trusts the CA; return its output."""
        trusting = ["sh", "-c", f'. {self.script}; exec "$0" "$@"', *command]
        done = subprocess.run(self.group.command(*trusting), capture_output=True, timeout=TIMEOUT)
        return done.stdout.decode()

    def stop(self, number=signal.SIGINT):
        """End it; return its status and the rest of what it says."""
        self.process.send_signal(number)
        rest = self.process.communicate(timeout=TIMEOUT)[1]
        return self.process.returncode, rest.decode()


@pytest.fixture(scope="module", autouse=True)
def _needs_ebpf():
    needs_ebpf()


@pytest.fixture
def group():
    made = Group()
    yield made
    made.close()


@pytest.fixture
def local(group):
    running = []

    def start(*arguments, under=()):
        running.append(Local(group, *arguments, under=under))
        return running[-1].begin()

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


@pytest.fixture
def secure(tmp_path):
    """An HTTPS server that answers as api.example.com; the options that make it known."""
    authority = Authority(tmp_path)
    with serving(answer(b"secret"), authority.context(HOST)) as server:
        yield ["--map-host", f"{HOST}:443={server.at}", "--upstream-ca", authority.file]


def needs(program):
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")


def test_curl_is_captured_and_decrypted_and_wget_beside_it_is_not(local, secure):
    needs("wget")
    with serving(answer(b"plain")) as plain:
        running = local("--loopback=capture", *secure, "curl")
        assert running.run("curl", "-sS", f"https://{HOST}/x") == "secret"
        assert running.run("wget", "-qO-", f"http://{plain.at}/by-wget") == "plain"
        assert running.run("curl", "-sS", f"http://{plain.at}/by-curl") == "plain"
        status, told = running.stop()
    assert status == 0
    assert f"GET https://{HOST}/x → 200" in told
    assert f"GET http://{plain.at}/by-curl → 200" in told
    assert "curl(" in told
    assert "wget" not in told


def test_all_but_curl(local, secure):
    needs("wget")
    with serving(answer(b"plain")) as plain:
        running = local("--loopback=capture", *secure, "!curl")
        assert (
            running.run("wget", "--no-check-certificate", "-qO-", f"https://{HOST}/x") == "secret"
        )
        assert running.run("curl", "-sS", f"http://{plain.at}/by-curl") == "plain"
        status, told = running.stop()
    assert status == 0
    assert f"GET https://{HOST}/x → 200" in told
    assert "curl" not in told


def test_a_running_server_is_captured_by_its_number(local, secure, group):
    """It was there before, has a pipe to us and no variables of ours; what it starts is captured too."""
    code = f"input(); import os; os.execlp('sh', 'sh', '-c', 'curl -sSk https://{HOST}/; echo')"
    with subprocess.Popen(
        group.command(sys.executable, "-c", code),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        running = local(*secure, str(program.pid))
        assert program.communicate("\n", timeout=TIMEOUT)[0] == "secret\n"
    status, told = running.stop()
    assert status == 0
    assert f"GET https://{HOST}/ → 200" in told


def test_what_is_recorded_here_is_replayed_in_a_sandbox(local, secure, tmp_path):
    cassette = str(tmp_path / "local.cassette")
    running = local("--record", cassette, *secure, "curl")
    assert running.run("curl", "-sS", f"https://{HOST}/x") == "secret"
    status, _ = running.stop()
    assert status == 0
    command = ["run", "--replay", cassette, "--", "curl", "-sS", f"https://{HOST}/x"]
    replayed = subprocess.run([*COMMAND, *command], capture_output=True, text=True, timeout=TIMEOUT)
    assert (replayed.stdout, replayed.returncode) == ("secret", 0), replayed.stderr
    assert "0 unmatched" in replayed.stderr


def test_a_ca_that_the_machine_trusts_is_used(local, secure, tmp_path, monkeypatch):
    """So a program needs no variables, nor to be started anew."""
    from pytest_netcapture import kept_ca
    from pytest_netcapture.engine.authority import make_kept

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    content = make_kept("a test", kept_ca.LASTS)
    kept_ca.write(content)
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(kept_ca.certificate(content))
    running = local(*secure, "curl")
    command = ["curl", "-sS", "--cacert", str(trusted), f"https://{HOST}/x"]
    done = subprocess.run(running.group.command(*command), capture_output=True, timeout=TIMEOUT)
    assert done.stdout == b"secret"
    assert running.stop()[0] == 0


def test_blocked_is_refused_and_makes_status_1(local, secure):
    running = local("--block", *secure, "curl")
    done = running.run("curl", "-sS", "-o", "/dev/null", "-w", "%{errormsg}", f"https://{HOST}/")
    assert done == f"Could not resolve host: {HOST}"
    status, told = running.stop()
    assert status == 1
    assert "blocked" in told


def test_four_capabilities_are_enough(local):
    """The user is an ordinary one, the program is root's."""
    needs("setpriv")
    given = "+bpf,+net_admin,+net_raw,+perfmon"
    options = ["--reuid=65534", "--regid=65534", "--clear-groups"]
    options += [
        f"--inh-caps=-all,{given}",
        f"--ambient-caps={given}",
        f"--bounding-set=-all,{given}",
    ]
    with serving(answer(b"plain")) as plain:
        running = local("--loopback=capture", "curl", under=["setpriv", *options])
        command = running.group.command("curl", "-sS", f"http://{plain.at}/by-curl")
        assert subprocess.run(command, capture_output=True, timeout=TIMEOUT).stdout == b"plain"
        status, told = running.stop()
    assert status == 0
    assert f"GET http://{plain.at}/by-curl → 200" in told


def test_with_sudo_only_a_helper_is_privileged(local, tmp_path, monkeypatch):
    """Here sudo is a program that only runs another one, since we are root."""
    sudo = tmp_path / "sudo"
    sudo.write_text(
        f'#!/bin/sh\nshift; echo "$@" >{tmp_path}/asked; exec {shlex.join(COMMAND)} "$@"\n'
    )
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with serving(answer(b"plain")) as plain:
        running = local("--loopback=capture", "--sudo", "curl")
        command = running.group.command("curl", "-sS", f"http://{plain.at}/by-curl")
        assert subprocess.run(command, capture_output=True, timeout=TIMEOUT).stdout == b"plain"
        status, told = running.stop()
    assert status == 0
    assert f"GET http://{plain.at}/by-curl → 200" in told
    assert (tmp_path / "asked").read_text() == "helper\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_clean(local, group, number):
    running = local("nobody")
    assert group.attached() == ATTACHED
    status, told = running.stop(number)
    assert status == 0
    assert "0 flows" in told
    until(lambda: group.attached() == 0 and not os.path.exists(os.path.dirname(running.script)))


@pytest.mark.parametrize("which", ["command", "engine"])
def test_killed_it_leaves_nothing(local, group, which):
    """No program, no link, no map, no file; programs go on at once."""
    running = local("--loopback=capture", "")
    (engine,) = children_of_engine(running)
    victim = engine if which == "engine" else running.process.pid
    os.kill(victim, signal.SIGKILL)
    until(lambda: group.attached() == 0)
    running.process.communicate(timeout=TIMEOUT)
    assert running.process.returncode == (3 if which == "engine" else -signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{engine}"))
    with serving(answer(b"plain")) as plain:
        command = group.command("curl", "-sS", f"http://{plain.at}/")
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.stdout == "plain"


def children_of_engine(running):
    """Engines have their session's folder in their standard error."""
    folder = os.path.dirname(running.script)
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.readlink(f"/proc/{name}/fd/2") == f"{folder}/engine.log":
                yield int(name)


def until(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.02)
