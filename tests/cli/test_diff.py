"""`netcapture diff` and `merge`, and git with both of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest

from pytest_netcapture.cassettes.source import Source


def flows_in(path):
    return [str(recording.flow()) for recording in Source(str(path)).recordings]


def test_equal_cassettes_have_no_difference(netcapture, cassette, exchange_of):
    old = cassette(exchange_of(), name="old.cassette")
    new = cassette(exchange_of(), name="new.cassette")
    assert netcapture("diff", old, new) == (0, "", "")


def test_what_came_what_went_and_what_changed(netcapture, cassette, exchange_of, lookup_of):
    old = cassette(
        lookup_of(),
        exchange_of(target="/gone"),
        exchange_of(target="/users/1", answer=b'{"name": "Ada", "roles": ["admin"]}'),
        name="old.cassette",
    )
    new = cassette(
        lookup_of("api.example.com", "10.0.0.2"),
        exchange_of(
            target="/users/1",
            answer=b'{"name": "Eve", "roles": ["admin", "root"]}',
            status=201,
            answer_headers=[("Content-Type", "application/json"), ("X-Added", "1")],
        ),
        exchange_of(target="/come"),
        name="new.cassette",
    )
    done = netcapture("diff", old, new)
    assert done.status == 1
    assert "- GET https://api.example.com/gone -> 200" in done.out
    assert "+ GET https://api.example.com/come -> 200" in done.out
    rows = [" ".join(line.split()) for line in done.out.splitlines()]
    for row in (
        "~ GET https://api.example.com/users/1 -> 200",
        "status - 200",
        "+ 201",
        "response.headers.x-added - (absent)",
        "response.body.name - Ada",
        "+ Eve",
        "response.body.roles[1] - (absent)",
        "+ root",
        "~ DNS api.example.com A -> 10.0.0.1",
    ):
        assert row in rows, done.out
    changes = [json.loads(line) for line in netcapture("diff", "--json", old, new).out.splitlines()]
    kinds = {change["title"].split()[1]: change["change"] for change in changes}
    assert kinds == {
        "api.example.com": "changed",
        "https://api.example.com/gone": "removed",
        "https://api.example.com/come": "added",
        "https://api.example.com/users/1": "changed",
    }


def test_flows_are_paired_by_what_was_asked(netcapture, cassette, exchange_of):
    bodies = (b'{"n": 1}', b'{"n": 2}', b'{"n": 3}')
    old = cassette(*(exchange_of("POST", body=b) for b in bodies), name="old.cassette")
    new = cassette(*(exchange_of("POST", body=b) for b in bodies[1:]), name="new.cassette")
    done = netcapture("diff", old, new)
    assert [line[0] for line in done.out.splitlines()[2:]] == ["-"]


def test_what_was_scrubbed_counts_as_equal(netcapture, cassette, exchange_of):
    def one(secret, name):
        return cassette(exchange_of(headers=[("Authorization", f"Bearer {secret}")]), name=name)

    old, new = one("first-secret", "old.cassette"), one("other-secret", "new.cassette")
    assert old.read_bytes() != new.read_bytes()
    assert netcapture("diff", old, new).status == 0


def test_shards_become_one(netcapture, cassette, exchange_of, tmp_path):
    one = cassette(exchange_of(target="/a"), exchange_of(target="/b"), name="1.cassette")
    two = cassette(exchange_of(target="/c"), exchange_of(target="/b"), name="2.cassette")
    out = tmp_path / "deep" / "all.cassette"
    done = netcapture("merge", one, two, "-o", out)
    assert done.out == f"{out}: 4 flows, 1 of them in more than one: 3 flows written\n"
    assert [flow[-8:] for flow in flows_in(out)] == [f"m/{x} → 200"[-8:] for x in "abc"]
    assert "all.cassette: 3 flows" in (out.parent / "all.cassette.txt").read_text()
    assert netcapture("merge", one, two).status == 2


@pytest.fixture
def repository(tmp_path, monkeypatch):
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "ada@example.com")
    command = folder.parent / "bin" / "netcapture"
    command.parent.mkdir()
    code = "from pytest_netcapture.cli.main import main; main()"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    monkeypatch.chdir(folder)

    def git(*arguments, status=0):
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    git("init", "-q", "-b", "main")
    return git


def test_git_shows_and_merges_cassettes(repository, netcapture, exchange_of, cassette, tmp_path):
    git, name = repository, "repository/api.cassette"
    done = netcapture("git-setup")
    assert done.status == 0
    assert "commit it" in done.out
    assert "had what names them" in netcapture("git-setup").out
    base = [exchange_of(target="/a"), exchange_of(target="/b")]
    cassette(*base, name=name)
    git("add", ".")
    git("commit", "-qm", "base")
    git("checkout", "-qb", "other")
    cassette(base[0], exchange_of(target="/theirs"), name=name)
    git("commit", "-qam", "b goes, theirs comes")
    git("checkout", "-q", "main")
    cassette(*base, exchange_of(target="/ours", answer=b'{"new": 1}'), name=name)
    git("commit", "-qam", "ours comes")
    shown = git("log", "-p", "-1", "--", "api.cassette")
    assert "+--- 3. GET https://api.example.com/ours -> 200" in shown
    removed = [line for line in shown.splitlines() if re.match(r"-(?!--)", line)]
    assert removed == [], "what git calls its file is no change"
    git("merge", "-q", "other", "-m", "both")
    merged = [flow.split("/")[3].split()[0] for flow in flows_in(tmp_path / name)]
    assert merged == ["a", "ours", "theirs"]


def test_git_is_told_of_a_conflict(repository, netcapture, exchange_of, cassette, tmp_path):
    git, name = repository, "repository/api.cassette"
    netcapture("git-setup")
    cassette(exchange_of(answer=b"1"), name=name)
    git("add", ".")
    git("commit", "-qm", "base")
    git("checkout", "-qb", "other")
    cassette(exchange_of(answer=b"2"), name=name)
    git("commit", "-qam", "two")
    git("checkout", "-q", "main")
    cassette(exchange_of(answer=b"3"), name=name)
    git("commit", "-qam", "three")
    told = git("merge", "-q", "other", "-m", "both", status=1)
    assert "api.cassette: both sides changed GET https://api.example.com/ -> 200" in told
    assert "git checkout --theirs api.cassette" in told
    (left,) = Source(str(tmp_path / name)).recordings
    assert left.flow().response.content == b"3"


def test_outside_of_a_repository(netcapture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    done = netcapture("git-setup")
    assert done.status == 2
    assert "not a git repository" in done.err
