"""The private directory goes with its owner, however that ends."""

from __future__ import annotations

import os
import signal
import stat

import pytest

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox.runtime import RuntimeDirectory, sweep_stale


@pytest.fixture
def parent(tmp_path):
    return str(tmp_path)


def _owner(parent):
    """Fork a process that creates a directory and stays; return its pid and the path."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        directory = RuntimeDirectory.create(parent)
        os.makedirs(f"{directory.path}/deep/deeper")
        os.write(writer, directory.path.encode())
        signal.pause()
        os._exit(0)
    path = os.read(reader, 4096).decode()
    os.close(reader)
    os.close(writer)
    return pid, path


def test_it_is_private_and_removed_once(parent):
    directory = RuntimeDirectory.create(parent)
    assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o700
    assert os.path.basename(directory.path).startswith("netcapture-")
    with open(f"{directory.make('etc')}/resolv.conf", "w"):
        os.symlink("/etc", f"{directory.path}/link")
    directory.remove()
    directory.remove()
    assert os.listdir(parent) == []
    assert os.path.exists("/etc/passwd")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_killed_owners_directory_is_swept(parent):
    pid, path = _owner(parent)
    assert sweep_stale(parent) == []
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert sweep_stale(parent) == [path]
    assert os.listdir(parent) == []


def test_a_living_owners_directory_is_not_swept(parent):
    directory = RuntimeDirectory.create(parent)
    assert sweep_stale(parent) == []
    directory.remove()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_remove_it(parent):
    directory = RuntimeDirectory.create(parent)
    pid = os.fork()
    if pid == 0:
        directory.remove()
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.path.exists(directory.path)
    directory.remove()


def test_a_removal_cut_short_is_finished(parent):
    os.makedirs(f"{parent}/netcapture-0123456789ab/left")
    assert sweep_stale(parent) == [f"{parent}/netcapture-0123456789ab"]


def test_one_half_made_is_swept_after_an_hour(parent):
    for name, age in (("00000000000d", 3700), ("00000000000e", 0)):
        path = f"{parent}/netcapture-new-{name}"
        os.mkdir(path)
        os.utime(path, (os.stat(path).st_atime - age, os.stat(path).st_mtime - age))
    assert sweep_stale(parent) == [f"{parent}/netcapture-new-00000000000d"]


def test_a_symlink_is_not_swept(parent, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "precious").touch()
    os.symlink(elsewhere, f"{parent}/netcapture-aaaaaaaaaaaa")
    assert sweep_stale(parent) == []
    assert (elsewhere / "precious").exists()


def test_what_belongs_to_others_is_not_swept(parent, as_root):
    os.mkdir(f"{parent}/netcapture-bbbbbbbbbbbb")
    os.chown(f"{parent}/netcapture-bbbbbbbbbbbb", 12345, 12345)
    assert sweep_stale(parent) == []


def test_an_unwritable_parent_is_named(parent):
    with pytest.raises(EnvironmentProblem, match=r"cannot make a private directory in .*none"):
        RuntimeDirectory.create(f"{parent}/none")


def test_a_users_own_directory_with_a_like_name_is_not_swept(tmp_path):
    (tmp_path / "netcapture-demo").mkdir()
    (tmp_path / "netcapture-0123456789abc").mkdir()
    assert sweep_stale(str(tmp_path)) == []
