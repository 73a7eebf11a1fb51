"""The redirectors side by side, over plain HTTP: bulk, new connections, and 3,000 idle ones."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator

import outsiders
from figures import Row, median_ratio
from lab import HERE, Lab, Ran, program

from pytest_netcapture.redirect import probing, seccomp_probing, tun_probing

_GIB = 1 << 30
_HOST = "plain.test"
_IDLE = 3000
_PROBES = {"tproxy": probing.probe, "tun": tun_probing.probe, "seccomp": seccomp_probing.probe}
_BAR = 0.7
"""What tun is to reach of tproxy."""

Figures = dict[str, list[float]]


def available() -> list[str]:
    """Return the redirectors that work here."""
    return [name for name, probe in _PROBES.items() if probe().available]


def measure(lab: Lab, scale: float = 1.0) -> Iterator[Row]:
    names = available()
    others, missing = outsiders.available(lab) if lab.peers else ([], [])
    yield from missing
    if lab.peers and "tun" in names:
        names.append(outsiders.OURS)
    yield from _bulk(lab, names, others, scale)
    yield from _new(lab, names, others)
    yield from _idle(lab, [name for name in names if name in _PROBES])


def _bulk(lab: Lab, names: list[str], others: list[str], scale: float) -> Iterator[Row]:
    path = lab.server.file("large", int(_GIB * scale))
    command = [program("curl"), "-sSf", "-o", "/dev/null", "-w", "%{speed_download}"]
    speeds: Figures = {name: [] for name in ("direct", *names, *others)}
    costs: Figures = {name: [] for name in names}
    for _ in range(lab.rounds):
        speeds["direct"].append(float(lab.run([*command, _near(lab, path)])))
        for name in names:
            ran = _sandboxed(lab, name, [*command, f"http://{_HOST}{path}"])
            speeds[name].append(float(ran.stdout))
            costs[name].append(ran.cpu / scale)
        for name in others:
            speeds[name].append(float(outsiders.through(lab, name, command, path)))
    notes = {name: f"{statistics.median(found) / 1e6:,.0f} MB/s" for name, found in speeds.items()}
    for name, found in costs.items():
        notes[name] += f", engine {statistics.median(found):.2f} s of CPU a GiB"
    yield Row("1 GiB, plain: direct", statistics.median(speeds["direct"]) / 1e6, "MB/s")
    yield from _rows("1 GiB, plain", speeds, notes)


def _new(lab: Lab, names: list[str], others: list[str]) -> Iterator[Row]:
    path, what = lab.server.file("small", 1024), "new connections/s, plain"
    command = [sys.executable, os.path.join(HERE, "connections.py"), "new", str(lab.seconds)]
    rates: Figures = {name: [] for name in ("direct", *names, *others)}
    costs: Figures = {name: [] for name in names}
    for _ in range(lab.rounds):
        rates["direct"].append(float(lab.run([*command, _near(lab, path)]).split()[0]))
        for name in names:
            ran = _sandboxed(lab, name, [*command, f"http://{_HOST}{path}"])
            rate, count = map(float, ran.stdout.split())
            rates[name].append(rate)
            costs[name].append(ran.cpu / count * 1e6)
        for name in others:
            rates[name].append(float(outsiders.through(lab, name, command, path).split()[0]))
    notes = {name: f"{statistics.median(found):,.0f}/s" for name, found in rates.items()}
    for name, found in costs.items():
        notes[name] += f", engine {statistics.median(found):,.0f} µs of CPU each"
    yield Row(f"{what}: direct", statistics.median(rates["direct"]), "/s")
    yield from _rows(what, rates, notes)


def _idle(lab: Lab, names: list[str]) -> Iterator[Row]:
    """Compare requests beside idle connections with requests alone, of each redirector."""
    path = lab.server.file("small", 1024)
    client = [sys.executable, os.path.join(HERE, "connections.py")]
    for name in names:
        rates: Figures = {"0": [], str(_IDLE): []}
        for _ in range(lab.rounds):
            for count, found in rates.items():
                words = [*client, "kept", str(lab.seconds), f"http://{_HOST}{path}", count]
                found.append(float(_sandboxed(lab, name, words).stdout.split()[0]))
        ratio = median_ratio(rates[str(_IDLE)], rates["0"])
        note = f"{statistics.median(rates['0']):,.0f}/s without"
        yield Row(f"requests/s beside {_IDLE:,} idle: {name}", ratio, note=note)


def _rows(what: str, found: Figures, notes: dict[str, str]) -> Iterator[Row]:
    for name in found:
        if name != "direct":
            ratio = median_ratio(found[name], found["direct"])
            yield Row(f"{what}: {name} / direct", ratio, note=notes[name])
    if {"tproxy", "tun"} <= set(found):
        ratio = median_ratio(found["tun"], found["tproxy"])
        yield Row(f"{what}: tun / tproxy", ratio, bar=("at least", _BAR))
    yield from outsiders.rows(what, found, median_ratio)


def _near(lab: Lab, path: str) -> str:
    return f"http://127.0.0.1:{lab.server.http}{path}"


def _sandboxed(lab: Lab, redirector: str, command: list[str]) -> Ran:
    options = ["--map-host", f"{_HOST}=127.0.0.1:{lab.server.http}"]
    if redirector == outsiders.OURS:
        redirector = "tun"
        options += ["--passthrough", _HOST]
    return lab.sandboxed(command, *options, "--redirector", redirector)
