"""Files laid over files, live."""

from __future__ import annotations

import errno
import os

import pytest

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox import capabilities, mounts, namespaces

pytestmark = [pytest.mark.live, pytest.mark.parametrize("rootless", [True, False])]


def _write(path, text):
    with open(path, "w") as file:
        file.write(text)
    return path


def _read(path):
    with open(path) as file:
        return file.read()


def test_bind_shows_inside_only(in_sandbox, scratch, rootless):
    target = _write(f"{scratch}/target", "old")

    def child():
        source = _write(f"{scratch}/source", "new")
        return mounts.bind_file(source, target), _read(target)

    assert in_sandbox(child, rootless=rootless) == (target, "new")
    assert _read(target) == "old"


def test_bind_is_read_only_unless_asked(in_sandbox, scratch, rootless):
    def child():
        source, target = _write(f"{scratch}/source", "new"), _write(f"{scratch}/target", "old")
        mounts.bind_file(source, target)
        with pytest.raises(OSError) as caught:
            _write(target, "x")
        other = _write(f"{scratch}/other", "old")
        mounts.bind_file(source, other, read_only=False)
        _write(other, "written")
        return caught.value.errno, _read(source)

    assert in_sandbox(child, rootless=rootless) == (errno.EROFS, "written")


def test_bind_over_a_symlink(in_sandbox, scratch, rootless):
    def child():
        source = _write(f"{scratch}/source", "new")
        os.mkdir(f"{scratch}/run")
        end = _write(f"{scratch}/run/stub-resolv.conf", "old")
        os.symlink("run/stub-resolv.conf", f"{scratch}/middle")
        os.symlink(f"{scratch}/../{os.path.basename(scratch)}/middle", f"{scratch}/resolv.conf")
        covered = mounts.bind_file(source, f"{scratch}/resolv.conf")
        return covered == end, _read(f"{scratch}/resolv.conf"), _read(end)

    assert in_sandbox(child, rootless=rootless) == (True, "new", "new")


def test_bind_over_a_dangling_symlink(in_sandbox, scratch, rootless):
    def child():
        os.symlink("run/gone", f"{scratch}/resolv.conf")
        source = _write(f"{scratch}/source", "new")
        with pytest.raises(EnvironmentProblem) as caught:
            mounts.bind_file(source, f"{scratch}/resolv.conf")
        return caught.value.message

    assert f"the symlink dangles, {scratch}/run/gone" in in_sandbox(child, rootless=rootless)


def test_bind_over_a_bind_mount(in_child, scratch, rootless):
    def child():
        # Plays the container runtime, whose mounts are locked for the namespace inside it.
        namespaces.enter_user_namespace()
        namespaces.unshare_mounts()
        target = _write(f"{scratch}/resolv.conf", "image's")
        mounts.bind_file(_write(f"{scratch}/runtime", "runtime's"), target)
        return in_child(lambda: inner(target), rootless=False)

    def inner(target):
        namespaces.enter_user_namespace()
        namespaces.unshare_mounts()
        mounts.bind_file(_write(f"{scratch}/ours", "ours"), target)
        return _read(target)

    assert in_child(child, rootless=rootless) == "ours"


def test_bind_over_a_file_of_a_read_only_file_system(in_child, scratch, rootless):
    def child():
        namespaces.enter_user_namespace()
        namespaces.unshare_mounts()
        for name in ("etc", "new"):
            os.mkdir(f"{scratch}/{name}")
        target = _write(f"{scratch}/etc/resolv.conf", "old")
        mounts.overlay([f"{scratch}/new"], f"{scratch}/etc")
        mounts.bind_file(_write(f"{scratch}/ours", "ours"), target)
        return _read(target)

    assert in_child(child, rootless=rootless) == "ours"


def test_overlay_shows_the_old_and_the_new(in_sandbox, scratch, rootless):
    def child():
        for name in ("new, with: signs", "target"):
            os.mkdir(f"{scratch}/{name}")
        _write(f"{scratch}/target/old", "old")
        _write(f"{scratch}/target/both", "old")
        for name in ("new", "both"):
            _write(f"{scratch}/new, with: signs/{name}", "new")
        mounts.overlay([f"{scratch}/new, with: signs"], f"{scratch}/target")
        with pytest.raises(OSError) as caught:
            _write(f"{scratch}/target/old", "x")
        names = sorted(os.listdir(f"{scratch}/target"))
        return {name: _read(f"{scratch}/target/{name}") for name in names}, caught.value.errno

    contents, number = in_sandbox(child, rootless=rootless)
    assert contents == {"both": "new", "new": "new", "old": "old"}
    assert number == errno.EROFS


def test_mirror_shows_the_old_and_the_new(in_sandbox, scratch, rootless):
    def child():
        for name in ("new", "target"):
            os.mkdir(f"{scratch}/{name}")
        _write(f"{scratch}/target/old", "old")
        os.symlink("old", f"{scratch}/target/link")
        _write(f"{scratch}/new/new", "new")
        mounts.mirror(f"{scratch}/new", f"{scratch}/target", f"{scratch}/work")
        names = sorted(os.listdir(f"{scratch}/target"))
        link = os.readlink(f"{scratch}/target/link")
        return {name: _read(f"{scratch}/target/{name}") for name in names}, link

    assert in_sandbox(child, rootless=rootless) == (
        {"link": "old", "new": "new", "old": "old"},
        "old",
    )


def test_mirror_keeps_sub_directories_and_adds_some(in_sandbox, scratch, rootless):
    def child():
        for name in ("new", "new/more", "target", "target/sub"):
            os.mkdir(f"{scratch}/{name}")
        _write(f"{scratch}/target/sub/old", "old")
        _write(f"{scratch}/new/more/new", "new")
        mounts.mirror(f"{scratch}/new", f"{scratch}/target", f"{scratch}/work")
        mounts.bind_file(_write(f"{scratch}/x", "bound"), f"{scratch}/target/sub/old")
        return _read(f"{scratch}/target/sub/old"), _read(f"{scratch}/target/more/new")

    assert in_sandbox(child, rootless=rootless) == ("bound", "new")


def test_a_directory_with_a_mount_below_is_mirrored(in_child, scratch, rootless):
    def child():
        namespaces.enter_user_namespace()
        namespaces.unshare_mounts()
        for name in ("new", "target"):
            os.mkdir(f"{scratch}/{name}")
        mounts.bind_file(_write(f"{scratch}/x", "bound"), _write(f"{scratch}/target/old", "old"))
        _write(f"{scratch}/new/new", "new")
        return in_child(inner, rootless=False)

    def inner():
        namespaces.enter_user_namespace()
        namespaces.unshare_mounts()
        mounts.add_to_directory(f"{scratch}/new", f"{scratch}/target", f"{scratch}/work")
        return _read(f"{scratch}/target/new"), _read(f"{scratch}/target/old")

    assert in_child(child, rootless=rootless) == ("new", "bound")


def test_who_may_mount(in_sandbox, in_child, rootless):
    def inside():
        may = mounts.can_mount()
        capabilities.keep_only(())
        return may, mounts.can_mount()

    assert in_sandbox(inside, rootless=rootless) == (True, os.geteuid() == 0 and not rootless)
