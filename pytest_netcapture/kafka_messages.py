"""Read Kafka's requests (its "Protocol Guide"; KIP-482 for the flexible versions).

1. A request is its length, the numbers of its call and version, a number that its answer has again,
   and who the client is. An answer is its length, that number, and what the call's version says.
2. Of what follows are read: the topics of Metadata, the records of Produce, offsets of Fetch, the
   mechanism of SaslHandshake. Versions from `FLEXIBLE` on write lengths as varints, plus one.
3. Records are read in batches of version 2 (Kafka 0.11), plain or compressed with gzip.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from pytest_netcapture.unreadable import LIMIT, Unreadable

PRODUCE, FETCH, METADATA, HEARTBEAT, SASL_HANDSHAKE, API_VERSIONS = 0, 1, 3, 12, 17, 18
NAMES = re.findall(
    r"\w+",
    """
    Produce Fetch ListOffsets Metadata LeaderAndIsr StopReplica UpdateMetadata
    ControlledShutdown OffsetCommit OffsetFetch FindCoordinator JoinGroup Heartbeat
    LeaveGroup SyncGroup DescribeGroups ListGroups SaslHandshake ApiVersions CreateTopics
    DeleteTopics DeleteRecords InitProducerId OffsetForLeaderEpoch AddPartitionsToTxn
    AddOffsetsToTxn EndTxn WriteTxnMarkers TxnOffsetCommit DescribeAcls CreateAcls
    DeleteAcls DescribeConfigs AlterConfigs AlterReplicaLogDirs DescribeLogDirs
    SaslAuthenticate CreatePartitions
    """,
)
"""Of calls, by their numbers."""
FLEXIBLE = {PRODUCE: 9, FETCH: 12, METADATA: 9, HEARTBEAT: 4}
_HEAD = struct.Struct(">iHHih")
_CALLS, _VERSIONS, _LONGEST_NAME = 100, 20, 250
_BATCH = struct.Struct(">qiibIhiqqqhii")
_COMPRESSION = ("", "gzip", "snappy", "lz4", "zstd")


class Request(NamedTuple):
    call: int
    version: int
    number: int
    client: str
    body: bytes

    @property
    def name(self) -> str:
        return NAMES[self.call] if self.call < len(NAMES) else f"call {self.call}"

    @property
    def flexible(self) -> bool:
        return self.version >= FLEXIBLE.get(self.call, 1 << 15)


class Record(NamedTuple):
    """What was produced. A batch that cannot be read is one, without its content."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None


def begins_like_kafka(data: bytes) -> bool:
    """Tell by the head of a request: its numbers are small, and the client's name is one.

    Metadata, with which no client since 0.10 begins, is left out: PostgreSQL begins like it.
    """
    if len(data) < _HEAD.size:
        return False
    size, call, version, _, name = _HEAD.unpack_from(data)
    known = call < _CALLS and call != METADATA and version <= _VERSIONS
    said = data[_HEAD.size : _HEAD.size + max(name, 0)]
    fits = -1 <= name <= _LONGEST_NAME and _HEAD.size - 4 + max(name, 0) <= size <= LIMIT
    return known and fits and len(said) == max(name, 0) and (not said or said.isascii())


class Splitter:
    """Cuts one direction into messages without their length."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that `data` completes. Raises `Unreadable`."""
        self._held += data
        while len(self._held) >= 4:
            size = int.from_bytes(self._held[:4], "big", signed=True)
            if not 4 <= size <= LIMIT:
                raise Unreadable(f"a message of {size} bytes")
            if len(self._held) < 4 + size:
                return
            whole = bytes(self._held[4 : 4 + size])
            del self._held[: 4 + size]
            yield whole


def request(whole: bytes) -> Request:
    fields = _Reader(whole)
    call, version, number = fields.number(2), fields.number(2), fields.number(4)
    client = fields.short() or b""
    text = client.decode("utf-8", "replace")
    return Request(call, version, number, text, fields.rest())


def topics(one: Request) -> list[str]:
    """Return of which topics Metadata is asked; none is all of them."""
    fields = _Reader(one.body, flexible=one.flexible)
    fields.tags()
    found = []
    for _ in range(fields.count()):
        if one.version >= 10:
            fields.take(16)
        found.append(fields.text())
        fields.tags()
    return found


def positions(one: Request) -> list[str]:
    """Return from where Fetch wants news: `topic/partition@offset`, as far as it says it anew."""
    fields = _Reader(one.body, flexible=one.flexible)
    fields.tags()
    if one.version < 15:
        fields.take(4)
    fields.take(8 + (4 if one.version >= 3 else 0) + (1 if one.version >= 4 else 0))
    if one.version >= 7:
        fields.take(8)
    found = []
    for _ in range(fields.count()):
        topic = fields.take(16).hex() if one.version >= 13 else fields.text()
        for _ in range(fields.count()):
            partition = fields.number(4)
            if one.version >= 9:
                fields.take(4)
            found.append(f"{topic}/{partition}@{fields.number(8)}")
            rest = (4 if one.version >= 12 else 0) + (8 if one.version >= 5 else 0)
            fields.take(rest + 4)
            fields.tags()
        fields.tags()
    return found


def mechanism(one: Request) -> str:
    return _Reader(one.body).text()


def produced(one: Request) -> tuple[int, list[Record]]:
    """Return how many brokers have to confirm, and the records that are produced."""
    fields, found = _Reader(one.body, flexible=one.flexible), list[Record]()
    fields.tags()
    if one.version >= 3:
        fields.string()
    acks = fields.number(2)
    fields.take(4)
    for _ in range(fields.count()):
        topic = fields.take(16).hex() if one.version >= 13 else fields.text()
        for _ in range(fields.count()):
            partition = fields.number(4)
            found += _records(topic, partition, fields.data() or b"")
            fields.tags()
        fields.tags()
    return acks, found


def _records(topic: str, partition: int, data: bytes) -> Iterator[Record]:
    at = 0
    while at < len(data):
        if len(data) < at + _BATCH.size:
            raise Unreadable("records of a version before 2")
        _, size, _, magic, _, attributes, *_, count = _BATCH.unpack_from(data, at)
        end = at + 12 + size
        if magic != 2 or not at + _BATCH.size <= end <= len(data):
            raise Unreadable("records of a version before 2")
        content, how = data[at + _BATCH.size : end], attributes & 7
        at = end
        if how > 1:
            name = _COMPRESSION[how] if how < len(_COMPRESSION) else str(how)
            yield Record(topic, partition, None, f"({count} records, {name})".encode())
            continue
        fields = _Reader(_gunzipped(content) if how else content)
        for _ in range(count):
            yield _record(topic, partition, fields)


def _record(topic: str, partition: int, fields: _Reader) -> Record:
    whole = _Reader(fields.take(fields.varint()))
    whole.take(1)
    whole.varint()
    whole.varint()
    key, value = (None if (size := whole.varint()) < 0 else whole.take(size) for _ in range(2))
    return Record(topic, partition, key, value)


def _gunzipped(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(data, LIMIT)
    except zlib.error as error:
        raise Unreadable(f"compressed badly: {error}") from None


class _Reader:
    """Fields in order. Raises `Unreadable` where there are none."""

    def __init__(self, data: bytes, *, flexible: bool = False) -> None:
        self._data = data
        self._at = 0
        self._flexible = flexible

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self._data) - self._at:
            raise Unreadable(f"{size} bytes of a message that has {len(self._data) - self._at}")
        self._at += size
        return self._data[self._at - size : self._at]

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big", signed=True)

    def varint(self, *, signed: bool = True) -> int:
        value = shift = 0
        while shift < 70:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1) if signed else value
        raise Unreadable("a number without its end")

    def short(self) -> bytes | None:
        size = self.number(2)
        return None if size < 0 else self.take(size)

    def string(self) -> bytes | None:
        if not self._flexible:
            return self.short()
        size = self.varint(signed=False)
        return self.take(size - 1) if size else None

    def text(self) -> str:
        return (self.string() or b"").decode("utf-8", "replace")

    def data(self) -> bytes | None:
        size = self.varint(signed=False) - 1 if self._flexible else self.number(4)
        return None if size < 0 else self.take(size)

    def count(self) -> int:
        """Return how many elements follow."""
        count = self.varint(signed=False) - 1 if self._flexible else self.number(4)
        if count > len(self._data):
            raise Unreadable(f"{count} elements in {len(self._data)} bytes")
        return max(count, 0)

    def tags(self) -> None:
        if self._flexible:
            for _ in range(self.varint(signed=False)):
                self.varint(signed=False)
                self.take(self.varint(signed=False))
