"""MongoDB through pymongo: recorded from a real server (FerretDB), played with none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from real_servers import PASSWORD, mongodb
from service_lab import Service

pytestmark = pytest.mark.live

HOST = "db.example.com"

CODE = """
import asyncio, datetime, os, threading
import bson, pymongo, pytest

pytestmark = pytest.mark.cassette

LOGIN = {"username": "app", "password": os.environ["SHOP_PASSWORD"], "authSource": "shop"}

@pytest.fixture
def shop():
    with pymongo.MongoClient(HOST, **LOGIN, maxPoolSize=POOL) as client:
        yield client["shop"]

def test_documents(shop, netcapture):
    shop.orders.drop()
    made = shop.orders.insert_one({"item": ITEM, "price": 1.5, "on": datetime.datetime(2024, 1, 2)})
    more = shop.orders.insert_many([{"item": "pear", "n": n} for n in range(3)])
    found = shop.orders.find_one({"_id": made.inserted_id})
    assert (found["_id"], found["item"]) == (made.inserted_id, ITEM)
    assert [one["_id"] for one in shop.orders.find({"item": "pear"}).sort("n")] == more.inserted_ids
    assert shop.orders.update_many({"item": "pear"}, {"$set": {"n": 7}}).modified_count == 3
    assert shop.orders.delete_one({"_id": more.inserted_ids[0]}).deleted_count == 1
    assert shop.orders.count_documents({}) == 3
    flow = netcapture.mongo.one(command="insert", documents__contains=found)
    assert (flow.collection, flow.database, flow.user) == ("orders", "shop", "app")
    assert flow.reply["n"] == 1
    asked = netcapture.mongo.one(command="find", where=lambda f: "_id" in f.arguments.get("filter", {}))
    assert asked.arguments["filter"] == {"_id": made.inserted_id}
    assert asked.batch == [found]

def test_a_cursor_in_batches(shop, netcapture):
    shop.many.drop()
    shop.many.insert_many([{"_id": n} for n in range(25)])
    assert [one["_id"] for one in shop.many.find(batch_size=10).sort("_id")] == list(range(25))
    assert [len(f.batch) for f in netcapture.mongo.filter(collection="many") if f.batch] == [10, 10, 5]

def test_errors(shop, netcapture):
    shop.one.drop()
    shop.one.insert_one({"_id": 1})
    with pytest.raises(pymongo.errors.DuplicateKeyError):
        shop.one.insert_one({"_id": 1})
    with pytest.raises(pymongo.errors.OperationFailure, match="no such command"):
        shop.command("nonesuch")
    assert [flow.code for flow in netcapture.mongo if flow.code] == [11000, 59]

def test_a_refused_login():
    with pymongo.MongoClient(HOST, **{**LOGIN, "password": "wrong-pass-word"}) as client:
        with pytest.raises(pymongo.errors.OperationFailure, match="(?i)authentication failed"):
            client["shop"].orders.find_one()

@pytest.mark.parametrize("options", [
    {}, {"authMechanism": "SCRAM-SHA-1"}, {"compressors": "zlib"}, {"maxPoolSize": 1}])
def test_asyncio(netcapture, options):
    async def run():
        async with pymongo.AsyncMongoClient(HOST, **LOGIN, **options) as client:
            later = client["shop"]["later"]
            await later.drop()
            async def work(number):
                await later.insert_one({"number": number})
                found = await later.find_one({"number": number})
                assert found["number"] == number
            await asyncio.gather(*(work(number) for number in range(8)))
    asyncio.run(run())
    assert len(netcapture.mongo.filter(command="insert")) == 8

def test_threads_share_a_pool(shop):
    shop.pooled.drop()
    def work(number):
        for turn in range(4):
            made = shop.pooled.insert_one({"turn": turn})
            assert shop.pooled.find_one({"_id": made.inserted_id})["turn"] == turn
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert shop.pooled.count_documents({}) == 16

class Heard(pymongo.monitoring.ServerHeartbeatListener):
    def __init__(self):
        self.twice, self.count, self.failed = threading.Event(), 0, []
    def started(self, event): pass
    def succeeded(self, event):
        self.count += 1
        if self.count >= 4:
            self.twice.set()
    def failed(self, event):
        self.failed.append(event)

def test_heartbeats_go_on(netcapture):
    heard = Heard()
    with pymongo.MongoClient(HOST, **LOGIN, heartbeatFrequencyMS=500, event_listeners=[heard]) as client:
        assert client.admin.command("ping")["ok"]
        assert heard.twice.wait(30)
    assert netcapture.mongo.one(command="ping").reply["ok"]
"""


def test_it(service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pymongo")
    shop = service(HOST, 27017)

    def write(item: str = "apple", pool: int = 3) -> None:
        head = f"HOST, ITEM, POOL = {HOST!r}, {item!r}, {pool!r}\n"
        shop.project.write("test_it.py", head + CODE)

    write()
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    with mongodb() as server:
        shop.record(server, passed=10)
    monkeypatch.setenv("SHOP_PASSWORD", "another-password")
    shop.play(passed=10)
    monkeypatch.setenv("SHOP_PASSWORD", "netcapture")
    shop.play(passed=10)
    for secret in (PASSWORD.encode(), b"wrong-pass-word"):
        assert secret not in shop.cassettes()
    assert '{"insert": "orders"}' in shop.text()
    assert '"item": "apple"' in shop.text()
    write("plum", pool=1)
    failed = shop.play("-k", "documents or threads", passed=1, failed=1).stdout.str()
    assert "unmatched: mongodb" in failed
