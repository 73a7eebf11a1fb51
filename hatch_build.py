"""Builds the Rust stack of the redirector `tun` into the wheel, where there is cargo.

Without cargo, or where the crate cannot be built, the wheel is pure Python: all works but `tun`,
which says why. NETCAPTURE_STACK=require makes that an error, NETCAPTURE_STACK=skip builds nothing.
NETCAPTURE_PLATFORM names the platform of the wheel, such as manylinux_2_28_x86_64.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "libnetcapture_stack.so"


class StackHook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wanted = os.environ.get("NETCAPTURE_STACK", "auto")
        if wanted == "skip" or not sysconfig.get_platform().startswith("linux"):
            return
        room = Path(self.root, "redirect")
        try:
            built = _build(room / "stack")
        except (OSError, RuntimeError) as problem:
            if wanted == "require":
                raise
            self.app.display_warning(f"without the redirector `tun`: {problem}")
            return
        if version == "editable":
            _replace(built, room / LIBRARY)
            return
        build_data["force_include"][str(built)] = f"pytest_netcapture/redirect/{LIBRARY}"
        build_data["pure_python"] = False
        platform = os.environ.get("NETCAPTURE_PLATFORM") or sysconfig.get_platform()
        # Nothing in it is Python's: one wheel for every interpreter.
        build_data["tag"] = f"py3-none-{platform.replace('-', '_').replace('.', '_')}"


def _build(crate: Path) -> Path:
    cargo = shutil.which("cargo")
    if cargo is None:
        raise RuntimeError("cargo is not installed (Rust 1.91 or later: rustup.rs)")
    target = Path(os.environ.get("CARGO_TARGET_DIR") or crate / "target")
    command = [cargo, "build", "--release", "--locked", "--quiet", "--target-dir", str(target)]
    done = subprocess.run(command, cwd=crate, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"cargo build failed:\n{done.stderr.strip()}")
    return target / "release" / LIBRARY


def _replace(source: Path, target: Path) -> None:
    """Put the library in place at once: a process may have the old one open."""
    fresh = target.with_suffix(f".{os.getpid()}")
    shutil.copy2(source, fresh)
    os.replace(fresh, target)
