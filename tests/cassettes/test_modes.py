"""The record modes, file times, and what a save leaves in the folder."""

from __future__ import annotations

import os
import time

import pytest

from pytest_netcapture.cassettes.miss import Miss
from pytest_netcapture.errors import CassetteError

SESSION_BEGAN_BEFORE = {"session_age": 3_600_000_000_000}


@pytest.fixture
def numbers(open_cassette):
    """Return the answers in a cassette as one string, in order of their paths."""

    def read(**use):
        return b" ".join(f.response.content for f in open_cassette("none", **use).unused).decode()

    return read


def n(flow_of, path, answer):
    return flow_of("GET", path, answer=str(answer).encode())


@pytest.mark.parametrize(
    ("mode", "exists", "can_play", "can_record"),
    [
        ("none", False, True, False),
        ("none", True, True, False),
        ("once", False, False, True),
        ("once", True, True, False),
        ("new_episodes", False, False, True),
        ("new_episodes", True, True, True),
        ("all", True, False, True),
        ("rewrite", True, False, True),
    ],
)
def test_what_each_mode_may(record, open_cassette, flow_of, *, mode, exists, can_play, can_record):
    if exists:
        record(flow_of())
    cassette = open_cassette(mode)
    assert (cassette.can_play, cassette.can_record) == (can_play, can_record)
    assert isinstance(cassette.play_http(flow_of().request), Miss) is not (exists and can_play)


def test_once_goes_on_in_its_own_session(record, open_cassette, flow_of, numbers):
    record(n(flow_of, "/a", 1), mode="once", **SESSION_BEGAN_BEFORE)
    cassette = open_cassette("once", **SESSION_BEGAN_BEFORE)
    assert cassette.can_play
    assert cassette.can_record
    cassette.record(n(flow_of, "/b", 2))
    cassette.save()
    assert numbers() == "1 2"


def test_new_episodes_adds(record, flow_of, numbers):
    record(n(flow_of, "/b", 2))
    record(n(flow_of, "/a", 1), n(flow_of, "/b", 3))
    assert numbers() == "1 2 3"


def test_all_replaces_the_same_keys_and_keeps_the_rest(record, flow_of, numbers):
    record(n(flow_of, "/a", 1), n(flow_of, "/a", 2), n(flow_of, "/b", 3))
    record(n(flow_of, "/a", 4), mode="all")
    assert numbers() == "4 3"


def test_all_of_tests_that_share_a_cassette(record, flow_of, numbers, tmp_path):
    record(n(flow_of, "/a", 1), n(flow_of, "/a", 2), n(flow_of, "/b", 3), n(flow_of, "/c", 4))
    path = tmp_path / "c.cassette"
    os.utime(path, (1, 1))
    started = time.time_ns() - 5_000_000_000
    for path_of, answer in (("/a", 1), ("/a", 5), ("/b", 3), ("/b", 3)):
        record(n(flow_of, path_of, answer), mode="all", started=started)
    assert numbers() == "1 5 3 3 4"


def test_rewrite_starts_empty_once_a_session(record, flow_of, numbers, tmp_path):
    record(n(flow_of, "/a", 1))
    os.utime(tmp_path / "c.cassette", (1, 1))
    record(n(flow_of, "/b", 2), mode="rewrite", **SESSION_BEGAN_BEFORE)
    record(n(flow_of, "/c", 3), mode="rewrite", **SESSION_BEGAN_BEFORE)
    assert numbers() == "2 3"


def test_rewrite_of_a_damaged_file(record, flow_of, numbers, tmp_path):
    (tmp_path / "c.cassette").write_bytes(b"interactions: []")
    with pytest.raises(CassetteError):
        record(n(flow_of, "/a", 1), mode="new_episodes")
    record(n(flow_of, "/a", 1), mode="rewrite")
    assert numbers() == "1"


def test_no_traffic_no_file(record, tmp_path):
    for mode in ("none", "once", "new_episodes", "all", "rewrite"):
        assert not record(mode=mode, name="deep/er/c.cassette").written
    assert {p.name for p in tmp_path.iterdir()} == {"spool"}


def test_discard_leaves_nothing(open_cassette, flow_of, tmp_path):
    cassette = open_cassette("once", name="sub/c.cassette")
    cassette.record(flow_of())
    cassette.flush()
    assert len(list((tmp_path / "sub").iterdir())) == 1
    cassette.discard()
    assert not (tmp_path / "sub").exists()
    assert not cassette.save().written


def test_a_save_leaves_cassette_and_sidecar_only(record, flow_of, tmp_path):
    saved = record(flow_of(), name="sub/c.cassette")
    assert (saved.written, saved.added, saved.total) == (True, 1, 1)
    assert {p.name for p in (tmp_path / "sub").iterdir()} == {"c.cassette", "c.cassette.txt"}


def test_the_same_content_is_not_written_again(record, flow_of, tmp_path):
    path = tmp_path / "c.cassette"
    record(flow_of("GET", "/a"), flow_of("GET", "/b"))
    os.utime(path, (1, 1))
    before = path.read_bytes()
    saved = record(flow_of("GET", "/b"), flow_of("GET", "/a"), mode="rewrite")
    assert not saved.written
    assert path.stat().st_mtime == 1
    assert path.read_bytes() == before


def test_order_of_traffic_does_not_change_bytes(record, flow_of, tmp_path):
    flows = [flow_of("POST", f"/{n % 3}", host=f"h{n % 2}", body=b"%d" % n) for n in range(12)]
    record(*flows, name="one/c.cassette")
    record(*reversed(flows), name="two/c.cassette")
    for name in ("c.cassette", "c.cassette.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_saving_twice(open_cassette, flow_of, numbers):
    cassette = open_cassette("once")
    cassette.record(n(flow_of, "/a", 1))
    cassette.save()
    cassette.record(n(flow_of, "/b", 2))
    assert cassette.save().total == 2
    assert numbers() == "1 2"


def test_an_old_cassette_warns(record, open_cassette, flow_of, monkeypatch):
    record(flow_of())
    assert open_cassette("none", max_age=86_400).warnings == []
    later = time.time() + 10 * 86_400
    monkeypatch.setattr(time, "time", lambda: later)
    (warning,) = open_cassette("none", max_age=86_400).warnings
    assert "recorded 10 days ago" in warning


def test_a_link_is_followed_and_the_mode_kept(record, flow_of, tmp_path):
    record(flow_of("GET", "/a"), name="real.cassette")
    real, link = tmp_path / "real.cassette", tmp_path / "c.cassette"
    real.chmod(0o640)
    link.symlink_to(real)
    record(flow_of("GET", "/b"))
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_long_name(record, open_cassette, flow_of):
    name = "é" * 120 + ".cassette"
    record(flow_of(), name=name)
    assert len(open_cassette("none", name=name).unused) == 1


def test_a_full_disk_leaves_the_old_cassette(record, open_cassette, flow_of, tmp_path, monkeypatch):
    record(flow_of("GET", "/a"))
    before = (tmp_path / "c.cassette").read_bytes()
    cassette = open_cassette("new_episodes")
    cassette.record(flow_of("GET", "/b"))
    cassette.flush()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CassetteError, match="No space left") as caught:
        cassette.save()
    assert str(tmp_path / "c.cassette") in str(caught.value)
    assert (tmp_path / "c.cassette").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"spool", "c.cassette", "c.cassette.txt"}


def test_a_full_disk_while_the_test_runs(open_cassette, flow_of, tmp_path, monkeypatch):
    cassette = open_cassette("once", name="sub/c.cassette")
    cassette.record(flow_of("GET", "/b"))
    monkeypatch.setattr(
        os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    cassette.flush()
    monkeypatch.undo()
    with pytest.raises(CassetteError, match="No space left"):
        cassette.save()
    assert not (tmp_path / "sub").exists()


def test_a_folder_that_is_a_file(open_cassette, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CassetteError, match="Not a directory"):
        open_cassette("once", name="file/c.cassette")


def test_a_spooled_body_that_is_gone(open_cassette, flow_of, tmp_path):
    cassette = open_cassette("once")
    gone = flow_of("GET", "/gone")
    gone.response.body.path = str(tmp_path / "gone")
    cassette.record(gone)
    cassette.record(flow_of("GET", "/here"))
    assert cassette.save().total == 1
    assert "1 flow lost" in cassette.warnings[0]
