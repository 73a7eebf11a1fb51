"""What readers of protocols raise, and how much of an exchange is kept."""

from __future__ import annotations

LIMIT = 1 << 24
"""Bytes of one message, and of one exchange, above which it is not kept."""


class Unreadable(Exception):
    """It is no message of the protocol, or too large; the argument says why."""
