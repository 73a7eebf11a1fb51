"""The receipt's line, its sum, its way between processes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netcapture.report.receipt import Receipt

receipts = st.builds(Receipt, **{name: st.integers(0, 10**9) for name in Receipt.__struct_fields__})


def test_line():
    assert str(Receipt(flows=12, played=8, recorded=4)) == (
        "netcapture: 12 flows · 8 played · 4 recorded · 0 unmatched · 0 unused · 0 blocked"
        " · 0 packets left this machine"
    )
    assert str(Receipt(flows=1, left_machine=1)).startswith("netcapture: 1 flow · ")
    assert str(Receipt(left_machine=1)).endswith(" · 1 packet left this machine")


@settings(deadline=None)
@given(receipts, receipts, receipts)
def test_receipts_add_up_in_any_order(a, b, c):
    assert (a + b) + c == c + (b + a)
    assert a + Receipt() == a
    assert (a + b).flows == a.flows + b.flows


@settings(deadline=None)
@given(receipts)
def test_there_and_back(receipt):
    assert Receipt.from_dict(receipt.to_dict()) == receipt


def test_another_version_s_dict():
    assert Receipt.from_dict({"flows": 2, "quantum": 7}) == Receipt(flows=2)
