"""A session without pytest: a fresh process enters the sandbox, and tells what it sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

PRELUDE = """
import json, os, socket, subprocess, sys, threading
from pytest_netcapture.session import Session
from pytest_netcapture.settings import Settings, parse_mapping
def net(): return os.stat("/proc/thread-self/ns/net").st_ino
before = net()
session = Session.start(Settings())
home = net()
def told(**values):
    session.close()
    print(json.dumps(values))
"""


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Run a script in a session of its own; return what it told."""

    def run_script(script: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
            env={**os.environ, "TMPDIR": str(tmp_path), "NETCAPTURE_UPSTREAM": "loopback"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        if "EnvironmentProblem" in done.stderr:
            pytest.skip(done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told

    return run_script


def test_each_test_has_a_namespace_and_goes_back_home(run: Any) -> None:
    told = run(
        """
        seen = []
        for n in range(3):
            scope = session.begin(f"t::{n}", Settings())
            seen.append(net())
            session.end(scope)
            assert net() == home
        told(seen=seen, home=home, before=before)
        """
    )
    assert told["home"] != told["before"]
    assert told["home"] not in told["seen"]
    assert told["before"] not in told["seen"]


def test_a_clean_namespace_is_used_again_and_one_with_a_process_is_not(run: Any) -> None:
    told = run(
        """
        def one(n, leave):
            scope = session.begin(f"t::{n}", Settings())
            seen = net()
            child = subprocess.Popen(["sleep", "100"]) if leave else None
            session.end(scope)
            return seen, child
        dirty, child = one(0, True)
        later = [one(n, False)[0] for n in range(1, 25)]
        child.kill(), child.wait()
        told(dirty=dirty, later=later)
        """
    )
    assert told["dirty"] not in told["later"]
    assert len(set(told["later"])) < len(told["later"])


def test_wider_fixtures_are_at_home_and_pairs_nest(run: Any) -> None:
    told = run(
        """
        scope = session.begin("t::x", Settings())
        test = net()
        session.enter_home(); a = net()
        session.enter_home(); b = net()
        session.leave_home(); c = net()
        session.leave_home(); d = net()
        session.end(scope)
        session.enter_home(); session.leave_home()
        told(test=test, home=home, path=[a, b, c, d], end=net())
        """
    )
    home = told["home"]
    assert told["path"] == [home, home, home, told["test"]]
    assert told["end"] == home


def test_problems_are_told_once(run: Any) -> None:
    told = run(
        """
        scope = session.begin("t::x", Settings(block=True))
        def connect(port):
            try:
                socket.create_connection(("203.0.113.7", port), 5)
            except OSError as error:
                return error.errno
        nothing = session.new_problems()
        errno = connect(80)
        first = [p.kind for p in session.new_problems()]
        again = session.new_problems()
        connect(80)
        connect(81)
        ended = session.end(scope)
        told(nothing=nothing, errno=errno, first=first, again=again,
             ended=[p.kind for p in ended.problems], blocked=ended.counts.blocked)
        """
    )
    assert told == {
        "nothing": [],
        "errno": 111,
        "first": ["blocked"],
        "again": [],
        "ended": ["blocked"],
        "blocked": 3,
    }


def test_the_process_stays_who_it_was(run: Any) -> None:
    told = run(
        """
        child = subprocess.run(["id", "-u"], capture_output=True, text=True).stdout
        threads = len(os.listdir("/proc/self/task"))
        told(uid=os.getuid(), gid=os.getgid(), child=int(child), threads=threads, home=os.environ.get("HOME"))
        """
    )
    assert told == {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "child": os.getuid(),
        "threads": 1,
        "home": os.environ.get("HOME"),
    }


def test_nothing_is_left(run: Any, tmp_path: Path) -> None:
    told = run(
        """
        told(runtime=session._runtime.path)
        """
    )
    # The engine goes when it sees that we have; its directory is the last thing to go.
    import select
    import time

    deadline = time.monotonic() + 20
    while os.path.exists(told["runtime"]) and time.monotonic() < deadline:
        select.select([], [], [], 0.01)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_is_never_told_what_to_do_ends(tmp_path: Path) -> None:
    script = """
        from pytest_netcapture.launch import launch
        launched = launch("auto")
        launched.reap()
        launched.tell(b"")
        launched.control.settimeout(30)
        assert launched.control.recv(1) == b""
        print("words", open(launched.log).read())
        launched.runtime.remove()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "words \n", done.stderr
