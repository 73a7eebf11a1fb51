"""Redis through real clients: recorded from a real server, played with none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from real_servers import PASSWORD, program, redis
from service_lab import Service

pytestmark = pytest.mark.live

HOST = "cache.example.com"

CODE = """
import subprocess, threading, time
import pytest, redis

pytestmark = pytest.mark.cassette

@pytest.fixture(params=[2, 3])
def cache(request):
    with redis.Redis(host=HOST, password=PASSWORD, protocol=request.param) as client:
        yield client

def test_commands(cache, netcapture):
    cache.delete("k", "h", "l")
    assert cache.set("k", VALUE)
    assert cache.get("k") == VALUE.encode()
    cache.hset("h", mapping={"a": "1", "b": "2"})
    assert cache.hgetall("h") == {b"a": b"1", b"b": b"2"}
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        cache.incr("h")
    cache.rpush("l", b"\\xff\\x00")
    assert list(cache.blpop("l", timeout=5)) == [b"l", b"\\xff\\x00"]
    assert cache.blpop("l", timeout=0.2) is None
    flow = netcapture.redis.one(command="SET")
    assert (flow.arguments, flow.reply) == (["k", VALUE], "OK")
    assert netcapture.redis.one(command="GET", arguments__contains="k").reply == VALUE
    assert netcapture.redis.one(command="INCRBY").reply.startswith("WRONGTYPE")

def test_pipelines_and_transactions(cache):
    cache.delete("n")
    with cache.pipeline(transaction=False) as pipe:
        assert pipe.incr("n").incr("n").get("n").execute() == [1, 2, b"2"]
    with cache.pipeline() as pipe:
        assert pipe.incr("n").incr("n").execute() == [3, 4]
    with cache.pipeline() as pipe:
        pipe.watch("n")
        assert pipe.get("n") == b"4"
        cache.incr("n")
        pipe.multi()
        pipe.incr("n")
        with pytest.raises(redis.WatchError):
            pipe.execute()

def test_scripts(cache):
    cache.script_flush()
    double = cache.register_script("return tonumber(ARGV[1]) * 2")
    assert [double(args=[n]) for n in (1, 2, 1)] == [2, 4, 2]

def test_messages(cache, netcapture):
    with cache.pubsub() as pubsub:
        pubsub.subscribe("news")
        pubsub.psubscribe("n*s")
        seen = [pubsub.get_message(timeout=20) for _ in range(2)]
        assert [one["type"] for one in seen] == ["subscribe", "psubscribe"]
        assert cache.publish("news", VALUE) == 2
        seen = [pubsub.get_message(timeout=20) for _ in range(2)]
        assert sorted((one["type"], one["data"]) for one in seen) == [
            ("message", VALUE.encode()), ("pmessage", VALUE.encode())]
    assert len(netcapture.redis.filter(step="message")) == 2

def test_threads_share_a_pool(netcapture):
    pool = redis.BlockingConnectionPool(host=HOST, password=PASSWORD, max_connections=POOL)
    cache = redis.Redis(connection_pool=pool)
    def work(number):
        for turn in range(5):
            cache.set(f"{number}-{turn}", turn)
            assert cache.get(f"{number}-{turn}") == str(turn).encode()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    pool.disconnect()
    assert len(netcapture.redis.filter(command="SET")) == 20

def test_the_command_line():
    lines = "SET cli 1\\nINCR cli\\nGET cli\\n"
    command = ["redis-cli", "-h", HOST, "-a", PASSWORD, "--no-auth-warning"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=50)
    assert done.stdout.split() == ["OK", "2", "2"]
"""


def test_it(service: Callable[..., Service]) -> None:
    pytest.importorskip("redis")
    program("redis-cli")
    cache = service(HOST, 6379)

    def write(value: str = "apple", pool: int = 3) -> None:
        names = {"HOST": HOST, "VALUE": value, "PASSWORD": PASSWORD, "POOL": pool}
        head = "".join(f"{name} = {one!r}\n" for name, one in names.items())
        cache.project.write("test_it.py", head + CODE)

    write()
    with redis(password=PASSWORD) as server:
        cache.record(server, passed=10)
    cache.play(passed=10)
    assert PASSWORD.encode() not in cache.cassettes()
    assert "  SET k apple\n  < OK\n" in cache.text()
    write("pear", pool=1)
    failed = cache.play("-k", "commands or threads", passed=1, failed=2).stdout.str()
    assert "unmatched: redis SET k pear" in failed
    assert "'apple'" in failed or "apple" in failed
