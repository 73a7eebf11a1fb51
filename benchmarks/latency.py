"""How long connect(2) takes: to a live server on the host's loopback, directly and captured."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator

from figures import Row, median_difference
from lab import HERE, Lab

_TIMES = 2_000


def measure(lab: Lab) -> Iterator[Row]:
    script = os.path.join(HERE, "connects.py")
    command = [sys.executable, script, str(lab.server.http), str(_TIMES)]
    direct: list[float] = []
    captured: list[float] = []
    for _ in range(lab.rounds):
        direct.append(float(lab.run(command)))
        captured.append(float(lab.sandboxed(command).stdout))
    yield Row(
        "connect to a live loopback server, over direct",
        median_difference(captured, direct),
        "µs",
        ("at most", 150),
        f"direct {statistics.median(direct):.0f} µs, captured {statistics.median(captured):.0f} µs",
    )
