"""`netcapture.run` and `.popen`: programs in sandboxes of their own, told apart from the test's."""

import subprocess
import sys

import pytest
from engine_lab import answer, in_sandbox, serving, settings

from pytest_netcapture.capture import Netcapture

NAME = "api.example.com"
FETCH = f"import urllib.request; print(urllib.request.urlopen('http://{NAME}/x').read())"


def test_a_programs_traffic_is_its_own():
    with serving(answer()) as server:

        def client(sandbox):
            done = Netcapture(sandbox.scope).run([sys.executable, "-c", FETCH], capture_output=True)
            flows = [str(flow) for flow in done.flows if flow.protocol == "http"]
            return done.returncode, done.stdout, flows, sandbox.flows()

        found = in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"]))
    assert found == (0, b"b'hello'\n", [f"GET http://{NAME}/x → 200"], [])


def test_a_programs_problem_is_the_tests():
    def client(sandbox):
        with Netcapture(sandbox.scope).popen([sys.executable, "-c", FETCH], stderr=-3) as program:
            program.wait(20)
        return program.returncode, [problem.kind for problem in sandbox.problems()]

    assert in_sandbox(client, settings(block=True)) == (1, ["blocked"])


def test_a_programs_exchange_is_on_the_tests_cassette(tmp_path):
    def client(sandbox):
        return (
            Netcapture(sandbox.scope).run([sys.executable, "-c", FETCH], capture_output=True).stdout
        )

    with serving(answer()) as server:
        path = tmp_path / "a.cassette"
        recorded = in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"], cassette=path))
    assert in_sandbox(client, settings(cassette=path, mode="none")) == recorded == b"b'hello'\n"


def test_run_raises_as_subprocess_does():
    def client(sandbox):
        with pytest.raises(subprocess.CalledProcessError):
            Netcapture(sandbox.scope).run([sys.executable, "-c", "raise SystemExit(3)"], check=True)
        return True

    assert in_sandbox(client)
