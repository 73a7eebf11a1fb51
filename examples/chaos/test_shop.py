"""All pass, and replay. `pytest --netcapture-chaos` finds the three mistakes of shop.py."""

from __future__ import annotations

import shop


def test_stock():
    assert shop.stock("tea") == 7


def test_price():
    assert shop.price("tea") == 450


def test_reviews():
    assert "a fine tea" in shop.reviews("tea")


def test_order():
    assert shop.order("tea").startswith("no-")
