"""What the plugin costs where nothing is sent: per test, per session, and when it is off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from figures import Row, median_difference, spread
from lab import Lab

TESTS = 500
_PLAIN = ("-p", "no:netcapture")
_MODES: dict[str, tuple[str, ...]] = {"plain": _PLAIN, "off": (), "on": ("--netcapture",)}
_CONFTEST = """
import json, os, time
marks = {}
def pytest_runtest_logstart():
    marks.setdefault("first", time.monotonic())
def pytest_sessionfinish():
    marks["last"] = time.monotonic()
    with open(os.environ["BENCH_MARKS"], "w") as file:
        json.dump(marks, file)
"""


def measure(lab: Lab) -> Iterator[Row]:
    folder = lab.path("startup")
    os.makedirs(folder)
    with open(os.path.join(folder, "conftest.py"), "w") as file:
        file.write(_CONFTEST)
    with open(os.path.join(folder, "test_empty.py"), "w") as file:
        file.writelines(f"def test_{n}(): pass\n" for n in range(TESTS))
    runs: dict[str, list[tuple[float, float, float]]] = {mode: [] for mode in _MODES}
    for _ in range(lab.rounds + 2):
        for mode, arguments in _MODES.items():
            runs[mode].append(_run(lab, folder, arguments))
    starts, tests, ends = ({m: [r[i] for r in runs[m]] for m in _MODES} for i in range(3))
    each = 1e3 / TESTS
    extra = [(on - plain) * each for on, plain in zip(tests["on"], tests["plain"], strict=True)]
    yield Row(
        "a test without network, over plain pytest",
        median_difference(tests["on"], tests["plain"]) * each,
        "ms",
        ("at most", 0.3),
        f"{spread(extra)}; plain {min(tests['plain']) * each:.2f} ms",
    )
    yield Row(
        "session start, over plain pytest",
        median_difference(starts["on"], starts["plain"]) * 1e3,
        "ms",
        ("at most", 300),
        f"plain {min(starts['plain']) * 1e3:.0f} ms",
    )
    yield Row("session end", median_difference(ends["on"], ends["plain"]) * 1e3, "ms")
    yield Row(
        "installed but off: session start",
        median_difference(starts["off"], starts["plain"]) * 1e3,
        "ms",
        note=f"spread of plain itself {spread([s * 1e3 for s in starts['plain']])}",
    )
    yield Row(
        "installed but off: a test", median_difference(tests["off"], tests["plain"]) * each, "ms"
    )


def _run(lab: Lab, folder: str, arguments: tuple[str, ...]) -> tuple[float, float, float]:
    """Return the seconds until the first test, of all tests, and after the last one."""
    marks = os.path.join(folder, "marks.json")
    environment = {**lab.environment, "BENCH_MARKS": marks}
    common = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    command = [sys.executable, "-m", "pytest", *common, *arguments]
    start = time.monotonic()
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    end = time.monotonic()
    with open(marks) as file:
        marked = json.load(file)
    return marked["first"] - start, marked["last"] - marked["first"], end - marked["last"]
