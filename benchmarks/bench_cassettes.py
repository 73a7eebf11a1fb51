"""Does replay get slower as the cassette grows? Run: python benchmarks/bench_cassettes.py

Prints, for cassettes of 11, 1,001 and 100,001 exchanges made in one run: the time to load, per
exchange, and the time to look one up and play it; the last as a ratio to the smallest cassette.
Each exchange is asked for once, in any order; a small cassette is opened anew for each turn, so
that all sizes are measured at the same work: finding an exchange that was not played yet.
Then what recording costs: scrubbing an exchange with 1 KiB of JSON, and `record` itself.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable

from pytest_netcapture.cassettes.scrub import Scrubber
from pytest_netcapture.cassettes.secrets import Secrets
from pytest_netcapture.cassettes.store import Cassette
from pytest_netcapture.flows import Body, Headers, HttpFlow, HttpRequest, HttpResponse
from pytest_netcapture.settings import CassetteUse, Filters, RecordMode, Repeat

SIZES = (7, 667, 66_667)
"""GETs of as many paths; half as many POSTs to one path come on top."""
LOOKUPS = 2_000
ENVIRON = {"API_TOKEN": "b7f3-hunter2-91ac", "DB_PASSWORD": "correct horse", "HOME": "/root"}


def main() -> None:
    print(
        f"{'exchanges':>9} {'load':>9} {'per exchange':>13} {'lookup GET':>11} {'ratio':>6}"
        f" {'POST':>9} {'ratio':>6}"
    )
    first: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            flows = size + (size + 1) // 2
            load, *lookups = _measure(os.path.join(folder, f"{size}.cassette"), size)
            first = first or lookups
            ratios = [now / then for now, then in zip(lookups, first, strict=True)]
            print(
                f"{flows:>9,} {load * 1e3:>6.1f} ms {load / flows * 1e6:>10.1f} us"
                f" {lookups[0] * 1e6:>8.1f} us {ratios[0]:>6.2f}"
                f" {lookups[1] * 1e6:>6.1f} us {ratios[1]:>6.2f}"
            )
    _recording()


def _measure(path: str, size: int) -> tuple[float, float, float]:
    _write(path, size)
    start = time.perf_counter()
    _open(path, RecordMode.NONE).close()
    load = time.perf_counter() - start
    return load, _median(path, exchange, size), _median(path, _post, (size + 1) // 2)


def _median(path: str, make: Callable[[int], HttpFlow], size: int) -> float:
    times: list[float] = []
    randomly = random.Random(1)
    while len(times) < LOOKUPS:
        with contextlib.closing(_open(path, RecordMode.NONE)) as cassette:
            for number in randomly.sample(range(size), min(size, LOOKUPS)):
                request = make(number).request
                start = time.perf_counter()
                found = cassette.play_http(request)
                times.append(time.perf_counter() - start)
                assert isinstance(found, HttpFlow), found.reason
    return statistics.median(times)


def _recording() -> None:
    flows = [exchange(number, volatile=True) for number in range(5_000)]
    scrubber = Scrubber(Secrets.from_environ(ENVIRON), Filters(), b"salt")
    print(f"scrub an exchange of 1 KiB of JSON  {_each(scrubber.flow, flows) * 1e6:.1f} us")
    with tempfile.TemporaryDirectory() as folder:
        cassette = _open(os.path.join(folder, "a.cassette"), RecordMode.ALL)
        print(f"record                              {_each(cassette.record, flows) * 1e6:.2f} us")
        start = time.perf_counter()
        cassette.flush()
        took = (time.perf_counter() - start) / len(flows)
        print(f"flush (scrub, encode, write)        {took * 1e6:.1f} us")
        start = time.perf_counter()
        cassette.save()
        took = (time.perf_counter() - start) / len(flows)
        print(f"save (sort, copy, sidecar)          {took * 1e6:.1f} us")


def _each(function: Callable[[HttpFlow], object], flows: list[HttpFlow]) -> float:
    start = time.perf_counter()
    for flow in flows:
        function(flow)
    return (time.perf_counter() - start) / len(flows)


def _write(path: str, size: int) -> None:
    cassette = _open(path, RecordMode.ALL)
    for number in range(size):
        cassette.record(exchange(number))
        if number < (size + 1) // 2:
            cassette.record(_post(number))
        if number % 1_000 == 999:
            cassette.flush()
    cassette.save()
    cassette.close()


def _open(path: str, mode: RecordMode) -> Cassette:
    use = CassetteUse(path, mode, repeat=Repeat.ANY)
    secrets = Secrets.from_environ(ENVIRON)
    return Cassette.open(use, session_started_ns=time.time_ns(), secrets=secrets, spool_dir="")


def exchange(number: int, *, volatile: bool = False) -> HttpFlow:
    body = b'{"id": %d, "items": [%s]}' % (
        number,
        b", ".join(b'{"name": "n%d", "price": 12.5}' % i for i in range(30)),
    )
    headers = [
        (
            "Date",
            f"Sat, 21 Nov 2026 13:{number // 60 % 60:02}:{number % 60:02} GMT"
            if volatile
            else "now",
        ),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Connection", "keep-alive"),
        ("Server", "nginx"),
        ("X-Request-Id", f"{number:032x}" if volatile else "1"),
    ]
    request = _request("GET", f"/v1/items/{number}?page=2&size=10")
    response = HttpResponse(status=200, headers=Headers(headers), body=Body(len(body), body))
    return HttpFlow(host=request.host, port=443, request=request, response=response)


def _post(number: int) -> HttpFlow:
    request = _request("POST", "/v1/orders")
    data = b'{"order": %d, "lines": [1, 2, 3]}' % number
    request.body = Body(len(data), data)
    return HttpFlow(host=request.host, port=443, request=request, response=HttpResponse(status=201))


def _request(method: str, target: str) -> HttpRequest:
    headers = [
        ("Host", "api.example.com"),
        ("User-Agent", "python-requests/2.32"),
        ("Accept-Encoding", "gzip, deflate"),
        ("Accept", "*/*"),
        ("Connection", "keep-alive"),
        ("Authorization", "Bearer abcdef-123456"),
    ]
    return HttpRequest(
        method=method,
        scheme="https",
        host="api.example.com",
        port=443,
        target=target,
        headers=Headers(headers),
    )


if __name__ == "__main__":
    main()
