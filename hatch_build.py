"""Builds what is not Python into the wheel: the Rust stack of `tun`, and the BPF object of `ebpf`.

Without cargo or clang, or where one cannot be built, the wheel lacks it, and the redirector says
why. NETCAPTURE_STACK=require and NETCAPTURE_BPF=require make that an error, =skip builds nothing.
The stack makes the wheel one for a platform; the BPF object is the kernel's, the same everywhere.
NETCAPTURE_PLATFORM names the platform of the wheel, such as manylinux_2_28_x86_64.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "libnetcapture_stack.so"
OBJECT = "capture.bpf.o"


class NativeHook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not sysconfig.get_platform().startswith("linux"):
            return
        self._add("NETCAPTURE_BPF", "ebpf", _build_object, version, build_data)
        if self._add("NETCAPTURE_STACK", "tun", _build_stack, version, build_data):
            build_data["pure_python"] = False
            platform = os.environ.get("NETCAPTURE_PLATFORM") or sysconfig.get_platform()
            # Nothing in it is Python's: one wheel for every interpreter.
            build_data["tag"] = f"py3-none-{platform.replace('-', '_').replace('.', '_')}"

    def _add(
        self,
        variable: str,
        redirector: str,
        build: Callable[[Path], Path],
        version: str,
        build_data: dict[str, Any],
    ) -> bool:
        """Build a file and put it where it belongs; tell whether the wheel has it now."""
        wanted = os.environ.get(variable, "auto")
        if wanted == "skip":
            return False
        room = Path(self.root, "redirect")
        try:
            built = build(room)
        except (OSError, RuntimeError) as problem:
            if wanted == "require":
                raise
            self.app.display_warning(f"without the redirector `{redirector}`: {problem}")
            return False
        if version == "editable":
            _replace(built, room / built.name)
            return False
        build_data["force_include"][str(built)] = f"pytest_netcapture/redirect/{built.name}"
        return True


def _build_stack(room: Path) -> Path:
    cargo = shutil.which("cargo")
    if cargo is None:
        raise RuntimeError("cargo is not installed (Rust 1.91 or later: rustup.rs)")
    crate = room / "stack"
    target = Path(os.environ.get("CARGO_TARGET_DIR") or crate / "target")
    command = [cargo, "build", "--release", "--locked", "--quiet", "--target-dir", str(target)]
    _run(command, crate)
    return target / "release" / LIBRARY


def _build_object(room: Path) -> Path:
    clang = shutil.which("clang")
    if clang is None:
        raise RuntimeError("clang is not installed")
    source, target = room / "bpf", room / "bpf" / "target" / OBJECT
    target.parent.mkdir(exist_ok=True)
    # Debian keeps the kernel's headers (linux-libc-dev) in a folder of the machine's own.
    multiarch = sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    command = [clang, "-target", "bpf", "-mcpu=v2", "-O2", "-Wall", "-Wextra", "-Werror"]
    command += ["-I", f"/usr/include/{multiarch}", "-c", "capture.bpf.c", "-o", str(target)]
    _run(command, source)
    return target


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        name = os.path.basename(command[0])
        raise RuntimeError(f"{name} failed:\n{done.stderr.strip()}")


def _replace(source: Path, target: Path) -> None:
    """Put a file in place at once: a process may have the old one open."""
    fresh = target.with_suffix(f".{os.getpid()}")
    shutil.copy2(source, fresh)
    os.replace(fresh, target)
