"""Reports of processes, as bytes; what is noted of them."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.redirect.ebpf_following import Ended, Executed, Forked, Members, parse
from pytest_netcapture.redirect.ebpf_records import encode_word
from pytest_netcapture.redirect.ebpf_targets import inherited
from pytest_netcapture.redirect.ebpf_targets import parse as rules_of

HEAD = bytes(36)


def report(kind, *numbers):
    return HEAD + struct.pack("=IIQ", kind, 0, 0) + struct.pack("=4I", *numbers)


def test_processes_are_told_and_threads_are_not():
    assert parse(report(1, 5, 4, 9, 9)) == Forked(4, 9)
    assert parse(report(1, 5, 4, 9, 4)) is None
    assert parse(report(2, 9, 9, 0, 0)) == Executed(9)
    assert parse(report(0x8000_0000, 9, 9, 0, 17)) == Ended(9)
    assert parse(report(0x8000_0000, 10, 9, 0, 17)) is None
    assert parse(report(0, 0, 0, 0, 0)) is None


@given(st.binary(max_size=120))
def test_any_bytes_are_read(data):
    parse(data)


class Table(dict):
    """In the place of the kernel's map, with its two methods."""

    def set(self, key, value):
        self[key] = value

    def discard(self, key):
        self.pop(key, None)


def test_what_a_parent_has_its_children_have_until_they_end():
    rules, table = rules_of(["12"]), Table()
    members = Members(rules, table)
    own = rules.processes()[12]
    members._set(12, own)
    for event in (Forked(12, 13), Forked(13, 14), Forked(7, 8), Ended(13)):
        members.take(event)
    assert table == {
        encode_word(12): encode_word(own),
        encode_word(14): encode_word(inherited(own)),
    }
    members.take(Ended(12))
    members.take(Ended(14))
    assert table == {}
