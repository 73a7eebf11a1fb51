"""Fetch a path in a sandbox, without and with a fault that slows it, and print how long each took.

    slowed.py REDIRECTOR PORT PATH TIMES latency TIME JITTER
    slowed.py REDIRECTOR PORT PATH TIMES bandwidth RATE

The result is one line of JSON: seconds, `without` and `with`, and `late`, by how much each answer
of the latter was to be later.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request

from pytest_netcapture.capture import Netcapture
from pytest_netcapture.session import Session
from pytest_netcapture.settings import Settings, parse_mapping

HOST = "plain.test"


def main() -> None:
    redirector, port, path, times, kind, asked, *jitter = sys.argv[1:]
    session = Session.start(Settings(redirector=redirector))
    mapping = parse_mapping(f"{HOST}=127.0.0.1:{port}", "slowed.py")
    scope = session.begin("slowed", Settings(map_host=(mapping,)))
    found = {"without": _fetch(path, int(times))}
    netcapture = Netcapture(scope)
    fault = netcapture.fault(host=HOST)
    if kind == "latency":
        fault.latency(asked, jitter=jitter[0], seed=1)
    else:
        fault.bandwidth(asked)
    found["with"] = _fetch(path, int(times))
    notes = [flow.fault for flow in netcapture.http[int(times) :]]
    found["late"] = [int(note.split()[1]) / 1000 for note in notes if kind == "latency"]
    session.end(scope)
    print(json.dumps(found))


def _fetch(path: str, times: int) -> list[float]:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        with urllib.request.urlopen(f"http://{HOST}{path}", timeout=60) as answer:
            answer.read()
        taken.append(time.perf_counter() - began)
    return taken


if __name__ == "__main__":
    main()
