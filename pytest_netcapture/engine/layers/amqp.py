"""AMQP 0-9-1, as RabbitMQ speaks it: methods and their replies, messages (its specification, §2.3).

1. An exchange is a method of the client that is answered, or a message that it publishes: `values`
   are exchange, routing key and body; its properties are not compared. The login is left out.
2. A message that is delivered is an exchange of its own, of the step "message"; its question is the
   queue that is consumed. On replay it comes after what it came after.
3. A server confirms what is published by numbers: they are part of the exchange, and are counted
   anew on replay, as are those of deliveries; consumers get the tag that the client has now.
4. Heartbeats are passed on, and on replay not needed. Transactions, several confirmations in one
   and methods with nowait are relayed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.engine.layers.ordered import Asked, Dialect, OrderedLayer, Part
from pytest_netcapture.flows import ServiceFlow
from pytest_netcapture.unreadable import LIMIT, Unreadable

PREFACE = b"AMQP\x00\x00\x09\x01"
_METHOD, _HEADER, _BODY, _HEARTBEAT, _END = 1, 2, 3, 8, 0xCE
_HEAD = struct.Struct(">BHI")
_NAMES = {
    (10, 11): "login",
    (10, 31): "tune",
    (10, 40): "open",
    (10, 50): "close",
    (10, 51): "",
    (20, 10): "channel.open",
    (20, 20): "channel.flow",
    (20, 40): "channel.close",
    (20, 41): "",
    (40, 10): "exchange.declare",
    (40, 20): "exchange.delete",
    (40, 30): "exchange.bind",
    (40, 40): "exchange.unbind",
    (50, 10): "queue.declare",
    (50, 20): "queue.bind",
    (50, 30): "queue.purge",
    (50, 40): "queue.delete",
    (50, 50): "queue.unbind",
    (60, 10): "basic.qos",
    (60, 20): "basic.consume",
    (60, 30): "basic.cancel",
    (60, 40): "basic.publish",
    (60, 70): "basic.get",
    (60, 80): "basic.ack",
    (60, 90): "basic.reject",
    (60, 110): "basic.recover",
    (60, 120): "basic.nack",
    (85, 10): "confirm.select",
}
_SET_UP = frozenset(("login", "tune", "open", "close", "channel.open", "channel.close"))
_SILENT = frozenset(("tune", "basic.ack", "basic.reject", "basic.nack"))
_DELIVER, _RETURN, _GET_OK, _ACK = (60, 60), (60, 50), (60, 71), (60, 80)
_TAGGED = {"basic.consume": (60, 21), "basic.cancel": (60, 31)}
"""Methods whose reply has the consumer's tag."""
_CONTENT = frozenset((_DELIVER, _RETURN, _GET_OK))


def amqp_layer(context: Context) -> OrderedLayer:
    return OrderedLayer(context, Amqp(context))


class Frames:
    """Cuts one direction into frames, those of a content in one piece."""

    def __init__(self) -> None:
        self._held = b""
        self._parts: list[bytes] = []
        self._left = -1
        """Bytes of a body that are to come; -1: no content is open."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield methods, each with its content, and heartbeats. Raises `Unreadable`."""
        self._held += data
        while len(self._held) >= _HEAD.size:
            kind, _, size = _HEAD.unpack_from(self._held)
            end = _HEAD.size + size + 1
            if end > LIMIT or kind not in (_METHOD, _HEADER, _BODY, _HEARTBEAT):
                raise Unreadable(f"no frame: type {kind}, {size} bytes")
            if len(self._held) < end:
                return
            frame, self._held = self._held[:end], self._held[end:]
            if frame[-1] != _END:
                raise Unreadable("a frame without its end")
            yield from self._join(kind, frame)

    def _join(self, kind: int, frame: bytes) -> Iterator[bytes]:
        if kind == _HEARTBEAT:
            yield frame
            return
        if kind == _METHOD:
            if self._parts:
                raise Unreadable("a method within a content")
            if method_of(frame) not in _CONTENT | {(60, 40)}:
                yield frame
                return
            self._left = -1
        elif kind == _HEADER and self._parts and len(frame) >= 20:
            self._left = int.from_bytes(frame[11:19], "big")
        elif kind == _BODY and self._left > 0:
            self._left -= len(frame) - 8
        else:
            raise Unreadable("content without a method")
        self._parts.append(frame)
        if kind != _METHOD and self._left <= 0:
            whole, self._parts = b"".join(self._parts), []
            yield whole


def method_of(frame: bytes) -> tuple[int, int]:
    """Return the numbers of a method's class and its own."""
    if len(frame) < 12:
        raise Unreadable("a method without its number")
    return int.from_bytes(frame[7:9], "big"), int.from_bytes(frame[9:11], "big")


def strings(frame: bytes, at: int, count: int) -> list[bytes]:
    """Return short strings of a method's arguments, which begin at 11."""
    found = []
    for _ in range(count):
        size = frame[at] if at < len(frame) else 0
        if at + 1 + size > len(frame):
            raise Unreadable("a string longer than its method")
        found.append(frame[at + 1 : at + 1 + size])
        at += 1 + size
    return found


def body_of(whole: bytes) -> bytes:
    """Return the body of a method with its content."""
    parts, at = [], 0
    while at + _HEAD.size <= len(whole):
        kind, _, size = _HEAD.unpack_from(whole, at)
        if kind == _BODY:
            parts.append(whole[at + _HEAD.size : at + _HEAD.size + size])
        at += _HEAD.size + size + 1
    return b"".join(parts)


class Amqp(Dialect):
    """One connection."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client, self._server = Frames(), Frames()
        self._prefaced = b""
        self._begun = False
        self._session = ""
        self._confirms: dict[int, int] = {}
        """Channels on which publishing is confirmed, and how often it was."""
        self._delivered: dict[int, int] = {}
        self._queues: dict[tuple[int, bytes], str] = {}
        """What a consumer consumes, by channel and tag."""

    def _flow(self, step: str, question: str) -> ServiceFlow:
        endpoint = self._context.endpoint
        return ServiceFlow(
            service="amqp",
            host=endpoint.host,
            port=endpoint.port,
            session=self._session,
            step=step,
            question=question,
        )

    # ── the client ───────────────────────────────────────────────────────────────────────────

    def asked(self, data: bytes) -> Iterator[Asked]:
        if not self._begun:
            self._prefaced += data
            if len(self._prefaced) < len(PREFACE):
                return
            if not self._prefaced.startswith(PREFACE):
                raise Unreadable("another version of AMQP")
            data, self._begun = self._prefaced[len(PREFACE) :], True
            yield Asked(self._flow("connect", "AMQP 0-9-1"))
        for frame in self._client.feed(data):
            if frame[0] == _HEARTBEAT:
                continue
            asked = self._method(frame)
            if asked is not None:
                yield asked

    def _method(self, frame: bytes) -> Asked | None:
        number = method_of(frame)
        name = _NAMES.get(number)
        if name is None:
            raise Unreadable(f"method {number[0]}.{number[1]}")
        if not name:
            return None
        channel = int.from_bytes(frame[1:3], "big")
        flow = self._flow("connect" if name in _SET_UP else "command", name)
        flow.notes["channel"] = channel.to_bytes(2, "big")
        flow.values = list(_values(name, frame))
        replies = 0 if name in _SILENT else 1
        if name == "open":
            self._session = strings(frame, 11, 1)[0].decode("utf-8", "replace")
        elif name == "basic.publish" and channel not in self._confirms:
            replies = 0
        elif name == "basic.consume":
            flow.notes["tag"] = strings(frame, 13, 2)[1]
        elif name == "basic.cancel":
            flow.notes["tag"] = strings(frame, 11, 1)[0]
        return Asked(flow, replies)

    # ── the server ───────────────────────────────────────────────────────────────────────────

    def units(self, data: bytes) -> Iterator[bytes]:
        return self._server.feed(data)

    def part(self, unit: bytes, head: Asked | None) -> Part:
        if unit[0] == _HEARTBEAT:
            return Part.APART
        number = method_of(unit)
        if number in (_DELIVER, _RETURN) or (number in ((10, 50), (20, 40)) and head is None):
            return Part.APART
        if head is None:
            raise Unreadable("a reply to nothing")
        if number == _ACK and (head.flow.question != "basic.publish" or self._is_late(unit)):
            raise Unreadable("several confirmations in one")
        return Part.LAST

    def _is_late(self, ack: bytes) -> bool:
        channel = int.from_bytes(ack[1:3], "big")
        return int.from_bytes(ack[11:19], "big") != self._confirms.get(channel, 0) + 1

    def told(self, flow: ServiceFlow) -> None:
        channel = int.from_bytes(flow.notes.get("channel", b""), "big")
        if flow.question == "confirm.select":
            self._confirms[channel] = 0
        elif flow.question == "basic.publish" and channel in self._confirms:
            self._confirms[channel] += 1
        elif flow.question == "basic.consume" and flow.answer:
            tag = strings(flow.answer, 11, 1)[0]
            self._queues[channel, tag] = (flow.values[0] or b"").decode("utf-8", "replace")

    def apart(self, unit: bytes) -> ServiceFlow | None:
        if unit[0] == _HEARTBEAT or method_of(unit) != _DELIVER:
            return None
        channel, (tag,) = int.from_bytes(unit[1:3], "big"), strings(unit, 11, 1)
        flow = self._flow("message", self._queues.get((channel, tag), ""))
        flow.answer, flow.sent = unit, b""
        flow.notes["body"] = body_of(unit)
        return flow

    # ── replay ───────────────────────────────────────────────────────────────────────────────

    def answer(self, flow: ServiceFlow, recorded: ServiceFlow) -> bytes:
        channel = int.from_bytes(flow.notes.get("channel", b""), "big")
        said = _on_channel(recorded.answer, channel)
        if flow.question in _TAGGED and said:
            tag = flow.notes["tag"] or strings(said, 11, 1)[0]
            return _frame(channel, struct.pack(">HHB", *_TAGGED[flow.question], len(tag)) + tag)
        if flow.question == "basic.publish" and said and method_of(said) == _ACK:
            return said[:11] + (self._confirms.get(channel, 0) + 1).to_bytes(8, "big") + said[19:]
        if flow.question == "basic.get" and said and method_of(said) == _GET_OK:
            return said[:11] + self._next_tag(channel) + said[19:]
        return said

    def given(self, recorded: ServiceFlow) -> bytes:
        """Give a message to who consumes its queue now."""
        for (channel, tag), queue in self._queues.items():
            if queue == recorded.question:
                said = _on_channel(recorded.answer, channel)
                size = _HEAD.unpack_from(said)[2]
                arguments, rest = said[11 : _HEAD.size + size], said[_HEAD.size + size + 1 :]
                arguments = arguments[1 + arguments[0] :]
                head = struct.pack(">HHB", *_DELIVER, len(tag)) + tag
                return _frame(channel, head + self._next_tag(channel) + arguments[8:]) + rest
        return recorded.answer

    def _next_tag(self, channel: int) -> bytes:
        self._delivered[channel] = self._delivered.get(channel, 0) + 1
        return self._delivered[channel].to_bytes(8, "big")

    def listens(self, flow: ServiceFlow) -> list[ServiceFlow]:
        if flow.question != "basic.consume":
            return []
        return [self._flow("message", (flow.values[0] or b"").decode("utf-8", "replace"))]

    def refusal(self, _flow: ServiceFlow, text: str) -> bytes:
        reason = text.encode("utf-8", "replace")[:255]
        arguments = struct.pack(">HHHB", 10, 50, 541, len(reason)) + reason + bytes(4)
        return _frame(0, arguments)


def _frame(channel: int, arguments: bytes) -> bytes:
    return _HEAD.pack(_METHOD, channel, len(arguments)) + arguments + bytes([_END])


def _on_channel(whole: bytes, channel: int) -> bytes:
    """Return frames with another channel."""
    parts, at = [], 0
    while at + _HEAD.size <= len(whole):
        kind, _, size = _HEAD.unpack_from(whole, at)
        end = at + _HEAD.size + size + 1
        parts.append(_HEAD.pack(kind, channel, size) + whole[at + _HEAD.size : end])
        at = end
    return b"".join(parts)


def _values(name: str, frame: bytes) -> list[bytes]:
    if name in _SET_UP or name in _SILENT:
        return []
    if name == "basic.publish":
        return [*strings(frame, 13, 2), body_of(frame)]
    if name == "basic.consume":
        return strings(frame, 13, 1)
    if name == "basic.cancel":
        return []
    return [frame[11:-1]]
