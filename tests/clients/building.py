"""Compile the clients that want it, once a run, whichever xdist worker comes first."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
SLOW = "NETCAPTURE_CLIENTS"
"""`all` in the environment also builds what takes minutes, or comes from a registry."""

NPM_PACKAGES = ("axios", "undici", "deno", "bun")


def wants_slow() -> None:
    if os.environ.get(SLOW) != "all":
        pytest.skip(f"not in CI: {SLOW}=all builds it, which takes minutes")


def needs(program: str, *, in_ci: bool = True) -> str:
    path = shutil.which(program)
    if not path:
        pytest.skip(f"{'' if in_ci else 'not in CI: '}{program} is not installed")
    return path


class Builder:
    """Builds into one directory of the run; a file `<name>.built` says that it is done."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def build(
        self,
        name: str,
        command: list[str],
        environ: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Path:
        """Run `command` in the directory unless it was; `name` is what it makes there."""
        with open(self.directory / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = self.directory / f"{name}.built"
            if not done.exists():
                run = subprocess.run(
                    command,
                    cwd=cwd or self.directory,
                    env=os.environ | (environ or {}),
                    capture_output=True,
                    text=True,
                )
                assert run.returncode == 0, run.stdout + run.stderr
                done.touch()
        return self.directory / name

    # ── languages ────────────────────────────────────────────────────────────────────────────

    def c(self, source: str, *arguments: str) -> Path:
        name = source.removesuffix(".c")
        compiler = needs("gcc")
        return self.build(name, [compiler, "-o", name, str(PROGRAMS / source), *arguments])

    def go(self, source: str, *, static: bool) -> Path:
        name = "go-static" if static else "go-dynamic"
        environ = {"CGO_ENABLED": str(int(not static)), "GOFLAGS": "-mod=mod", "GOPROXY": "off"}
        if not os.access(os.path.expanduser("~"), os.W_OK):
            environ["GOCACHE"] = str(self.directory / "go-cache")
        command = [needs("go"), "build", "-o", name, str(PROGRAMS / source)]
        return self.build(name, command, environ)

    def go_module(self, folder: Path) -> Path:
        """Build a Go program with a go.mod; skip where Go, or its modules, cannot be had."""
        program = needs("go", in_ci=False)
        environ = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOWORK": "off"}
        if not os.access(os.path.expanduser("~"), os.W_OK):
            environ |= {name: str(self.directory / name) for name in ("GOCACHE", "GOMODCACHE")}
        wanted, found = _go_version((folder / "go.mod").read_text(), "go "), _installed_go(program)
        if found < wanted:
            pytest.skip(
                f"not in CI: needs Go {wanted[0]}.{wanted[1]}, this is {found[0]}.{found[1]}"
            )
        source = self.directory / f"{folder.name}-source"
        with open(self.directory / f"{folder.name}.modules", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            shutil.copytree(folder, source, dirs_exist_ok=True)
            command = [program, "mod", "download", "-modcacherw"]
            got = subprocess.run(
                command, cwd=source, env=os.environ | environ, capture_output=True, text=True
            )
        if got.returncode:
            pytest.skip(
                f"not in CI: go mod download: {(got.stderr.splitlines() or ['failed'])[-1]}"
            )
        command = [program, "build", "-modcacherw", "-o", str(self.directory / folder.name), "."]
        return self.build(folder.name, command, environ, cwd=source)

    def java(self, *names: str) -> Path:
        sources = [str(PROGRAMS / f"{name}.java") for name in names]
        self.build("classes", [needs("javac"), "-nowarn", "-d", "classes", *sources])
        return self.directory / "classes"

    def npm(self) -> Path:
        """Install `NPM_PACKAGES` from the registry; return `node_modules`."""
        wants_slow()
        options = ["--no-audit", "--no-fund", "--prefix", "."]
        self.build("node_modules", [needs("npm"), "install", *options, *NPM_PACKAGES])
        return self.directory / "node_modules"

    def cargo(self, crate: str, *, features: str = "") -> Path:
        wants_slow()
        directory = self.directory / f"{crate}-{features or 'plain'}"  # cargo writes a lock file
        shutil.copytree(PROGRAMS / crate, directory, dirs_exist_ok=True)
        command = [needs("cargo"), "build", "--manifest-path", str(directory / "Cargo.toml")]
        target = ["--features", features, "--target-dir", str(directory / "target")]
        self.build(directory.name, [*command, *target])
        return directory / "target" / "debug" / "get"


def shared_directory(worker_directory: Path, worker: str | None) -> Path:
    """Return a directory that all workers of the run share (they have siblings for their own)."""
    base = worker_directory.parent if worker else worker_directory
    directory = base / "built-clients"
    directory.mkdir(exist_ok=True)
    return directory


def _go_version(text: str, before: str) -> tuple[int, int]:
    found = re.search(before + r"(\d+)\.(\d+)", text)
    assert found, text
    return int(found[1]), int(found[2])


def _installed_go(program: str) -> tuple[int, int]:
    done = subprocess.run([program, "version"], capture_output=True, text=True, check=True)
    return _go_version(done.stdout, "version go")
