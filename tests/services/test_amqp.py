"""RabbitMQ through pika: recorded from a real server, played with none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from real_servers import rabbitmq
from service_lab import Service

pytestmark = pytest.mark.live

HOST = "queue.example.com"

CODE = """
import pika, pytest

pytestmark = pytest.mark.cassette

@pytest.fixture
def connection():
    parameters = pika.ConnectionParameters(HOST, credentials=pika.PlainCredentials("guest", "guest"))
    connection = pika.BlockingConnection(parameters)
    yield connection
    connection.close()

def test_publish_and_get(connection, netcapture):
    channel = connection.channel()
    channel.queue_declare("orders")
    channel.queue_purge("orders")
    channel.confirm_delivery()
    for number in range(3):
        channel.basic_publish("", "orders", f"{BODY} {number}".encode(), mandatory=True)
    for number in range(3):
        method, _, body = channel.basic_get("orders")
        assert body == f"{BODY} {number}".encode()
        channel.basic_ack(method.delivery_tag)
    assert channel.basic_get("orders") == (None, None, None)
    sent = netcapture.flows.filter(service="amqp", where=lambda f: f.question == "basic.publish")
    assert [flow.values[2] for flow in sent] == [f"{BODY} {n}".encode() for n in range(3)]

def test_consume(connection, netcapture):
    channel = connection.channel()
    queue = "consumed"
    channel.queue_declare(queue)
    channel.queue_purge(queue)
    channel.basic_qos(prefetch_count=1)
    for number in range(3):
        channel.basic_publish("", queue, f"{BODY} {number}".encode())
    seen = []
    for method, _, body in channel.consume(queue, inactivity_timeout=20):
        seen.append(body.decode())
        channel.basic_ack(method.delivery_tag)
        if len(seen) == 3:
            break
    channel.cancel()
    assert seen == [f"{BODY} {number}" for number in range(3)]

def test_an_error(connection):
    channel = connection.channel()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="nonesuch"):
        channel.queue_declare("nonesuch", passive=True)
"""


def test_it(service: Callable[..., Service]) -> None:
    pytest.importorskip("pika")
    broker = service(HOST, 5672)

    def write(body: str) -> None:
        broker.project.write("test_it.py", f"HOST, BODY = {HOST!r}, {body!r}\n{CODE}")

    write("apple")
    with rabbitmq() as server:
        broker.record(server, passed=3)
    broker.play(passed=3)
    write("pear")
    assert (
        "unmatched: amqp basic.publish" in broker.play("-k", "get", failed=1, errors=1).stdout.str()
    )
