"""Records of the kernel's ring buffer: whole ones, discarded ones, and what is being written."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.redirect.ebpf_ring import parse

SIZE = 256
BUSY, DISCARD = 1 << 31, 1 << 30


def ring(*records, start=0):
    """A ring with these (flags, data) from a position on, and where they end."""
    data, at = bytearray(SIZE), start
    for flags, content in records:
        record = struct.pack("=II", len(content) | flags, 0) + content
        for index, byte in enumerate(record):
            data[(at + index) % SIZE] = byte
        at += (len(record) + 7) & ~7
    return bytes(data) * 2, at


def test_a_record_that_is_being_written_and_those_behind_it_wait():
    data, end = ring((0, b"one"), (DISCARD, b"never"), (0, b"two"), (BUSY, b"thr"), (0, b"four"))
    found, consumed = parse(data, SIZE, 0, end)
    assert found == [b"one", b"two"]
    assert consumed == 16 + 16 + 16


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(0, 1 << 40))
def test_records_come_as_they_were_written_wherever_they_begin(records, start):
    start &= ~7
    data, end = ring(*((0, record) for record in records), start=start)
    assert parse(data, SIZE, start, end) == (records, end)


@given(st.binary(min_size=SIZE, max_size=SIZE), st.integers(0, SIZE // 8))
def test_any_bytes_are_read_or_refused(data, end):
    try:
        found, consumed = parse(data * 2, SIZE, 0, end * 8)
    except ValueError:
        return
    assert consumed >= 0
    assert all(len(record) <= SIZE for record in found)


def test_a_record_that_is_longer_than_the_ring_is_refused():
    data, _ = ring((0, b"x"))
    with pytest.raises(ValueError, match="a record of 300 bytes"):
        parse(struct.pack("=I", 300) + data[4:], SIZE, 0, 8)
