"""Reading and writing, and that replacing the functions of `os` changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import types
from unittest import mock

import pytest

import pytest_netcapture.sandbox
from pytest_netcapture.sandbox.original import original, read_file, read_text, real_path, write_file

SESSION_MODULES = "namespaces, capabilities, mounts, trust, resolver, runtime, processes"


def test_replaced_functions_are_not_used(tmp_path):
    path = str(tmp_path / "file")
    names = ("open", "read", "write", "close", "stat", "lstat", "listdir", "readlink")
    patches = [mock.patch.object(os, name, side_effect=AssertionError) for name in names]
    for patch in patches:
        patch.start()
    try:
        write_file(path, b"content")
        seen = read_file(path), original.listdir(str(tmp_path)), real_path(path)
    finally:
        for patch in patches:
            patch.stop()
    assert seen == (b"content", ["file"], os.path.realpath(path))


def test_no_module_has_one_among_its_globals():
    # Where pyfakefs and freezegun look for functions to replace.
    known = {
        id(value)
        for name, value in vars(os).items()
        if isinstance(value, types.BuiltinFunctionType)
    }
    known |= {id(time.time), id(time.monotonic), id(time.monotonic_ns), id(open)}
    for name, found in list(sys.modules.items()):
        if name.startswith(pytest_netcapture.sandbox.__name__):
            assert not [
                key
                for key, value in vars(found).items()
                if id(value) in known and not key.startswith("__")
            ]


def test_importing_is_cheap():
    program = (
        "import sys, pytest, pytest_netcapture.errors; before = set(sys.modules)\n"
        f"from pytest_netcapture.sandbox import {SESSION_MODULES}\n"
        "print(*sorted(n for n in set(sys.modules) - before if 'netcapture' not in n))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert set(run.stdout.split()) <= {
        "_ctypes",
        "ctypes",
        "ctypes._endian",
        "fcntl",
        "select",
        "signal",
        "tempfile",
    }


def test_a_missing_file_reads_as_none(tmp_path):
    assert read_text(str(tmp_path / "none")) is None


def test_a_symlink_is_not_written_through(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "end")
    with pytest.raises(OSError):
        write_file(str(tmp_path / "link"), b"")


@pytest.mark.parametrize(
    "path", ["a/../link/x", "link/./x", "abs/../x", "dangling", "/", "link//x", "up/link/x"]
)
def test_real_paths(tmp_path, path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "up").symlink_to(".")
    (tmp_path / "abs").symlink_to(tmp_path / "a")
    (tmp_path / "dangling").symlink_to("a/none")
    whole = os.path.join(tmp_path, path)
    assert real_path(whole) == os.path.realpath(whole)


def test_a_loop_of_symlinks_is_an_error(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels"):
        real_path(str(tmp_path / "loop"))
