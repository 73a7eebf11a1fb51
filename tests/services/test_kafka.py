"""Kafka through real clients: recorded from a real broker, played with none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from building import Builder
from real_servers import kafka
from service_lab import Service

pytestmark = pytest.mark.live

PROGRAMS = Path(__file__).parent / "programs"
HOST = "broker.example.com"

CODE = """
import pytest
from confluent_kafka import Consumer, Producer
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

pytestmark = pytest.mark.cassette

def messages(netcapture, topic):
    found = netcapture.flows.filter(service="kafka", step="message", where=lambda f: f.question == topic)
    return [flow.values for flow in found]

def test_produce(netcapture):
    producer = KafkaProducer(bootstrap_servers=f"{HOST}:9092")
    for number in range(3):
        sent = producer.send("orders", key=b"k", value=f"{BODY} {number}".encode()).get(20)
        assert (sent.topic, sent.offset) == ("orders", number)
    producer.close()
    assert messages(netcapture, "orders") == [[b"k", f"{BODY} {n}".encode()] for n in range(3)]

def test_produce_and_consume(netcapture):
    producer = KafkaProducer(bootstrap_servers=f"{HOST}:9092", compression_type="gzip")
    for number in range(20):
        producer.send("many", f"{BODY} {number}".encode())
    producer.flush(20)
    consumer = KafkaConsumer(bootstrap_servers=f"{HOST}:9092", consumer_timeout_ms=3000)
    consumer.assign([TopicPartition("many", 0)])
    consumer.seek_to_beginning()
    assert [one.value.decode() for one in consumer] == [f"{BODY} {n}" for n in range(20)]
    consumer.close()
    producer.close()
    assert len(messages(netcapture, "many")) == 20

def test_a_group(netcapture):
    settings = {"bootstrap.servers": f"{HOST}:9092"}
    producer = Producer(settings)
    failed = []
    for number in range(3):
        producer.produce("grouped", f"{BODY} {number}", on_delivery=lambda e, _: failed.append(e))
    assert producer.flush(20) == 0
    assert failed == [None] * 3
    consumer = Consumer(settings | {"group.id": "shop", "auto.offset.reset": "earliest"})
    consumer.subscribe(["grouped"])
    seen = []
    while len(seen) < 3:
        message = consumer.poll(20)
        assert message is not None and message.error() is None, message
        seen.append(message.value().decode())
    consumer.close()
    assert seen == [f"{BODY} {n}" for n in range(3)]
"""


FRANZ = """
import subprocess, pytest

@pytest.mark.cassette
def test_franz_go():
    done = subprocess.run([PROGRAM, f"{HOST}:9092", BODY], capture_output=True, text=True, timeout=55)
    assert done.stdout.splitlines() == [f"{BODY} {n}" for n in (0, 1, 2, 0, 1, 2)], done.stderr
"""


def test_franz_go(service: Callable[..., Service], builder: Builder) -> None:
    broker = service(HOST, 9092)
    with kafka(HOST) as server:
        program = str(builder.go_module(PROGRAMS / "kafkago"))
        names = f"HOST, BODY, PROGRAM = {HOST!r}, 'apple', {program!r}\n"
        broker.project.write("test_it.py", names + FRANZ)
        broker.record(server, passed=1)
    broker.play(passed=1)


def test_it(service: Callable[..., Service]) -> None:
    pytest.importorskip("kafka", reason="not in CI: kafka-python is not installed")
    pytest.importorskip("confluent_kafka", reason="not in CI: confluent-kafka is not installed")
    broker = service(HOST, 9092)

    def write(body: str) -> None:
        broker.project.write("test_it.py", f"HOST, BODY = {HOST!r}, {body!r}\n{CODE}")

    write("apple")
    with kafka(HOST) as server:
        broker.record(server, passed=3)
    broker.play(passed=3)
    write("pear")
    failed = broker.play("-k", "test_produce and not consume", failed=1).stdout.str()
    assert "unmatched: kafka orders" in failed
