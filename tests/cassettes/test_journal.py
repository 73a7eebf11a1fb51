"""Journals: no secret in them, and what a killed recording leaves is found."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import time

import pytest

from pytest_netcapture.cassettes.journal import recover
from pytest_netcapture.cassettes.secrets import Secrets
from pytest_netcapture.cassettes.store import Cassette
from pytest_netcapture.errors import CassetteError
from pytest_netcapture.settings import CassetteUse, RecordMode


def journals(folder):
    return [p for p in folder.iterdir() if p.name.endswith(".journal")]


@pytest.fixture
def killed(tmp_path, flow_of):
    """Record into a cassette in a process that is killed before it saves."""

    def record_and_die():
        use = CassetteUse(str(tmp_path / "c.cassette"), RecordMode.ALL)
        cassette = Cassette.open(
            use, session_started_ns=time.time_ns(), secrets=Secrets(), spool_dir=""
        )
        for name in ("/a", "/b"):
            cassette.record(flow_of("GET", name))
            cassette.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=record_and_die)
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    (journal,) = journals(tmp_path)
    return journal


def test_name_mode_and_content(open_cassette, flow_of, tmp_path):
    cassette = open_cassette("once", environ={"A_TOKEN": "secret-value-1"})
    cassette.record(flow_of("GET", "/secret-value-1", headers=[("X-Api-Key", "key-123456")]))
    assert journals(tmp_path) == []
    cassette.flush()
    (journal,) = journals(tmp_path)
    assert journal.name == f".c.cassette.{os.getpid()}.journal"
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    content = journal.read_bytes()
    assert b"secret-value-1" not in content
    assert b"key-123456" not in content


def test_two_cassettes_of_one_process(open_cassette, flow_of, tmp_path):
    one, two = open_cassette("all"), open_cassette("all")
    for number, cassette in enumerate((one, two)):
        cassette.record(flow_of("GET", f"/{number}"))
        cassette.flush()
    assert len(journals(tmp_path)) == 2
    one.save()
    assert two.save().total == 2


def test_a_living_journal_is_left_alone(open_cassette, flow_of, tmp_path):
    cassette = open_cassette("all")
    cassette.record(flow_of())
    cassette.flush()
    assert open_cassette("new_episodes").warnings == []
    assert len(journals(tmp_path)) == 1


@pytest.mark.parametrize("mode", ["new_episodes", "all"])
def test_a_killed_recording_is_recovered(killed, open_cassette, tmp_path, mode):
    cassette = open_cassette(mode)
    assert "recovered 2 flows" in cassette.warnings[0]
    assert journals(tmp_path) == []
    assert [f.request.target for f in open_cassette("none").unused] == ["/a", "/b"]


@pytest.mark.parametrize("mode", ["none", "once", "rewrite"])
def test_a_killed_recording_is_removed(killed, open_cassette, tmp_path, mode):
    cassette = open_cassette(mode)
    assert "removed the journal" in cassette.warnings[0]
    assert journals(tmp_path) == []
    assert not (tmp_path / "c.cassette").exists()


def test_the_intact_prefix_of_a_torn_journal(killed):
    whole = killed.read_bytes()
    counts = []
    for size in [*range(0, len(whole), 5), len(whole)]:
        killed.write_bytes(whole[:size])
        try:
            source = recover(str(killed))
        except CassetteError:
            counts.append(-1)
            continue
        counts.append(len([recording.flow() for recording in source.recordings]))
        source.close()
    assert counts == sorted(counts)
    assert set(counts) == {-1, 0, 1, 2}


def test_an_unreadable_journal_is_removed_and_said(killed, open_cassette, tmp_path):
    killed.write_bytes(b"junk")
    assert "unreadable" in open_cassette("new_episodes").warnings[0]
    assert journals(tmp_path) == []
