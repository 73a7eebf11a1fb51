"""The object file as it is read, and any other bytes."""

from __future__ import annotations

import contextlib
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.redirect import ebpf_object, ebpf_programs


def whole():
    if not os.path.exists(ebpf_programs.OBJECT):
        pytest.skip("needs clang: the package was built without the BPF object")
    with open(ebpf_programs.OBJECT, "rb") as file:
        return file.read()


def test_programs_maps_and_licence_are_found():
    found = ebpf_object.parse(whole())
    assert found.license == "Dual MIT/GPL"
    assert set(found.programs) == set(ebpf_programs._ATTACH)
    assert found.maps["configs"] == ebpf_object.Definition(2, 4, 96, 1)
    assert set().union(*(p.maps.values() for p in found.programs.values())) == set(found.maps)


def test_descriptors_are_put_where_maps_are_loaded():
    found = ebpf_object.parse(whole())
    program = found.programs["sockops"]
    linked = program.linked(dict.fromkeys(found.maps, 77))
    assert len(linked) == len(program.code)
    for offset in program.maps:
        opcode, registers, _, immediate = struct.unpack_from("<BBhi", linked, offset)
        assert (opcode, registers >> 4, immediate) == (0x18, 1, 77)


@given(st.binary())
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match="BPF object"):
        ebpf_object.parse(data)


@given(st.data())
def test_damage_is_read_or_refused(data):
    content = bytearray(whole())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        ebpf_object.parse(bytes(content[: data.draw(st.integers(0, len(content)))]))
