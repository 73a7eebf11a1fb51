"""Processes that record into one cassette lose nothing."""

from __future__ import annotations

import multiprocessing
import os
import time

import pytest

from pytest_netcapture.cassettes.saving import locked
from pytest_netcapture.cassettes.secrets import Secrets
from pytest_netcapture.cassettes.store import Cassette
from pytest_netcapture.errors import CassetteError
from pytest_netcapture.settings import CassetteUse, RecordMode

WORKERS = 4
TESTS = 10


def work(path, mode, started, worker, flow_of):
    for number in range(TESTS):
        use = CassetteUse(path, RecordMode(mode))
        cassette = Cassette.open(use, session_started_ns=started, secrets=Secrets(), spool_dir="")
        target = f"/{worker}/{number}"
        cassette.record(flow_of("GET", target, answer=target.encode()))
        cassette.flush()
        cassette.save()
        cassette.close()


@pytest.mark.parametrize(
    ("mode", "exists"),
    [
        ("once", False),
        ("new_episodes", False),
        ("new_episodes", True),
        ("all", True),
        ("rewrite", True),
    ],
)
def test_forty_tests_of_four_workers(record, flow_of, open_cassette, tmp_path, *, mode, exists):
    path = str(tmp_path / "c.cassette")
    if exists:
        record(flow_of("GET", "/old"))
        os.utime(path, (1, 1))
    context = multiprocessing.get_context("fork")
    started = time.time_ns()
    workers = [
        context.Process(target=work, args=(path, mode, started, worker, flow_of))
        for worker in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    flows = open_cassette("none").unused
    old = exists and mode in ("new_episodes", "all")
    assert len({flow.request.target for flow in flows}) == len(flows) == WORKERS * TESTS + old
    assert {p.name for p in tmp_path.iterdir()} == {"spool", "c.cassette", "c.cassette.txt"}


def test_waiting_for_the_lock_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("pytest_netcapture.cassettes.saving.LOCK_SECONDS", 0.02)
    with locked(str(tmp_path)), pytest.raises(CassetteError, match="waited"), locked(str(tmp_path)):
        pass
