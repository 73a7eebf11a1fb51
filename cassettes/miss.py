"""Why a cassette has no answer, said so that the reader knows what to do."""

from __future__ import annotations

from enum import Enum

import msgspec

from pytest_netcapture.flows import AnyFlow, Difference


class MissKind(str, Enum):
    """Which miss it is."""

    NO_FILE = "no cassette file"
    NEVER = "never recorded"
    USED_UP = "used up"
    VOLATILE = "only a volatile field differs"
    SCRUBBED = "only a scrubbed field differs"


class Miss(msgspec.Struct, frozen=True):
    """No recording answers. `nearest` is the one that comes closest, `differences` tell how."""

    kind: MissKind
    reason: str
    nearest: AnyFlow | None = None
    differences: list[Difference] = []
    advice: str = ""
