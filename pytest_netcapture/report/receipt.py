"""The receipt: the one line that says what a run's traffic came to.

1. Receipts add up: one a test, one an xdist worker, one a run.
2. It crosses process boundaries as a dict of numbers; names that a newer or older side does not
   know are left out, and those that are missing are 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pytest_netcapture.report.text import count


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of flows; `left_machine` counts packets."""

    flows: int = 0
    played: int = 0
    recorded: int = 0
    unmatched: int = 0
    unused: int = 0
    blocked: int = 0
    left_machine: int = 0

    def __add__(self, other: Receipt) -> Receipt:
        mine, theirs = self.to_dict(), other.to_dict()
        return Receipt(**{name: mine[name] + theirs[name] for name in mine})

    def to_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__struct_fields__}

    @classmethod
    def from_dict(cls, counts: Mapping[str, Any]) -> Receipt:
        return cls(**{name: int(counts.get(name, 0)) for name in cls.__struct_fields__})

    def __str__(self) -> str:
        parts = [
            count(self.flows, "flow"),
            f"{self.played} played",
            f"{self.recorded} recorded",
            f"{self.unmatched} unmatched",
            f"{self.unused} unused",
            f"{self.blocked} blocked",
            f"{count(self.left_machine, 'packet')} left this machine",
        ]
        return f"netcapture: {' · '.join(parts)}"
