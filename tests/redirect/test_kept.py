"""Encoded messages are kept for the next session, and never trusted when they are not ours."""

import os
import subprocess
import sys

import pytest

from pytest_netcapture.redirect import kept as kept_module
from pytest_netcapture.redirect.kept import kept


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pytest-netcapture"


def fail():
    raise AssertionError("built again")


def test_what_was_built_once_is_not_built_again(cache):
    assert kept("x", lambda: b"encoded") == b"encoded"
    assert kept("x", fail) == b"encoded"
    assert oct(cache.stat().st_mode)[-3:] == "700"
    assert [oct(file.stat().st_mode)[-3:] for file in cache.iterdir()] == ["600"]


def test_names_are_apart(cache):
    assert [kept(n, n.encode) for n in ("a", "b", "a")] == [b"a", b"b", b"a"]


@pytest.mark.parametrize("damage", [b"", b"short", bytes(16) + b"encoded"])
def test_a_damaged_file_is_made_anew(cache, damage):
    kept("x", lambda: b"encoded")
    (file,) = cache.iterdir()
    file.write_bytes(damage)
    assert kept("x", lambda: b"again") == b"again"
    assert kept("x", fail) == b"again"


def test_a_change_of_ours_is_another_file(cache, monkeypatch):
    kept("x", lambda: b"old")
    monkeypatch.setattr(kept_module, "_versions", lambda: "another")
    assert kept("x", lambda: b"new") == b"new"


def test_a_folder_that_others_may_use_is_not_used(cache):
    cache.mkdir(mode=0o755)
    cache.chmod(0o777)
    assert kept("x", lambda: b"one") == b"one"
    assert kept("x", lambda: b"two") == b"two"
    assert list(cache.iterdir()) == []


def test_a_link_is_not_followed(cache, tmp_path):
    kept("x", lambda: b"encoded")
    (file,) = cache.iterdir()
    os.replace(file, tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert kept("x", lambda: b"own") == b"own"


def test_nowhere_to_keep_is_no_error(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert kept("x", lambda: b"encoded") == b"encoded"


def test_a_second_session_encodes_the_same_without_pyroute2(cache):
    code = """
import sys
from pytest_netcapture.redirect import ruleset
batch = ruleset.batch(ruleset.COMPAT, ipv6=True)
sys.stdout.write(f"{batch.data.hex()} {'pyroute2' in sys.modules}")
"""

    def session():
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True
        ).stdout.split()

    first, second = session(), session()
    assert first[0] == second[0]
    assert (first[1], second[1]) == (b"True", b"False")
