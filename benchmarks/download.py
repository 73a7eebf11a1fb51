"""Large downloads over HTTPS with curl, of bytes that do not compress; the engine's memory."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Iterator

from figures import Row, median_ratio
from lab import Lab, Missing, program
from server import NAME

_GIB = 1 << 30
_ROOM = 10 * _GIB
_DIRECT = "1 GiB with curl: direct"


def measure(lab: Lab, scale: float = 1.0) -> Iterator[Row]:
    curl = program("curl")
    free = shutil.disk_usage(lab.folder).free
    if free < _ROOM * scale:
        raise Missing(
            f"{free / _GIB:.1f} GiB free in {lab.folder}, {_ROOM * scale / _GIB:g} needed"
        )
    size = int(_GIB * scale)
    path = lab.server.file("large", size)
    common = [curl, "-sSf", "-o", "/dev/null", "-w", "%{speed_download}"]
    port = f"{NAME}:{lab.server.https}"
    near = [*common, "--cacert", lab.server.ca, "--resolve", f"{port}:127.0.0.1"]
    cassette = lab.path("large.cassette")
    modes: dict[str, tuple[str, ...]] = {"captured": (), "recorded": ("--record", cassette)}
    direct: list[float] = []
    speeds: dict[str, list[float]] = {mode: [] for mode in modes}
    saves: list[float] = []
    for _ in range(lab.rounds):
        direct.append(float(lab.run([*near, f"https://{port}{path}"])))
        for mode, options in modes.items():
            ran = lab.sandboxed([*common, f"https://{NAME}{path}"], *options)
            speeds[mode].append(float(ran.stdout))
            saves += [ran.save] if options else []
        os.unlink(cassette)
    yield Row(_DIRECT, statistics.median(direct) / 1e6, "MB/s")
    for mode in modes:
        note = f"{statistics.median(speeds[mode]) / 1e6:,.0f} MB/s"
        if mode == "recorded":
            note += f"; saving takes {statistics.median(saves):.1f} s more"
        ratio = median_ratio(speeds[mode], direct)
        yield Row(f"1 GiB with curl: {mode} / direct", ratio, bar=("at least", 0.4), note=note)
    path = lab.server.file("larger", 2 * size)
    ran = lab.sandboxed([*common, f"https://{NAME}{path}"], "--record", cassette)
    yield Row(
        "2 GiB recorded: the engine's peak memory",
        ran.peak / (1 << 20),
        "MiB",
        ("at most", 200),
        f"cassette {os.path.getsize(cassette) / _GIB:.2f} GiB",
    )
    os.unlink(cassette)
