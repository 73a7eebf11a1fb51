"""The library's edge: its records, its version, and what is said where it is not there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import tun_ffi_build, tun_probing, tun_stack
from pytest_netcapture.redirect.tun_stack import PacketFaults, decode, library

ROOM = Path(tun_stack.__file__).parent


@pytest.fixture(autouse=True)
def fresh():
    library.cache_clear()
    yield
    library.cache_clear()


def test_the_generated_module_is_current(tmp_path):
    tun_ffi_build.write(str(tmp_path / "tun_ffi.py"))
    assert (tmp_path / "tun_ffi.py").read_text() == (ROOM / "tun_ffi.py").read_text()


def test_without_the_library_the_cure_is_named(monkeypatch):
    monkeypatch.setattr(tun_stack, "LIBRARY", "/nowhere/lib.so")
    with pytest.raises(EnvironmentProblem, match="has not been built") as caught:
        library()
    assert "Rust 1.91" in caught.value.cure


def test_what_is_no_library_is_named(monkeypatch, tmp_path):
    (tmp_path / "lib.so").write_bytes(b"no library")
    monkeypatch.setattr(tun_stack, "LIBRARY", str(tmp_path / "lib.so"))
    with pytest.raises(EnvironmentProblem, match="cannot be loaded"):
        library()


def needs_library():
    try:
        library()
    except EnvironmentProblem as problem:
        pytest.skip(f"needs cargo: {problem.message}")


def test_another_version_is_not_used(monkeypatch):
    needs_library()
    library.cache_clear()
    monkeypatch.setattr(tun_stack, "VERSION", 99)
    with pytest.raises(EnvironmentProblem, match="has version 2 of the interface, not 99"):
        library()


def test_the_rest_of_the_package_does_without(tmp_path):
    code = (
        "from pytest_netcapture.redirect import tun_stack, tun_probing\n"
        "tun_stack.LIBRARY = '/nowhere'\n"
        "found = tun_probing.probing._try_here('tun')\n"
        "print(found.available, found.reason)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False tun: its library has not been built\n", done.stderr


@given(st.binary(min_size=56, max_size=200))
def test_any_record_can_be_read(data):
    happened = decode(data)
    assert happened.payload == data[56:]
    assert len(happened.source) == len(happened.target) == 2


@pytest.mark.parametrize(
    ("faults", "named"),
    [
        ({"loss": 1.5}, "loss is a share from 0 to 1, not 1.5"),
        ({"corrupt": -0.1}, "corrupt is a share"),
        ({"delay": -1}, "delay cannot be negative"),
    ],
)
def test_faults_that_cannot_be_are_refused(faults, named):
    with pytest.raises(ValueError, match=named):
        PacketFaults(**faults).encode()


def test_the_probe_closes_what_it_opens():
    before = len(os.listdir("/proc/self/fd"))
    tun_probing.probe()
    assert len(os.listdir("/proc/self/fd")) == before
