"""Kafka: requests and their answers, and the records that are produced (its "Protocol Guide").

1. Answers come in the order of the requests, each with its request's number. On replay they get the
   number of the request that is there.
2. A record that is produced is an exchange of its own, of the step "message": how a client packs
   them into requests depends on time. The request is of the step "connect", as are all that may be
   said more often, or with what a group or a session has made up: their content does not count.
3. A Fetch is told from others by the offsets that it says anew. Where there is none there is
   nothing new, told after a while, as a broker does.
4. Logins by PLAIN are kept without their content. What logs in otherwise is relayed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.engine.layers.ordered import Asked, Dialect, OrderedLayer, Part
from pytest_netcapture.flows import ServiceFlow
from pytest_netcapture.kafka_messages import (
    API_VERSIONS,
    FETCH,
    HEARTBEAT,
    METADATA,
    PRODUCE,
    SASL_HANDSHAKE,
    Record,
    Request,
    Splitter,
    mechanism,
    positions,
    produced,
    request,
    topics,
)
from pytest_netcapture.unreadable import Unreadable

_PLAIN_TO_SEE = frozenset(
    (
        "CreateTopics",
        "DeleteTopics",
        "DescribeConfigs",
        "DescribeGroups",
        "FindCoordinator",
        "ListOffsets",
    )
)
"""Calls whose content is the same each time, and says what is asked."""
_NOTHING_NEW = 0.5
"""Seconds after which a Fetch is told that there is nothing new."""


def kafka_layer(context: Context) -> OrderedLayer:
    return OrderedLayer(context, Kafka(context))


class Kafka(Dialect):
    """One connection."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client, self._server = Splitter(), Splitter()
        self._last = Request(API_VERSIONS, 0, 0, "", b"")
        self._numbers: deque[int] = deque()

    # ── the client ───────────────────────────────────────────────────────────────────────────

    def asked(self, data: bytes) -> Iterator[Asked]:
        for whole in self._client.feed(data):
            self._last = one = request(whole)
            acks, records = produced(one) if one.call == PRODUCE else (1, [])
            for record in records:
                yield Asked(self._message(record), 0)
            if acks:
                self._numbers.append(one.number)
            yield Asked(self._request(one, records), 1 if acks else 0)

    def _request(self, one: Request, records: list[Record]) -> ServiceFlow:
        flow = self._flow("command" if one.call == FETCH else "connect", one.name)
        flow.form, flow.notes["client"] = str(one.version), one.client.encode()
        if one.call == METADATA:
            flow.values = [name.encode() for name in topics(one)]
        elif one.call == FETCH:
            flow.values = [place.encode() for place in positions(one)]
        elif one.call == SASL_HANDSHAKE:
            flow.values = [mechanism(one).encode()]
            if flow.values != [b"PLAIN"]:
                raise Unreadable(f"a login by {mechanism(one)}")
        elif one.name in _PLAIN_TO_SEE:
            flow.values = [one.body]
        elif records:
            places = dict.fromkeys(f"{one.topic}/{one.partition}" for one in records)
            flow.values = [place.encode() for place in places]
        if one.call in (FETCH, HEARTBEAT):
            flow.notes["quiet"] = b"1"
        return flow

    def _message(self, record: Record) -> ServiceFlow:
        flow = self._flow("message", record.topic)
        flow.values = [record.key, record.value]
        return flow

    def _flow(self, step: str, question: str) -> ServiceFlow:
        endpoint = self._context.endpoint
        return ServiceFlow(
            service="kafka",
            host=endpoint.host,
            port=endpoint.port,
            step=step,
            question=question,
        )

    # ── the server ───────────────────────────────────────────────────────────────────────────

    def units(self, data: bytes) -> Iterator[bytes]:
        return self._server.feed(data)

    def part(self, unit: bytes, head: Asked | None) -> Part:
        if head is None or int.from_bytes(unit[:4], "big", signed=True) != self._numbers[0]:
            raise Unreadable("an answer to nothing")
        self._numbers.popleft()
        return Part.LAST

    # ── replay ───────────────────────────────────────────────────────────────────────────────

    def answer(self, _flow: ServiceFlow, recorded: ServiceFlow) -> bytes:
        return self._said(recorded.answer[4:]) if recorded.answer else b""

    def unrecorded(self, flow: ServiceFlow) -> bytes | None:
        tags = b"\0" if self._last.flexible else b""
        if flow.question == "Heartbeat":
            throttle = bytes(4) if self._last.version else b""
            return self._said(tags + throttle + bytes(2) + tags)
        if flow.question != "Fetch" or self._last.version < 1:
            return None
        session = bytes(6) if self._last.version >= 7 else b""  # no error, no session
        count = b"\1" if self._last.flexible else bytes(4)
        return self._said(tags + bytes(4) + session + count + tags)

    def pause(self, flow: ServiceFlow) -> float:
        return _NOTHING_NEW if flow.question == "Fetch" else 0.0

    def refusal(self, flow: ServiceFlow, _text: str) -> bytes:
        """Say nothing, for there is no error that fits each call; end the connection."""
        if flow.step != "message":
            self._context.reset()
        return b""

    def _said(self, content: bytes) -> bytes:
        number = self._last.number.to_bytes(4, "big", signed=True)
        return (4 + len(content)).to_bytes(4, "big") + number + content
