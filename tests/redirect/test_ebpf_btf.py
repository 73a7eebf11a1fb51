"""Offsets from a kernel's description of its structures: one made here, this machine's, other bytes."""

from __future__ import annotations

import contextlib
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.redirect import ebpf_btf

STRINGS = b"\0int\0inner\0second\0outer\0named\0"
INT, INNER, SECOND, OUTER, NAMED = (
    STRINGS.index(w) for w in (b"int", b"inner", b"second", b"outer", b"named")
)


def structure(name, *members, kind=4):
    head = struct.pack("<III", name, kind << 24 | len(members), 0)
    return head + b"".join(struct.pack("<III", *member) for member in members)


def made():
    types = (
        struct.pack("<IIII", INT, 1 << 24, 4, 32)  # 1
        + structure(0, (INNER, 1, 0), (SECOND, 1, 32))  # 2, anonymous
        + struct.pack("<III", 0, 10 << 24, 2)  # 3: const 2
        + structure(OUTER, (0, 2, 64), (NAMED, 3, 128))  # 4
    )
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(STRINGS))
    return header + types + STRINGS


def test_members_of_anonymous_structures_and_of_named_ones_are_found():
    btf = ebpf_btf.Btf(made())
    assert btf.offset("outer", "second") == 12
    assert btf.offset("outer", "named", "second") == 20


@pytest.mark.parametrize("names", [("nothing", "x"), ("outer", "nothing"), ("outer", "inner", "x")])
def test_what_is_not_there_is_named(names):
    with pytest.raises(KeyError):
        ebpf_btf.Btf(made()).offset(*names)


def test_this_machines_kernel_has_what_is_needed():
    path = "/sys/kernel/btf/vmlinux"
    if not os.path.exists(path):
        pytest.skip("not in CI: this kernel has no BTF")
    with open(path, "rb") as file:
        btf = ebpf_btf.Btf(file.read())
    assert btf.offset("task_struct", "comm") > btf.offset("task_struct", "tgid") > 0
    assert btf.offset("file", "f_path", "dentry") > 0


@given(st.binary())
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match="BTF"):
        ebpf_btf.Btf(data)


@given(st.data())
def test_damage_is_read_or_refused(data):
    content = bytearray(made())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError, KeyError):
        ebpf_btf.Btf(bytes(content)).offset("outer", "named", "second")
