"""Times and rates as people write them."""

from __future__ import annotations

import pytest

from pytest_netcapture import UsageError
from pytest_netcapture.quantities import duration, rate


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("200ms", 200_000_000),
        ("1.5 s", 1_500_000_000),
        ("2min", 120_000_000_000),
        ("5us", 5000),
        (0.25, 250_000_000),
        (3, 3_000_000_000),
        (0, 0),
    ],
)
def test_times(text, ns):
    assert duration(text, "here") == ns


@pytest.mark.parametrize(
    ("text", "many"),
    [("64kB/s", 64_000), ("1MiB/s", 1 << 20), ("8 kbit/s", 1000), ("8kbps", 1000), (512, 512)],
)
def test_rates(text, many):
    assert rate(text, "here") == many


@pytest.mark.parametrize("wrong", ["soon", "5", -1, True, None, float("nan"), "5 parsecs", "-1s"])
def test_what_is_neither_is_named(wrong):
    with pytest.raises(UsageError, match=r"here: .* is not a time"):
        duration(wrong, "here")
    with pytest.raises(UsageError, match=r"here: .* is not a rate"):
        rate(wrong, "here")
