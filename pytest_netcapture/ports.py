"""Port numbers as users write them, checked where they are given."""

from __future__ import annotations

from pytest_netcapture.errors import UsageError

LARGEST = 65535


def check_port(value: object, where: str) -> int:
    """Return `value` if it is a port. Raises `UsageError`."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST:
        return value
    raise UsageError(f"{where}: {value!r} is not a port", cure="ports are 1 to 65535")


def parse_published(text: str, where: str) -> tuple[int, int]:
    """Read `[HOST:]PORT`: the host's port (the same if left out, 0 for a free one), and ours."""
    host, colon, port = text.rpartition(":")
    inside = check_port(_number(port), f"{where}: {text!r}")
    if not colon:
        return inside, inside
    outside = _number(host)
    return (0 if outside == 0 else check_port(outside, f"{where}: {text!r}")), inside


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text
