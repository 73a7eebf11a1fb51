"""Difference lines: alignment, the window around the first difference, bounds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netcapture.flows import Difference
from pytest_netcapture.report.differences import difference_lines, window
from pytest_netcapture.report.text import markup, printable


def test_lines_are_aligned():
    lines = difference_lines(
        [
            Difference("path", "/v1/charges", "/v1/charge"),
            Difference("json.id", "a1", "b2", volatile="uuid"),
            Difference("headers.a-very-long-header-name-indeed", "x", "(absent)"),
        ]
    )
    assert "\n".join(lines) == (
        "  path                              - /v1/charges\n"
        "                                    + /v1/charge\n"
        "  json.id                           - a1\n"
        "                                    + b2  (uuid: only a volatile value differs)\n"
        "  headers.a-very-long-header-name-indeed\n"
        "                                    - x\n"
        "                                    + (absent)"
    )


def test_long_values_are_cut_around_the_first_difference():
    one, other = "a" * 500 + "X" + "b" * 500, "a" * 500 + "Y" + "b" * 500
    assert difference_lines([Difference("body", one, other)], width=40) == [
        "  body  - …aaaaaaaaaaXbbbbbbbbbbbbbbbbb…",
        "        + …aaaaaaaaaaYbbbbbbbbbbbbbbbbb…",
    ]


def test_at_most_so_many_fields():
    every = [Difference(f"f{n}", "1", "2") for n in range(12)]
    lines = difference_lines(every, limit=3)
    assert len(lines) == 7
    assert lines[-1] == "  … 9 more differences"
    assert difference_lines(every, limit=11)[-1] == "  … 1 more difference"
    assert difference_lines([]) == []


@settings(deadline=None)
@given(st.text(max_size=300), st.text(max_size=300), st.integers(24, 120))
def test_a_window_fits_and_shows_the_difference(one, other, room):
    cut, cut_other = window(one, other, room)
    assert len(cut) <= room
    assert len(cut_other) <= room
    assert one == other or cut != cut_other


@settings(deadline=None)
@given(st.text())
def test_printable_has_no_control_characters(text):
    assert printable(text).isprintable() or not any(
        ord(c) < 32 or 127 <= ord(c) < 160 for c in printable(text)
    )


def test_printable_escapes():
    assert printable("a\x1b[31m\r\n\t\x00é→\u202e\ud800") == r"a\e[31m\r\n\t\x00é→\u202e\ud800"


def test_markup():
    lines = difference_lines([Difference("json.a b", "- x", "+ y"), Difference("p", "1", "2")])
    assert [markup(line) for line in lines] == [{"red": True}, {"green": True}] * 2
    assert markup("unmatched: GET https://x/") == {"bold": True}
    assert markup("  why      - never") == {"red": True}
    assert markup("  why      never - recorded") == {}
    assert markup("") == {}
