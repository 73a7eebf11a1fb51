"""Where flows wait while a test runs: a file beside the target, in the cassette's own format.

1. What is written was scrubbed before: no secret touches the disk, not even for a moment.
2. The writer holds a lock (flock) on its journal, so a journal that can be locked is stale: its
   process was killed. Its intact prefix is still good.
3. It is made when the first flow is written, mode 0600, and gone after `remove`.

Proven by tests/cassettes/test_journal.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator

import msgspec

from pytest_netcapture.cassettes import records
from pytest_netcapture.cassettes.format import (
    SEGMENT,
    BodySegment,
    encode_header,
    encode_record,
)
from pytest_netcapture.cassettes.records import BodyRef
from pytest_netcapture.cassettes.scrub import WHOLE, Scrubber, with_length
from pytest_netcapture.cassettes.source import Source
from pytest_netcapture.flows import AnyFlow, Body, HttpFlow, RawFlow

COMPRESS_FROM = 1 << 18
_SAMPLE = 1 << 16
_LONGEST_NAME = 200


class Journal:
    """The flows of one recording, on their way into the cassette at `target`. Raises `OSError`."""

    def __init__(self, target: str, salt: bytes, scrubber: Scrubber) -> None:
        self.target = target
        self.path = ""
        self._salt = salt
        self._scrubber = scrubber
        self._descriptor = -1
        self._bodies: set[str] = set()
        self._made_folder = ""
        self.numbers: list[int] = []
        """The flows' ids, which tell in what order they began."""

    def append(self, flows: Iterable[AnyFlow]) -> None:
        """Scrub and write `flows`. Small ones go out in one write."""
        if self._descriptor < 0:
            self._create()
        pending: list[bytes] = []
        for flow in flows:
            scrubbed = self._scrubber.flow(flow)
            request = response = BodyRef()
            if isinstance(scrubbed, HttpFlow):
                request = self._store(scrubbed.request.body, pending)
                if scrubbed.response:
                    response = self._store(scrubbed.response.body, pending)
                    scrubbed = _with_stored_length(scrubbed, response)
            elif isinstance(scrubbed, RawFlow):
                request, response = (
                    self._store(body, pending, lambda pieces: self._scrubber.wire(pieces, []))
                    for body in (scrubbed.outgoing, scrubbed.incoming)
                )
            record = records.to_record(scrubbed, request, response)
            pending.append(encode_record(records.encode(record)))
            self.numbers.append(flow.id)
        self._write(pending)

    def source(self) -> Source:
        """Open what has been written."""
        return Source(self.path, torn_is_end=True)

    def remove(self) -> None:
        """Drop the journal, and the folder when it was made for it and nothing else is there."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            os.close(self._descriptor)
            self._descriptor = -1
        if self._made_folder:
            with contextlib.suppress(OSError):
                os.rmdir(self._made_folder)

    def _create(self) -> None:
        folder = os.path.dirname(self.target)
        if not os.path.isdir(folder):
            os.makedirs(folder, exist_ok=True)
            self._made_folder = folder
        for attempt in range(10_000):
            path = os.path.join(folder, journal_name(self.target, attempt))
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._descriptor = os.open(path, flags, 0o600)
            except FileExistsError:
                continue
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self.path = path
            self._write([encode_header(self._salt, "")])
            return
        raise OSError(f"10000 journals of process {os.getpid()} lie beside {self.target}")

    def _store(
        self, body: Body, pending: list[bytes], scrub: Callable[..., Iterator[bytes]] | None = None
    ) -> BodyRef:
        """Write a body, unless it is there already, and return where it is.

        A large one was not scrubbed yet: that is done by `scrub`, the scrubber's `stream` if None.
        """
        scrub = scrub or self._scrubber.stream
        if body.size <= WHOLE:
            data = body.content
            ref = BodyRef("", len(data), body.coding, body.chunks, body.gaps)
            if data:
                ref.id = body_id(hashlib.sha256(data))
                self._add_body(ref, [data], pending)
            return ref
        before, digest, size = self._scrubber.streamed, hashlib.sha256(), 0
        for piece in scrub(body.pieces(SEGMENT)):
            digest.update(piece)
            size += len(piece)
        pieces = body.pieces(SEGMENT)
        if self._scrubber.streamed != before:
            pieces = scrub(pieces)
        same = size == body.size
        ref = BodyRef(
            body_id(digest),
            size,
            body.coding,
            body.chunks if same else [],
            body.gaps if same else [],
        )
        self._add_body(ref, pieces, pending)
        return ref

    def _add_body(self, ref: BodyRef, pieces: Iterable[bytes], pending: list[bytes]) -> None:
        if ref.id in self._bodies:
            return
        self._bodies.add(ref.id)
        for segment in _segments(ref, pieces):
            pending.append(encode_record(msgspec.msgpack.encode(segment)))
            if len(segment.data) > _SAMPLE:
                self._write(pending)
                pending.clear()

    def _write(self, parts: list[bytes]) -> None:
        data = memoryview(b"".join(parts))
        while data:
            data = data[os.write(self._descriptor, data) :]


def recover(path: str) -> Source:
    """Open the intact prefix of a torn journal."""
    return Source(path, torn_is_end=True)


@contextlib.contextmanager
def stale_journals(target: str) -> Iterator[list[str]]:
    """Give the journals of `target` whose process is gone, locked for the time of the block.

    They are removed at the end of the block, unless it raises.
    """
    with contextlib.ExitStack() as locks:
        stale: list[str] = []
        for path in _journals(target):
            descriptor = _lock_stale(path)
            if descriptor >= 0:
                locks.callback(os.close, descriptor)
                stale.append(path)
        yield stale
        for path in stale:
            with contextlib.suppress(OSError):
                os.unlink(path)


def journal_name(target: str, attempt: int = 0) -> str:
    """Return `.NAME.cassette.<pid>.journal`; a second one in a process has a number."""
    number = f"{os.getpid()}" + (f"-{attempt}" if attempt else "")
    return f"{hidden_stem(target)}.{number}.journal"


def hidden_stem(target: str) -> str:
    """Return how the names of passing files beside `target` begin, short enough to extend."""
    name = os.path.basename(target)
    if len(name.encode()) <= _LONGEST_NAME:
        return f".{name}"
    short = name.encode()[: _LONGEST_NAME - 20].decode("utf-8", "ignore")
    return f".{short}~{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def body_id(digest: hashlib._Hash) -> str:
    return digest.hexdigest()[:32]


def _journals(target: str) -> list[str]:
    folder, stem = os.path.dirname(target), hidden_stem(target) + "."
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(
        os.path.join(folder, n) for n in names if n.startswith(stem) and n.endswith(".journal")
    )


def _lock_stale(path: str) -> int:
    """Return a descriptor that holds the lock of a stale journal, or -1."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stat = os.fstat(descriptor)
        if stat.st_nlink and (stat.st_size or not _alive(path)):  # empty: made, not locked yet
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return -1


def _alive(path: str) -> bool:
    number = path.rsplit(".", 2)[-2].partition("-")[0]
    return number.isdigit() and os.path.exists(f"/proc/{number}")


def _with_stored_length(flow: HttpFlow, stored: BodyRef) -> HttpFlow:
    response = flow.response
    if response is None or stored.size == response.body.size:
        return flow
    headers = with_length(response.headers, response.body, stored.size)
    return msgspec.structs.replace(
        flow, response=msgspec.structs.replace(response, headers=headers)
    )


def _segments(ref: BodyRef, pieces: Iterable[bytes]) -> Iterator[BodySegment]:
    """Cut a body into segments, compressed when it is large and that pays."""
    pieces = iter(pieces)
    first = next(pieces, b"")
    chained = _chain(first, pieces)
    packed = ref.size >= COMPRESS_FROM and _compressible(first)
    if packed:
        chained = _compressed(chained, ref.size)
    index, held = 0, b""
    for piece in chained:
        held += piece
        while len(held) > SEGMENT:
            yield BodySegment(ref.id, index, False, held[:SEGMENT], packed)
            index, held = index + 1, held[SEGMENT:]
    yield BodySegment(ref.id, index, True, held, packed)


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _compressible(first: bytes) -> bool:
    import zstandard  # few bodies are large

    sample = first[:_SAMPLE]
    return len(zstandard.ZstdCompressor(level=1).compress(sample)) < 0.7 * len(sample)


def _compressed(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    import zstandard

    packer = zstandard.ZstdCompressor(level=3).compressobj(size=size)
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()
