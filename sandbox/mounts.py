"""Lay files over files, in this process tree only.

1. All of it needs a private mount namespace (`namespaces.unshare_mounts`) and leaves with it.
2. A file is laid over a file by a bind mount: nothing else of the directory changes, and it works
   in a container whose /etc/resolv.conf is a mount itself. Proof: test_bind_over_a_bind_mount.
3. Where a new name must appear, a read-only overlay of the directory is needed; if the kernel
   refuses (mounts below it, kernel before 5.11, overlays stacked too high), small directories are
   mirrored: links and copies in a directory of ours, bound over it. Proof:
   test_mirror_shows_the_old_and_the_new.
4. Symlinks are followed to their end; a dangling one is named in the error. Proof:
   test_bind_over_a_symlink, test_bind_over_a_dangling_symlink.
5. Nobody in the sandbox may unlink or rename a file that is mounted over (EBUSY), nor, read-only,
   write to it (EROFS).
"""

from __future__ import annotations

import errno
import stat

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox import kernel
from pytest_netcapture.sandbox.original import (
    exists,
    original,
    read_file,
    read_text,
    real_path,
    write_file,
)
from pytest_netcapture.sandbox.syscalls import mount

SLUG = "docs/limits.md#mounts"
_MIRROR_LIMIT = 4096


def can_mount() -> bool:
    """Tell whether this thread may mount, changing nothing.

    Two propagation types at once are refused with EINVAL, but only after the permission has been
    checked (fs/namespace.c, path_mount). Proof: test_permission_is_checked_before_flags.
    """
    try:
        mount("", "/", "", kernel.MS_SHARED | kernel.MS_PRIVATE)
    except OSError as error:
        return error.errno == errno.EINVAL
    return False


def bind_file(source: str, target: str, *, read_only: bool = True) -> str:
    """Lay the file `source` over `target` and return the path that `target` led to."""
    end = real_path(target)
    if not exists(end):
        raise _no_such_file(target, end)
    try:
        mount(source, end, "", kernel.MS_BIND)
    except OSError as error:
        raise _refused(f"cannot lay a file over {_path(target, end)}", error) from error
    if read_only:
        _make_read_only(end)
    return end


def overlay(lower_dirs: list[str], target: str) -> str:
    """Lay the contents of `lower_dirs` (first one wins) over directory `target`, read-only."""
    end = real_path(target)
    if below := mounts_below(end):
        # Rootless the kernel refuses (EINVAL); as root it would hide a container's /etc/hosts.
        raise EnvironmentProblem(
            f"cannot lay an overlay over {_path(target, end)}: {below[0]} is a mount below it",
            slug=SLUG,
        )
    layers = ":".join(_escape(layer) for layer in [*lower_dirs, end])
    try:
        mount("netcapture", end, "overlay", kernel.MS_RDONLY, f"lowerdir={layers}")
    except OSError as error:
        raise _refused(f"cannot lay an overlay over {_path(target, end)}", error) from error
    return end


def mirror(additions: str, target: str, directory: str) -> str:
    """Do what `overlay` does without one: fill the new `directory`, bind it over `target`.

    Sub-directories of `target` are bound, so it does not matter how much they hold.
    """
    end = real_path(target)
    names = original.listdir(end)
    if len(names) > _MIRROR_LIMIT:
        raise EnvironmentProblem(f"{end} has {len(names)} entries: too many to mirror", slug=SLUG)
    try:
        _fill(directory, end, names, additions)
        mount(directory, end, "", kernel.MS_BIND | kernel.MS_REC)
    except OSError as error:
        raise _refused(f"cannot lay a copy over {_path(target, end)}", error) from error
    _make_read_only(end)
    return end


def add_to_directory(additions: str, target: str, directory: str) -> str:
    """Make `additions` appear in `target`: by overlay, else by a mirror in `directory`."""
    try:
        return overlay([additions], target)
    except EnvironmentProblem:
        return mirror(additions, target, directory)


def mounts_below(directory: str) -> list[str]:
    """Return the mount points inside `directory`."""
    table = read_text("/proc/self/mountinfo") or ""
    points = [line.split(" ", 5)[4] for line in table.splitlines()]
    return [point for point in map(_unescape, points) if point.startswith(f"{directory}/")]


def _fill(directory: str, end: str, names: list[str], additions: str) -> None:
    original.mkdir(directory, 0o755)
    new = original.listdir(additions)
    for name in names:
        if name not in new:
            _mirror_entry(f"{end}/{name}", f"{directory}/{name}")
    for name in new:
        _copy(f"{additions}/{name}", f"{directory}/{name}")


def _copy(source: str, copy: str) -> None:
    """Copy a file, or a directory with all it holds: ours, so there is nothing else in it."""
    if not stat.S_ISDIR(original.stat(source).st_mode):
        write_file(copy, read_file(source), 0o644)
        return
    original.mkdir(copy, 0o755)
    for name in original.listdir(source):
        _copy(f"{source}/{name}", f"{copy}/{name}")


def _mirror_entry(source: str, copy: str) -> None:
    kind = original.lstat(source).st_mode
    if stat.S_ISLNK(kind):
        original.symlink(original.readlink(source), copy)
    elif stat.S_ISDIR(kind):
        original.mkdir(copy, 0o755)
        mount(source, copy, "", kernel.MS_BIND | kernel.MS_REC)
    elif stat.S_ISREG(kind):
        try:
            write_file(copy, read_file(source), 0o644)
        except PermissionError:
            return  # unreadable for us before, absent now


def _make_read_only(target: str) -> None:
    """Remount read-only, with the flags that another user namespace locked; or leave it."""
    flags = original.statvfs(target).f_flag
    keep = flags & kernel.LOCKED_FLAGS
    if flags & kernel.ST_RELATIME:
        keep |= kernel.MS_RELATIME
    try:
        mount("", target, "", kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | keep)
    except OSError:
        return


def _escape(path: str) -> str:
    for special in "\\:,":
        path = path.replace(special, "\\" + special)
    return path


def _unescape(point: str) -> str:
    """Undo what mountinfo does to blanks and backslashes (proc(5))."""
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        point = point.replace(f"\\{code}", character)
    return point


def _path(target: str, end: str) -> str:
    return target if target == end else f"{target} (which leads to {end})"


def _no_such_file(target: str, end: str) -> EnvironmentProblem:
    if target == end:
        return EnvironmentProblem(f"cannot lay a file over {target}: it does not exist", slug=SLUG)
    return EnvironmentProblem(
        f"cannot lay a file over {target}: the symlink dangles, {end} does not exist", slug=SLUG
    )


def _refused(what: str, error: OSError) -> EnvironmentProblem:
    name = errno.errorcode.get(error.errno or 0, "?")
    cause, cure = _REASONS.get(error.errno or 0, (error.strerror or "", ""))
    return EnvironmentProblem(f"{what}: {name}: {cause}", cure=cure, slug=SLUG)


_REASONS = {
    errno.EPERM: (
        "this process may not mount",
        (
            "containers: --security-opt seccomp=unconfined --security-opt apparmor=unconfined, or "
            "--privileged; see `netcapture doctor`"
        ),
    ),
    errno.EACCES: (
        "a security module (AppArmor, SELinux) or a directory's mode forbids it",
        "containers: --security-opt apparmor=unconfined",
    ),
    errno.EINVAL: (
        "the kernel refuses this combination (mounts below the directory, or overlays too deep)",
        "",
    ),
    errno.ENODEV: ("this kernel has no overlay file system", "modprobe overlay"),
    errno.ENOSPC: ("too many mounts", "raise fs.mount-max"),
    errno.ENOTDIR: ("one is a file, the other a directory", ""),
}
