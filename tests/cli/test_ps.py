"""`netcapture ps`: a process of ours among the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PS = [sys.executable, "-c", "from pytest_netcapture.cli.main import main; main()", "ps"]


def ask(*arguments):
    done = subprocess.run([*PS, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_is_listed_with_what_names_it():
    mark = f"netcapture-ps-{os.getpid()}"
    with subprocess.Popen([sys.executable, "-c", "input()", mark], stdin=subprocess.PIPE) as child:
        rows = [row for row in json.loads(ask("--json", mark)) if row["pid"] == child.pid]
        text = ask(mark)
        child.communicate(b"\n")
    (row,) = rows
    path = os.path.realpath(sys.executable)
    assert row == {
        "pid": child.pid,
        "parent": os.getpid(),
        "name": os.path.basename(path),
        "path": path,
        "command": [sys.executable, "-c", "input()", mark],
        "system": os.getuid() < 1000,
    }
    assert text.splitlines()[0].split() == ["PID", "PARENT", "NAME", "COMMAND"]
    assert f"{child.pid}" in text
    assert mark in text


def test_without_a_filter_all_are_listed():
    found = {row["pid"] for row in json.loads(ask("--json"))}
    assert os.getpid() in found
