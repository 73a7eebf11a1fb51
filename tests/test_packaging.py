"""What is shipped: one package in the wheel, the whole project in the sdist."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import pytest_netcapture

CHECKOUT = Path(__file__).resolve().parent.parent
ROOMS = ("sandbox", "redirect", "cassettes")
REQUIRED_IN_SDIST = {
    ".ci",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "benchmarks",
    "cassettes",
    "docs",
    "examples",
    "hatch_build.py",
    "pyproject.toml",
    "pytest_netcapture",
    "redirect",
    "sandbox",
    "tests",
    "tox.ini",
}
ALLOWED_IN_SDIST = REQUIRED_IN_SDIST | {".gitignore", "CONTRIBUTING.md", "PKG-INFO", "changelog.d"}

BUILD = """
import sys
from hatchling import build
print(getattr(build, "build_" + sys.argv[1])(sys.argv[2]))
"""


def build(kind: str, source: Path, target: Path, stack: str = "skip", bpf: str = "skip") -> Path:
    """Build a "wheel" or an "sdist" as pip would, without its isolation, which needs a network.

    `stack`, `bpf`: whether what `tun` and `ebpf` need is built (hatch_build.py).
    """
    target.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(target)],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"NETCAPTURE_STACK": stack, "NETCAPTURE_BPF": bpf},
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packaging")


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    return build("wheel", CHECKOUT, folder / "from-tree")


@pytest.fixture(scope="module")
def sdist(folder: Path) -> Path:
    return build("sdist", CHECKOUT, folder / "sdist")


@pytest.fixture(scope="module")
def unpacked(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        safely: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder / "unpacked", **safely)
    (top,) = (folder / "unpacked").iterdir()
    return top


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sources() -> set[str]:
    """The wheel's expected modules: each real file once, below one package."""
    found = {f"pytest_netcapture/{p}" for p in python_files(CHECKOUT / "pytest_netcapture")}
    for room in ROOMS:
        found |= {f"pytest_netcapture/{room}/{p}" for p in python_files(CHECKOUT / room)}
    page = {f"pytest_netcapture/report/page.{ending}" for ending in ("css", "html", "js")}
    return found | page | {"pytest_netcapture/py.typed"}


def python_files(top: Path) -> set[str]:
    paths = (p.relative_to(top) for p in top.rglob("*.py"))
    return {
        p.as_posix()
        for p in paths
        if not (top.name == "pytest_netcapture" and p.parts[0] in ROOMS)
        and p.name != "tun_ffi_build.py"
    }


def test_the_wheel_holds_one_package_and_every_module(wheel):
    names = set(contents(wheel))
    metadata = {n for n in names if n.partition("/")[0].endswith(".dist-info")}
    assert names - metadata == sources()
    assert {n.partition("/")[2] for n in metadata} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


def test_the_wheel_registers_plugin_and_command(wheel):
    (entry_points,) = (
        text for name, text in contents(wheel).items() if name.endswith("/entry_points.txt")
    )
    lines = entry_points.decode().split("\n")
    assert "netcapture = pytest_netcapture.cli.main:main" in lines
    assert "netcapture = pytest_netcapture.plugin" in lines


def test_the_sdist_has_the_top_level_of_the_project(unpacked):
    names = {path.name for path in unpacked.iterdir()}
    assert names >= REQUIRED_IN_SDIST
    assert names <= ALLOWED_IN_SDIST, "stray files in the checkout end up in the sdist"


def test_a_wheel_of_the_sdist_equals_one_of_the_tree(wheel, unpacked, folder):
    again = contents(build("wheel", unpacked, folder / "from-sdist"))
    assert again == contents(wheel)


def test_where_there_is_cargo_the_wheel_has_the_stack(wheel, unpacked, folder):
    if shutil.which("cargo") is None:
        pytest.skip("needs cargo")
    built = build("wheel", unpacked, folder / "with-stack", stack="require")
    library = "pytest_netcapture/redirect/libnetcapture_stack.so"
    assert set(contents(built)) - set(contents(wheel)) == {library}
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "-py3-none-linux_" in built.name


def test_where_there_is_clang_the_wheel_has_the_bpf_object_and_is_for_all_platforms(
    wheel, unpacked, folder
):
    if shutil.which("clang") is None:
        pytest.skip("needs clang")
    built = build("wheel", unpacked, folder / "with-bpf", bpf="require")
    (name,) = set(contents(built)) - set(contents(wheel))
    assert name == "pytest_netcapture/redirect/capture.bpf.o"
    assert contents(built)[name][:4] == b"\x7fELF"
    assert built.name.endswith("-py3-none-any.whl")


def test_where_there_is_none_the_wheel_is_pure_unless_it_may_not_be(
    wheel, unpacked, folder, monkeypatch
):
    monkeypatch.setenv("PATH", "/nowhere")
    pure = build("wheel", unpacked, folder / "without-cargo", stack="auto", bpf="auto")
    assert contents(pure) == contents(wheel)
    with pytest.raises(AssertionError, match="cargo is not installed"):
        build("wheel", unpacked, folder / "impossible", stack="require")
    with pytest.raises(AssertionError, match="clang is not installed"):
        build("wheel", unpacked, folder / "impossible", bpf="require")


def test_nothing_is_imported_under_a_second_name():
    code = (
        "import sys, pytest_netcapture.session, pytest_netcapture.sandbox.probe, "
        "pytest_netcapture.redirect.base, pytest_netcapture.cassettes.store\n"
        f"print([name for name in {ROOMS} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_refuses_another_name(room):
    done = subprocess.run(
        [sys.executable, "-c", f"import {room}"],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        timeout=60,
    )
    assert f"ImportError: import this package as 'pytest_netcapture.{room}'" in done.stderr


def test_the_package_is_typed():
    assert (Path(pytest_netcapture.__file__).parent / "py.typed").exists()
