"""What `netcapture local` says when it is asked wrongly, or may not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-c", "from pytest_netcapture.cli.main import main; main()", "local"]


def ask(*arguments, **options):
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, **options
    )


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("!", "'!' names no process"),
        ("/usr/bin/curl", "write the file's name alone: curl"),
        ("99999999", "no process has that number"),
    ],
)
def test_who_is_no_process_is_refused(spec, reason):
    done = ask(spec)
    assert done.returncode == 2
    assert reason in done.stderr


def test_without_privilege_it_says_what_works_instead():
    """Nothing was changed, and nothing needs to be."""
    if os.geteuid():
        done = ask("nobody")
    else:
        done = ask("nobody", user=65534, group=65534, extra_groups=[])
    assert done.returncode == 3
    assert "takes privilege" in done.stderr or "without the BPF object" in done.stderr
    assert "netcapture run" in done.stderr or "install clang" in done.stderr
