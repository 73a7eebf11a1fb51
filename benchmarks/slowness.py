"""Latency, jitter and rate as they are, beside what was asked for, under each redirector."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Iterator

from figures import Bar, Row
from lab import HERE, Lab
from redirectors import available

_TIMES = 20
_LARGE = 8 << 20
_BAR: Bar = ("at most", 10.0)


def measure(lab: Lab) -> Iterator[Row]:
    small, large = lab.server.file("small", 1024), lab.server.file("medium", _LARGE)
    for name in available():
        for jitter in (0, 50):
            what = f"latency 100 ms, jitter {jitter} ms: {name}"
            yield _latency(what, _told(lab, name, small, _TIMES, "latency", "100ms", f"{jitter}ms"))
        rate = _LARGE / _told(lab, name, large, 1, "bandwidth", "4MB/s")["with"][0]
        off = abs(rate / 4e6 - 1) * 100
        yield Row(f"rate 4 MB/s: {name}", off, "% off", bar=_BAR, note=f"{rate / 1e6:.2f} MB/s")


def _latency(what: str, told: dict[str, list[float]]) -> Row:
    quick = statistics.median(told["without"])
    added = [seconds - quick for seconds in told["with"]]
    shares = [a / b for a, b in zip(added, told["late"], strict=True)]
    off = abs(statistics.median(shares) - 1) * 100
    least, middle, most = (f"{f(added) * 1e3:.1f}" for f in (min, statistics.median, max))
    return Row(what, off, "% off", bar=_BAR, note=f"{middle} ms at the median, {least} to {most}")


def _told(lab: Lab, name: str, path: str, times: int, *asked: str) -> dict[str, list[float]]:
    command = [sys.executable, os.path.join(HERE, "slowed.py"), name, str(lab.server.http)]
    told: dict[str, list[float]] = json.loads(lab.run([*command, path, str(times), *asked]))
    return told
