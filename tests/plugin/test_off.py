"""Installed but off: nothing is imported, changed or claimed; and the ways pytest only tells."""

from __future__ import annotations

import subprocess
import sys

from plugin_lab import Project


def test_off_costs_nothing_and_does_nothing(project: Project) -> None:
    project.test(
        """
        @pytest.mark.cassette("x")
        @pytest.mark.netcapture(block=True)
        def test_x():
            ours = {name for name in sys.modules if name.startswith("pytest_netcapture")}
            light = ("errors", "hooks", "options", "plugin")
            assert ours <= {"pytest_netcapture", *(f"pytest_netcapture.{name}" for name in light)}
            assert "msgspec" not in sys.modules
            assert os.environ.get("NETCAPTURE_SESSION_START") is None
            with socket.create_server(("127.0.0.1", 0)) as listener:
                socket.create_connection(listener.getsockname(), 5).close()
            for kind in ("net", "mnt", "user"):
                assert os.readlink(f"/proc/self/ns/{kind}") == os.environ["NS_" + kind]
        """
    )
    import os

    for kind in ("net", "mnt", "user"):
        project.pytester._monkeypatch.setenv(f"NS_{kind}", os.readlink(f"/proc/self/ns/{kind}"))
    result = project.run("--strict-markers", "-W", "error", netcapture=False)
    result.assert_outcomes(passed=1)
    assert "netcapture:" not in result.stdout.str()
    assert project.cassettes() == []


def test_options_without_the_switch_are_said_to_do_nothing(project: Project) -> None:
    project.test("def test_x(): pass\n")
    result = project.run("--netcapture-block", netcapture=False)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["netcapture: off, so --netcapture-block does nothing: add --netcapture"]
    )


def test_ways_in_which_pytest_only_tells(project: Project) -> None:
    project.test("@pytest.mark.cassette\ndef test_x(): pass\n")
    result = project.run("--help")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "network capture, record and replay:",
            "*--netcapture-record-mode=none|once*",
            "*netcapture_block*",
        ]
    )
    result = project.run("--markers")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["@pytest.mark.cassette(*", "@pytest.mark.netcapture(*"])
    assert project.run("--version", "--version").ret == 0
    result = project.run("--collect-only", "-q")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["test_it.py::test_x"])
    result = project.run("--fixtures")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["netcapture -- *", "*Look at what this test sends*"])
    result = project.run("-p", "no:netcapture", netcapture=False)
    result.assert_outcomes(passed=1, warnings=1)
    assert project.left_behind() == []


def test_ini_turns_it_on(project: Project) -> None:
    project.write(
        "pytest.ini",
        "[pytest]\nnetcapture = true\nnetcapture_block = true\nnetcapture_allow =\n    a.example.com\n    b.example.com\n",
    )
    project.test("def test_x(netcapture): swallow('/x')\n")
    result = project.run(netcapture=False)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["blocked: *"])
    (project.path / "pytest.ini").unlink()
    project.write(
        "pyproject.toml",
        '[tool.pytest.ini_options]\nnetcapture = true\nnetcapture_allow = ["a.example.com"]\n',
    )
    project.run(netcapture=False).assert_outcomes(passed=1)


def test_what_importing_the_plugin_imports() -> None:
    """`python -X importtime` would tell the same: nothing of ours but a few small modules."""
    code = "import sys, pytest; before = set(sys.modules); import pytest_netcapture.plugin; print(*sorted(set(sys.modules) - before))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {name.partition(".")[0] for name in out} - {"pytest_netcapture"}
    assert "pytest_netcapture.settings" not in out
