"""Finds out whether `tun` works here, by trying it in a namespace that nobody sees.

As probing.py does for tproxy: never raises, changes nothing. Tests: test_tun.py.
"""

from __future__ import annotations

from pytest_netcapture.redirect import probing
from pytest_netcapture.redirect.base import Support

NAME = "tun"


def probe() -> Support:
    """Try everything that `attach` does. Takes some 30 ms, 0.3 s without privilege."""
    return probing.try_out(NAME)
