"""HTTPS with 1 KiB answers, on kept-alive connections and on new ones, with load/ as the client.

wrk on kept-alive connections comes beside it: it does so little for a request that its ratios are
those of a client that nobody tests with.
"""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Callable, Iterator

from figures import Bar, Row, median_ratio
from lab import HERE, Lab, Ran, program
from server import NAME

CLIENTS = 8
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_COUNT = re.compile(r"(\d+) requests in")
_KEPT_BARS: dict[str, Bar] = {"recorded": ("at least", 0.25), "replayed": ("at least", 0.5)}
_NEW_BARS: dict[str, Bar] = {"captured": ("at least", 0.3)}

Command = Callable[[bool], list[str]]
"""Makes the load generator's command line: direct or not."""


def measure_kept(lab: Lab) -> Iterator[Row]:
    path = lab.server.file("small", 1024)
    command = _load(lab, path, "-keep")
    yield from _measure(lab, path, command, "requests/s, kept alive", _KEPT_BARS)


def measure_wrk(lab: Lab) -> Iterator[Row]:
    wrk = program("wrk")
    path = lab.server.file("small", 1024)

    def command(direct: bool) -> list[str]:
        place = f"127.0.0.1:{lab.server.https}" if direct else NAME
        return [wrk, "-t1", f"-c{CLIENTS}", f"-d{lab.seconds}s", f"https://{place}{path}"]

    yield from _measure(lab, path, command, "requests/s, kept alive, wrk", {})


def measure_new(lab: Lab) -> Iterator[Row]:
    path = lab.server.file("small", 1024)
    yield from _measure(lab, path, _load(lab, path), "new connections/s", _NEW_BARS)


def _load(lab: Lab, path: str, *options: str) -> Command:
    load = build_load(lab)

    def command(direct: bool) -> list[str]:
        words = [load, *options, "-c", str(CLIENTS), "-d", f"{lab.seconds}s"]
        if direct:
            words += ["-ca", lab.server.ca, "-connect", f"127.0.0.1:{lab.server.https}"]
        return [*words, f"https://{NAME}{path}"]

    return command


def _measure(
    lab: Lab, path: str, command: Command, what: str, bars: dict[str, Bar]
) -> Iterator[Row]:
    modes: dict[str, tuple[str, ...]] = {
        "captured": (),
        "recorded": ("--record", lab.path("bench.cassette")),
        "replayed": ("--replay", lab.recording_of(path)),
    }
    direct: list[float] = []
    runs: dict[str, list[Ran]] = {mode: [] for mode in modes}
    for _ in range(lab.rounds):
        direct.append(rate(lab.run(command(True))))
        for mode, options in modes.items():
            runs[mode].append(lab.sandboxed(command(False), *options))
    yield Row(f"{what}: direct", statistics.median(direct), "/s")
    for mode, ran in runs.items():
        rates = [rate(r.stdout) for r in ran]
        cost = statistics.median(r.cpu / _count(r.stdout) for r in ran) * 1e6
        yield Row(
            f"{what}: {mode} / direct",
            median_ratio(rates, direct),
            bar=bars.get(mode),
            note=f"{statistics.median(rates):,.0f}/s, engine {cost:,.0f} µs of CPU each",
        )


def rate(output: str) -> float:
    found = _RATE.search(output)
    if found is None or "Non-2xx" in output:
        raise RuntimeError(f"the load generator says: {output[-400:]}")
    return float(found[1])


def _count(output: str) -> int:
    found = _COUNT.search(output)
    return max(1, int(found[1])) if found else 1


def build_load(lab: Lab) -> str:
    target = lab.path("load")
    if not os.path.exists(target):
        source = os.path.join(HERE, "load", "main.go")
        cache = {**lab.environment, "GOCACHE": lab.path("go"), "GOFLAGS": "-mod=mod"}
        lab.run([program("go"), "build", "-o", target, source], env=cache, cwd=lab.folder)
    return target
