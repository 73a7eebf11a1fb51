"""Measure what netcapture costs, next to the bars: python benchmarks/run.py [PART ...]

Each row is measured in one run next to what it is compared with, in turn, and is the median of the
rounds' ratios or differences. docs/performance.md says how to read them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import chaos
import download
import https
import latency
import local
import lookup
import mocks
import peers
import redirectors
import slowness
import startup
import web
from figures import Row
from lab import Lab, Missing
from server import Server, nginx

Part = Callable[[Lab], Iterator[Row]]

PARTS: dict[str, Part] = {
    "startup": startup.measure,
    "latency": latency.measure,
    "kept": https.measure_kept,
    "wrk": https.measure_wrk,
    "new": https.measure_new,
    "download": download.measure,
    "lookup": lookup.measure,
    "http2": web.measure_http2,
    "grpc": web.measure_grpc,
    "streams": web.measure_streams,
    "redirectors": redirectors.measure,
    "slowness": slowness.measure,
}
OPTIONAL: dict[str, Part] = {
    "chaos": chaos.measure,
    "local": local.measure,
    "mocks": mocks.measure,
    "peers": peers.measure,
}


def main() -> int:
    given = _arguments()
    names = given.parts or [*PARTS, *(["peers"] if given.peers else [])]
    missed = 0
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-netcapture-"))
        os.chmod(folder, 0o755)  # nginx's worker may be another user

        def start() -> Server:
            try:
                return stack.enter_context(nginx(os.path.join(folder, "nginx")))
            except FileNotFoundError as error:
                raise Missing(f"{error} is not installed") from None

        lab = Lab(folder, start, given.rounds, given.seconds, _progress, given.peers)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {given.rounds} rounds")
        for name in names:
            for row in _rows(name, lab):
                print(row, flush=True)
                missed += row.passed is False
        print(f"load {os.getloadavg()[0]:.1f} at the end; {missed} bars missed")
    return 1 if missed and given.strict else 0


def _rows(name: str, lab: Lab) -> Iterator[Row]:
    try:
        yield from {**PARTS, **OPTIONAL}[name](lab)
    except Missing as error:
        yield Row(name, None, note=f"skipped: {error}")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        yield Row(name, None, note=f"failed: {error}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    choices = [*PARTS, *OPTIONAL]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(choices)}")
    parser.add_argument("--rounds", type=int, default=5, help="how often to measure each variant")
    parser.add_argument("--seconds", type=int, default=2, help="how long each load lasts")
    parser.add_argument(
        "--peers", action="store_true", help="measure others' programs too (pip installs two)"
    )
    parser.add_argument("--strict", action="store_true", help="status 1 when a bar is missed")
    given = parser.parse_args()
    for part in given.parts:
        if part not in choices:
            parser.error(f"no part {part!r}: there are {', '.join(choices)}")
    return given


def _progress(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
