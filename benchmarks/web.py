"""HTTP/2 and gRPC, as a ratio of direct, and the engine's memory while 2 GiB stream each way.

h2load asks nginx; grpc-go calls grpc-go; curl streams from and to a server of Go's net/http. Both
Go programs are the tests' (tests/engine/programs).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterator

from figures import Row, median_ratio
from lab import HERE, Lab, Missing, Ran, program
from server import NAME, free_port

_PROGRAMS = os.path.join(HERE, "..", "tests", "engine", "programs")
_GIB = 1 << 30
_CONNECTIONS, _STREAMS = 4, 10
_RATE = re.compile(r"finished in [^,]+, ([\d.]+) req/s")
_DONE = re.compile(r"(\d+) succeeded, (\d+) failed")
_CALLS = re.compile(r"(\d+) calls")


def measure_http2(lab: Lab) -> Iterator[Row]:
    path = lab.server.file("small", 1024)
    load = [program("h2load"), "-c", str(_CONNECTIONS), "-m", str(_STREAMS), "-D", str(lab.seconds)]
    near, far = f"https://127.0.0.1:{lab.server.http2}{path}", f"https://{NAME}{path}"
    mapped = ("--map-host", f"{NAME}:443=127.0.0.1:{lab.server.http2}")
    cassette = lab.path("http2-small.cassette")
    lab.sandboxed([program("curl"), "-sSf", "-o", "/dev/null", far], *mapped, "--record", cassette)

    def rate(output: str) -> float:
        found, done = _RATE.search(output), _DONE.search(output)
        if found is None or done is None or done[2] != "0":
            raise RuntimeError(f"h2load says: {output[-400:]}")
        return float(found[1])

    def direct() -> float:
        return rate(lab.run([*load, near]))

    def through(*options: str) -> tuple[float, Ran]:
        ran = lab.sandboxed([*load, far], *mapped, *options)
        return rate(ran.stdout), ran

    yield from _rows(lab, "HTTP/2 requests/s", direct, through, cassette)


def measure_grpc(lab: Lab) -> Iterator[Row]:
    talk = _built(lab, "grpcgo")
    folder = lab.server.folder
    keys = [os.path.join(folder, name) for name in ("server.pem", "server.key")]
    with subprocess.Popen(
        [talk, "serve", *keys], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port = int(process.stdout.readline().split()[0])
        mapped = ("--map-host", f"{NAME}:443=127.0.0.1:{port}")
        cassette = lab.path("grpc.cassette")
        far = f"{NAME}:443"
        lab.sandboxed([talk, far, "Unary", "you"], *mapped, "--record", cassette)
        amount = (str(lab.seconds), str(_STREAMS))
        trusting = {**lab.environment, "SSL_CERT_FILE": lab.server.ca, "GRPC_TLS": "1"}

        def rate(output: str) -> float:
            found = _CALLS.search(output)
            if found is None:
                raise RuntimeError(f"the client says: {output[-400:]}")
            return int(found[1]) / lab.seconds

        def direct() -> float:
            return rate(lab.run([talk, "load", f"localhost:{port}", *amount], env=trusting))

        def through(*options: str) -> tuple[float, Ran]:
            ran = lab.sandboxed([talk, "load", far, *amount], *mapped, *options)
            return rate(ran.stdout), ran

        yield from _rows(lab, "gRPC calls/s", direct, through, cassette)
        process.stdin.close()


def measure_streams(lab: Lab, size: int = 2 * _GIB) -> Iterator[Row]:
    free = shutil.disk_usage(lab.folder).free
    if free < 3 * size:
        raise Missing(f"{free / _GIB:.1f} GiB free in {lab.folder}, {3 * size / _GIB:g} needed")
    web, port = _built(lab, "http3go"), free_port()
    folder = lab.server.folder
    keys = [os.path.join(folder, name) for name in ("server.pem", "server.key")]
    source = lab.path("zeros")
    with open(source, "wb") as file:
        file.truncate(size)
    command = [web, "both", f"127.0.0.1:{port}", *keys]
    mapped = ("--map-host", f"{NAME}:443=127.0.0.1:{port}")
    curl = [program("curl"), "-sSf", "--http2", "-o", "/dev/null"]
    ways = {
        "down": [*curl, "-w", "%{http_version} %{size_download}", f"https://{NAME}/large?{size}"],
        "up": [*curl, "-w", "%{http_version} %{size_upload}", "-T", source, f"https://{NAME}/up"],
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            for way, client in ways.items():
                cassette = lab.path(f"{way}.cassette")
                ran = lab.sandboxed(client, *mapped, "--record", cassette)
                if ran.stdout != f"2 {size}":
                    raise RuntimeError(f"curl says: {ran.stdout}")
                yield Row(
                    f"{size / _GIB:g} GiB {way} over HTTP/2: peak memory",
                    ran.peak / (1 << 20),
                    "MiB",
                    ("at most", 200),
                    f"recorded at {size / ran.seconds / 1e6:,.0f} MB/s",
                )
                os.unlink(cassette)
        finally:
            process.kill()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(source)


def _rows(
    lab: Lab,
    what: str,
    direct: Callable[[], float],
    through: Callable[..., tuple[float, Ran]],
    cassette: str,
) -> Iterator[Row]:
    """Measure direct, captured, recorded and replayed in turn; `cassette` has the answer."""
    modes: dict[str, tuple[str, ...]] = {
        "captured": (),
        "recorded": ("--record", lab.path("bench-web.cassette")),
        "replayed": ("--replay", cassette),
    }
    directly: list[float] = []
    rates: dict[str, list[float]] = {mode: [] for mode in modes}
    costs: dict[str, list[float]] = {mode: [] for mode in modes}
    for _ in range(lab.rounds):
        directly.append(direct())
        for mode, options in modes.items():
            rate, ran = through(*options)
            rates[mode].append(rate)
            costs[mode].append(ran.cpu / max(1.0, rate * lab.seconds) * 1e6)
    yield Row(f"{what}: direct", statistics.median(directly), "/s")
    for mode, these in rates.items():
        cost = statistics.median(costs[mode])
        note = f"{statistics.median(these):,.0f}/s, engine {cost:,.0f} µs of CPU each"
        yield Row(f"{what}: {mode} / direct", median_ratio(these, directly), note=note)


def _built(lab: Lab, name: str) -> str:
    """Return one of the tests' Go programs, whose modules come from the Go module proxy."""
    target = lab.path(name)
    if not os.path.exists(target):
        source = lab.path(f"{name}-source")
        shutil.copytree(os.path.join(_PROGRAMS, name), source)
        go = {**lab.environment, "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
        try:
            lab.run([program("go"), "build", "-o", target, "."], env=go, cwd=source)
        except RuntimeError as error:
            raise Missing(f"{name} cannot be built: {str(error)[-160:]}") from None
    return target
