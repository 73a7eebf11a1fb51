"""memcached through pymemcache: recorded from a real server, played with none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from real_servers import memcached
from service_lab import Service

pytestmark = pytest.mark.live

HOST = "cache.example.com"

CODE = """
import pytest
from pymemcache.client.base import Client, PooledClient

@pytest.mark.cassette
@pytest.mark.parametrize("kind", [Client, PooledClient])
def test_it(netcapture, kind):
    client = kind((HOST, 11211), timeout=20, default_noreply=False)
    client.flush_all()
    client.set("a", VALUE)
    client.set("b", b"\\r\\nEND\\r\\n", noreply=True)
    assert client.get_many(["a", "b", "c"]) == {"a": VALUE, "b": b"\\r\\nEND\\r\\n"}
    client.set("n", "1")
    assert client.incr("n", 2) == 3
    assert client.delete("c") is False
    assert client.stats()
    client.quit() if kind is Client else client.close()
    flow = netcapture.flows.one(service="memcached", where=lambda f: f.question == "incr")
    assert (flow.values, flow.answer) == ([b"n", b"2"], b"3\\r\\n")
"""


def test_it(service: Callable[..., Service]) -> None:
    pytest.importorskip("pymemcache")
    cache = service(HOST, 11211)

    def write(value: bytes) -> None:
        cache.project.write("test_it.py", f"HOST, VALUE = {HOST!r}, {value!r}\n{CODE}")

    write(b"apple")
    with memcached() as server:
        cache.record(server, passed=2)
    cache.play(passed=2)
    assert "memcached cache.example.com:11211" in cache.text()
    write(b"pear")
    assert "unmatched: memcached set a" in cache.play(failed=2).stdout.str()
