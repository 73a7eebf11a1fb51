"""Run one program in a sandbox, as `netcapture run` does, and say what the engine spent on it.

Beyond `netcapture run` it plays a recording any number of times (`--replay`), and prints one line
of JSON: what the program printed and how long it ran, the engine's CPU time and peak memory, and
how long it took to save the cassette.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

from pytest_netcapture.session import Session
from pytest_netcapture.settings import (
    CassetteUse,
    RecordMode,
    Repeat,
    Settings,
    check_ca_file,
    parse_mapping,
    parse_pattern,
)

_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    given = _arguments()
    settings = Settings(
        map_host=tuple(parse_mapping(m, "--map-host") for m in given.map_host),
        passthrough=tuple(parse_pattern(p, "--passthrough") for p in given.passthrough),
        upstream_ca=tuple(check_ca_file(f, "--upstream-ca") for f in given.upstream_ca),
        cassette=_cassette(given.record, given.replay),
    )
    session = Session.start(Settings(redirector=given.redirector))
    scope = session.begin("benchmark", settings)
    engine = session.engine_pid
    cpu = _cpu_seconds(engine)
    start = time.perf_counter()
    done = subprocess.run(given.program, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - start
    cpu = _cpu_seconds(engine) - cpu
    start = time.perf_counter()
    ended = session.end(scope)
    result = {
        "status": done.returncode,
        "stdout": done.stdout,
        "seconds": seconds,
        "save": time.perf_counter() - start,
        "cpu": cpu,
        "peak": peak_memory(engine),
        "flows": ended.counts.flows,
        "problems": [problem.reason for problem in ended.problems[:3]],
    }
    print(json.dumps(result))
    sys.exit(done.returncode)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--record")
    parser.add_argument("--replay")
    parser.add_argument("--redirector", default="auto")
    parser.add_argument("--map-host", action="append", default=[])
    parser.add_argument("--passthrough", action="append", default=[])
    parser.add_argument("--upstream-ca", action="append", default=[])
    parser.add_argument("program", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    given.program = [word for word in given.program if word != "--"]
    return given


def _cassette(record: str | None, replay: str | None) -> CassetteUse | None:
    if replay:
        return CassetteUse(os.path.abspath(replay), RecordMode.NONE, repeat=Repeat.ANY)
    return CassetteUse(os.path.abspath(record), RecordMode.REWRITE) if record else None


def peak_memory(pid: int) -> int:
    """Return the peak resident memory of a process, in bytes."""
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


if __name__ == "__main__":
    main()
