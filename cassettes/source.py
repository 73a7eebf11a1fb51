"""A cassette or journal on disk, opened: where each flow and each body is, not what is in them.

1. Opening reads the file once and checks every record; it keeps offsets only, so memory grows with
   the number of flows, not with their bodies.
2. The descriptor stays open: a file that is renamed over it does not change what is read here.
3. Bodies up to one segment are read into memory when a flow is; larger ones are extracted to a
   spool file, once, when asked for.

Proven by tests/cassettes/test_format.py.
"""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from typing import IO, TypeAlias, cast

import msgspec

from pytest_netcapture.cassettes import records
from pytest_netcapture.cassettes.format import (
    SEGMENT,
    BodySegment,
    Header,
    damaged,
    frame_size,
    open_file,
    read_header,
    read_payload,
    scan,
)
from pytest_netcapture.cassettes.records import AnyRecord, BodyRef
from pytest_netcapture.errors import CassetteError
from pytest_netcapture.flows import AnyFlow, Body, FlowError, Turn


class Recording:
    """Where one flow is stored.

    `played` counts how often it answered; `bare`: no request body; `early`: the answer began before
    the request was complete, or a server spoke first; `later`: not at the connection's beginning.
    """

    __slots__ = ("bare", "early", "later", "offset", "played", "size", "source")

    def __init__(self, source: Source, offset: int, size: int) -> None:
        self.source = source
        self.offset = offset
        self.size = size
        self.played = 0
        self.bare = self.early = self.later = False

    def payload(self) -> bytes:
        return read_payload(self.source.descriptor, self.source.path, self.offset, self.size)

    def record(self) -> AnyRecord:
        payload = self.payload()
        try:
            return records.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise damaged(self.source.path, self.offset, f"not a flow record: {error}") from None

    def flow(self) -> AnyFlow:
        """Return the flow with its bodies, large ones extracted."""
        return self._flow(self.source.body)

    def outline(self) -> AnyFlow:
        """Return the flow for people to look at: of a large body only the size."""
        return self._flow(self.source.body_if_small)

    def _flow(self, body_of: Callable[[BodyRef], Body]) -> AnyFlow:
        record = self.record()
        client, server = records.bodies_of(record)
        return records.to_flow(record, body_of(client), body_of(server))


class PeekBodyRef(msgspec.Struct, gc=False):
    size: int = 0


class PeekRequest(msgspec.Struct, gc=False):
    method: str
    scheme: str
    host: str
    port: int
    target: str
    version: str = "1.1"
    body: PeekBodyRef | None = None


class PeekResponse(msgspec.Struct, gc=False):
    after: list[int] = []


class PeekHttp(msgspec.Struct, tag_field="kind", tag="http", gc=False):
    request: PeekRequest
    response: PeekResponse | None = None


class PeekWebSocket(PeekHttp, tag_field="kind", tag="websocket", gc=False):
    pass


class PeekAnswer(msgspec.Struct, gc=False):
    data: str = ""


class PeekDns(msgspec.Struct, tag_field="kind", tag="dns"):
    name: str
    type: str
    answers: list[PeekAnswer] = []
    server: str = ""
    transport: str = "udp"


class PeekTcp(msgspec.Struct, tag_field="kind", tag="tcp"):
    host: str
    port: int
    address: str = ""
    sni: str = ""
    reason: str = ""
    tls: bool = False
    later: bool = False
    error: FlowError | None = None
    turns: list[Turn] = []


class PeekUdp(msgspec.Struct, tag_field="kind", tag="udp"):
    host: str
    port: int
    address: str = ""
    reason: str = ""
    turns: list[Turn] = []


class PeekTls(msgspec.Struct, tag_field="kind", tag="tls_failure", gc=False):
    host: str
    port: int
    side: str
    address: str = ""
    sni: str = ""


class PeekService(msgspec.Struct, tag_field="kind", tag="service"):
    service: str
    host: str
    port: int
    address: str = ""
    session: str = ""
    step: str = ""
    question: str = ""
    form: str = ""
    values: list[bytes | None] = []
    notes: dict[str, bytes] = {}


class _PeekBody(msgspec.Struct, tag_field="kind", tag="body", gc=False):
    id: str
    index: int
    last: bool


class _PeekEnd(msgspec.Struct, tag_field="kind", tag="end", gc=False):
    records: int


Peek: TypeAlias = PeekHttp | PeekWebSocket | PeekDns | PeekTcp | PeekUdp | PeekTls | PeekService
Visit: TypeAlias = Callable[[Peek, Recording], None]

_peek = msgspec.msgpack.Decoder(
    PeekHttp
    | PeekWebSocket
    | PeekDns
    | PeekTcp
    | PeekUdp
    | PeekTls
    | PeekService
    | _PeekBody
    | _PeekEnd
)
_segment = msgspec.msgpack.Decoder(BodySegment)


class Source:
    """An opened file. Raises `CassetteError`, or `FileNotFoundError`, when it cannot be read.

    `visit` is called with the outline of each flow while the file is read. With `torn_is_end` the
    intact prefix is all there is, as for a journal whose writer was killed.
    """

    def __init__(
        self,
        path: str,
        visit: Visit | None = None,
        *,
        spool_dir: str = "",
        torn_is_end: bool = False,
    ) -> None:
        self.path = path
        self.descriptor = open_file(path)
        self._close = weakref.finalize(self, os.close, self.descriptor)
        self._spool_dir = spool_dir
        self._spooled: dict[str, str] = {}
        self.recordings: list[Recording] = []
        self.bodies: dict[str, list[tuple[int, int]]] = {}
        try:
            self.stat = os.fstat(self.descriptor)
            self.header: Header
            self.header, start = read_header(self.descriptor, path)
            with _no_collection():
                self._load(start, visit, torn_is_end)
        except BaseException:
            self._close()
            raise

    def close(self) -> None:
        self._close()

    def _load(self, start: int, visit: Visit | None, torn_is_end: bool) -> None:
        open_bodies: dict[str, list[tuple[int, int]]] = {}
        count, ended = 0, False
        try:
            for offset, payload in scan(self.descriptor, self.path, start):
                if ended:
                    raise damaged(self.path, offset, "there is more after the end record")
                peek = self._outline(offset, payload)
                if isinstance(peek, _PeekBody):
                    self._add_segment(open_bodies, peek, offset, len(payload))
                elif isinstance(peek, _PeekEnd):
                    ended = True
                    if peek.records != count:
                        raise damaged(
                            self.path, offset, f"{count} records where {peek.records} were written"
                        )
                else:
                    recording = Recording(self, offset, len(payload))
                    self.recordings.append(recording)
                    if visit:
                        visit(peek, recording)
                count += 1
        except CassetteError:
            if not torn_is_end:
                raise
        if not ended and not torn_is_end:
            raise damaged(self.path, self.stat.st_size, "torn: there is no end record")

    def _outline(self, offset: int, payload: bytes) -> Peek | _PeekBody | _PeekEnd:
        try:
            return cast("Peek | _PeekBody | _PeekEnd", _peek.decode(payload))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise damaged(self.path, offset, f"not a record of a cassette: {error}") from None

    def _add_segment(
        self, started: dict[str, list[tuple[int, int]]], peek: _PeekBody, offset: int, size: int
    ) -> None:
        segments = started.setdefault(peek.id, [])
        if peek.index != len(segments):
            raise damaged(
                self.path, offset, f"segment {peek.index} of a body where {len(segments)} was due"
            )
        segments.append((offset, size))
        if peek.last:
            self.bodies[peek.id] = started.pop(peek.id)

    # Bodies

    def body(self, ref: BodyRef) -> Body:
        """Return the body: its bytes when small, a file in the spool folder when large."""
        large = ref.size > SEGMENT
        data = b"" if large or not ref.size else self.content(ref)
        path = self._extract(ref) if large else ""
        return Body(ref.size, data, path, ref.coding, ref.chunks, ref.gaps)

    def body_if_small(self, ref: BodyRef) -> Body:
        """Return the body, or one of the same size without content when it is large."""
        return self.body(ref) if ref.size <= SEGMENT else Body(ref.size, coding=ref.coding)

    def content(self, ref: BodyRef) -> bytes:
        """Return a whole small body."""
        content = b"".join(self.pieces(ref))
        if len(content) != ref.size:
            raise self._wrong_size(ref, len(content))
        return content

    def pieces(self, ref: BodyRef) -> Iterator[bytes]:
        """Yield a body in pieces of at most a segment, decompressed."""
        if not ref.size:
            return
        segments = self._segments(ref.id)
        first = self._read_segment(*segments[0])
        if not first.zstd:
            yield first.data
            for place in segments[1:]:
                yield self._read_segment(*place).data
            return
        import zstandard  # few cassettes need it

        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
            cast("IO[bytes]", _Joined(self, segments))
        )
        try:
            while piece := reader.read(SEGMENT):
                yield piece
        except zstandard.ZstdError as error:
            raise damaged(
                self.path, segments[0][0], f"a compressed body is damaged: {error}"
            ) from None

    def _segments(self, body_id: str) -> list[tuple[int, int]]:
        segments = self.bodies.get(body_id)
        if segments is None:
            raise damaged(
                self.path, 0, f"a flow refers to body {body_id}, which is not in the file"
            )
        return segments

    def _read_segment(self, offset: int, size: int) -> BodySegment:
        payload = read_payload(self.descriptor, self.path, offset, size)
        try:
            return _segment.decode(payload)
        except msgspec.DecodeError as error:
            raise damaged(self.path, offset, f"not a body record: {error}") from None

    def _extract(self, ref: BodyRef) -> str:
        path = self._spooled.get(ref.id, "")
        if path and os.path.exists(path):
            return path
        descriptor, path = tempfile.mkstemp(prefix="cassette-body-", dir=self._spool_dir or None)
        size = 0
        with open(descriptor, "wb") as file:
            for piece in self.pieces(ref):
                size += len(piece)
                if size > ref.size:
                    break
                file.write(piece)
        if size != ref.size:
            os.unlink(path)
            raise self._wrong_size(ref, size)
        self._spooled[ref.id] = path
        return path

    def _wrong_size(self, ref: BodyRef, size: int) -> CassetteError:
        return damaged(
            self.path, self._segments(ref.id)[0][0], f"a body of {ref.size} bytes has {size}"
        )

    # Copying

    def frames(self, body_id: str) -> Iterator[bytes]:
        """Yield the records of a body as they are in the file."""
        for offset, size in self._segments(body_id):
            yield os.pread(self.descriptor, frame_size(size), offset)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Spare the garbage collector a look at each object of a load: all stay. A third faster."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Joined:
    """The segments of one body as a file to read from."""

    def __init__(self, source: Source, segments: list[tuple[int, int]]) -> None:
        self._data = (source._read_segment(*place).data for place in segments)
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            following = next(self._data, None)
            if following is None:
                return b""
            self._rest = following
        size = len(self._rest) if size < 0 else size
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


def identity(stat: os.stat_result) -> tuple[int, ...]:
    """Return what tells one version of a file from another."""
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size
