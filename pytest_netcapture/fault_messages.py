"""What the control channel carries of faults."""

from __future__ import annotations

from enum import Enum

import msgspec

from pytest_netcapture.mock_messages import MockAnswer


class FaultKind(str, Enum):
    """What goes wrong, and so when that is decided."""

    REFUSE = "refuse"
    UNREACHABLE = "unreachable"
    BLACKHOLE = "blackhole"
    """When a connection is made, or, with criteria of requests, never answers one."""
    RESET = "reset"
    TRUNCATE = "truncate"
    CORRUPT = "corrupt"
    LATENCY = "latency"
    BANDWIDTH = "bandwidth"
    STATUS = "status"
    TLS = "tls_error"
    DNS = "dns_error"


class SetFault(msgspec.Struct, tag=True, omit_defaults=True):
    """One fault of a scope.

    `at_connect`: it is decided when a connection is made. `size` in bytes of what the client is
    told, None for before the first. `time` and `jitter` in nanoseconds, `rate` in bytes a second.
    """

    scope: int
    number: int
    kind: FaultKind
    criteria: bytes
    text: str
    at_connect: bool = False
    times: int | None = None
    after: int = 0
    probability: float = 1.0
    seed: str = ""
    after_exchanges: int = 0
    """How many exchanges with its host and port go first; then their connection is closed."""
    size: int | None = None
    time: int = 0
    jitter: int = 0
    rate: int = 0
    detail: str = ""
    answer: MockAnswer | None = None


class CutAll(msgspec.Struct, tag=True):
    """Reset what connections a scope's test has left."""

    scope: int


class GetSchedule(msgspec.Struct, tag=True):
    """When the faults of a scope have struck."""

    scope: int


class Schedule(msgspec.Struct, tag=True):
    lines: list[str]
