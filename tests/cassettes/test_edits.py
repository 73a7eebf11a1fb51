"""Replacements, and the borders that move with them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.cassettes.edits import Edit, apply, to_borders, to_chunks


@given(
    pieces=st.lists(
        st.tuples(st.binary(max_size=5), st.binary(min_size=1, max_size=5), st.binary(max_size=9))
    ),
    sizes=st.lists(st.integers(0, 9)),
)
def test_edits_and_borders(pieces, sizes):
    data, expected, edits = b"", b"", []
    for plain, old, new in pieces:
        data += plain
        edits.append(Edit(len(data), len(data) + len(old), new))
        data += old
        expected += plain + new
    borders = [min(border, len(data)) for border in to_borders(sizes)]
    assert apply(data, list(reversed(edits)), borders) == expected
    assert borders == sorted(borders)
    assert all(0 <= border <= len(expected) for border in borders)


@given(st.lists(st.integers(0, 50)))
def test_chunks_and_borders(sizes):
    assert to_chunks(to_borders(sizes)) == sizes


def test_an_overlapping_edit_is_dropped():
    assert apply(b"abcdef", [Edit(0, 3, b"X"), Edit(2, 4, b"Y")], []) == b"Xdef"
