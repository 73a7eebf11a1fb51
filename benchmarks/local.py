"""What `netcapture local` adds to a connect: for those whom it names, and for those beside them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from figures import Row, median_ratio
from lab import HERE, Lab, Missing

from pytest_netcapture.redirect import ebpf_probing
from pytest_netcapture.sandbox import cgroups

_TIMES = 1000
_CODE = "from pytest_netcapture.cli.main import main; main()"


def measure(lab: Lab) -> Iterator[Row]:
    support = ebpf_probing.probe()
    if not support.available:
        raise Missing(support.reason)
    found: dict[str, list[float]] = {"none": [], "beside": [], "captured": []}
    with _group() as group:
        for _ in range(lab.rounds):
            found["none"].append(_connects(lab, group))
            with _local(group, "nobody"):
                found["beside"].append(_connects(lab, group))
            with _local(group, ""):
                found["captured"].append(_connects(lab, group))
    yield Row("connect to loopback: direct", statistics.median(found["none"]), "µs")
    for name in ("beside", "captured"):
        ratio = median_ratio(found[name], found["none"])
        note = f"{statistics.median(found[name]):.0f} µs"
        yield Row(f"connect to loopback: {name} / direct", ratio, note=note)


@contextlib.contextmanager
def _group() -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="netcapture-bench-", dir=cgroups.root())
    try:
        yield path
    finally:
        os.rmdir(path)


@contextlib.contextmanager
def _local(group: str, spec: str) -> Iterator[None]:
    command = [sys.executable, "-c", _CODE, "local", "--loopback=capture", "--cgroup", group, spec]
    with subprocess.Popen(command, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stderr is not None
        told = b""
        while b"trusts its CA" not in told:
            select.select([process.stderr], [], [], 60)
            told += os.read(process.stderr.fileno(), 4096)
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        yield
        process.send_signal(signal.SIGINT)
        process.wait(60)
        drain.wait(60)


def _connects(lab: Lab, group: str) -> float:
    client = [sys.executable, os.path.join(HERE, "connects.py")]
    command = [*client, str(lab.server.http), str(_TIMES)]
    inside = ["sh", "-c", 'echo $$ >"$0/cgroup.procs"; exec "$@"', group, *command]
    return float(subprocess.run(inside, check=True, capture_output=True, text=True).stdout)
