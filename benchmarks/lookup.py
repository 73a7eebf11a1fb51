"""Whether looking a recording up gets slower as its cassette grows (bench_cassettes.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import bench_cassettes
from figures import Row
from lab import Lab


def measure(lab: Lab) -> Iterator[Row]:
    first = 0.0
    for size in bench_cassettes.SIZES:
        path = lab.path(f"lookup-{size}.cassette")
        load, lookup, _ = bench_cassettes._measure(path, size)
        os.unlink(path)
        first = first or lookup
        flows = size + (size + 1) // 2
        yield Row(
            f"replay lookup, {flows:,} exchanges / {bench_cassettes.SIZES[0] * 2:,}",
            lookup / first,
            bar=("at most", 2.0) if size > 1 else None,
            note=f"{lookup * 1e6:.0f} µs; loading takes {load * 1e3:,.1f} ms",
        )
