"""Whether looking a recording up gets slower as its cassette grows (bench_cassettes.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import bench_cassettes
from figures import Row
from lab import Lab


def measure(lab: Lab) -> Iterator[Row]:
    first = 0.0
    smallest = bench_cassettes.SIZES[0]
    for size in bench_cassettes.SIZES:
        path = lab.path(f"lookup-{size}.cassette")
        load, lookup, _ = bench_cassettes._measure(path, size)
        os.unlink(path)
        first = first or lookup
        flows = _exchanges(size)
        yield Row(
            f"replay lookup, {flows:,} exchanges / {_exchanges(smallest):,}",
            lookup / first,
            bar=("at most", 2.0) if size > smallest else None,
            note=f"{lookup * 1e6:.0f} µs; loading takes {load * 1e3:,.1f} ms",
        )


def _exchanges(gets: int) -> int:
    return gets + (gets + 1) // 2
