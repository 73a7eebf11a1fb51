"""Put what was recorded into the cassette file, beside what others put there meanwhile.

1. Between reading the target and renaming over it the folder is locked (flock on the folder's own
   descriptor, so no lock file stays). Processes that record into one cassette lose nothing.
2. A new file is written beside the target, synced, and renamed over it: whoever is killed when,
   the old or the new cassette is there, whole.
3. Records are sorted, so concurrency does not change bytes; a file whose records would stay the
   same is not touched. Records are copied as they are, never decoded and encoded again.

Proven by tests/cassettes/test_modes.py and test_sharing.py.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec

from pytest_netcapture.cassettes.format import encode_end, encode_header, encode_record
from pytest_netcapture.cassettes.journal import hidden_stem
from pytest_netcapture.cassettes.keys import split_target
from pytest_netcapture.cassettes.records import (
    AnyRecord,
    DnsRecord,
    HttpRecord,
    ServiceRecord,
    bodies_of,
)
from pytest_netcapture.cassettes.sidecar import describe, heading, sidecar_path
from pytest_netcapture.cassettes.source import Recording, Source, identity
from pytest_netcapture.errors import CassetteError

LOCK_SECONDS = 60.0
_LOCK_STEP = 0.003

Keep: TypeAlias = Callable[[Source], list[Recording]]
"""Says which recordings of the file as it is now stay in it."""


class Saved(msgspec.Struct, frozen=True):
    """What a save did. `written` is false when the file was right already, or nothing to write."""

    path: str
    written: bool = False
    added: int = 0
    total: int = 0
    version: tuple[int, ...] = ()
    """Identifies the file as it is now, as `source.identity` does."""


def save(target: str, added: Source, keep: Keep, salt: bytes, *, start_over: bool = False) -> Saved:
    """Merge `added` into the file at `target`. Raises `CassetteError`; then the file is as it was.

    With `start_over` an existing file that cannot be read is replaced instead of an error.
    """
    try:
        with locked(os.path.dirname(target)):
            base = _open_existing(target, start_over=start_over)
            try:
                return _merge(target, base, added.recordings, keep(base) if base else [], salt)
            finally:
                if base:
                    base.close()
    except OSError as error:
        raise cannot_write(target, error) from None


def write(target: str, recordings: list[Recording], salt: bytes, recorded: str = "") -> Saved:
    """Write a file of just these recordings, of any sources. Raises `CassetteError`.

    `recorded` is the day that it bears, by default today.
    """
    os.makedirs(os.path.dirname(target), exist_ok=True)
    header = encode_header(salt, recorded or _today())
    try:
        with locked(os.path.dirname(target)):
            return _put(target, in_order(recordings), header)
    except OSError as error:
        raise cannot_write(target, error) from None


def salt_of(path: str) -> bytes:
    """Return the salt of a new cassette, always the same for a name.

    It lies in the file, so it protects nothing by being random; what it does is to give a secret
    different tags in different cassettes. Derived from the name it does that, and the same traffic
    gives the same bytes on every machine.
    """
    return hashlib.blake2b(
        os.path.basename(path).encode("utf-8", "surrogateescape"), digest_size=16
    ).digest()


def cannot_write(target: str, error: OSError) -> CassetteError:
    return CassetteError(
        f"{target}: cannot be written: {error.strerror or error}",
        cure="make room or correct the permissions; a cassette that was there is unchanged",
        slug="docs/cassette-format.md#errors",
    )


def _open_existing(target: str, *, start_over: bool) -> Source | None:
    try:
        return Source(target)
    except FileNotFoundError:
        return None
    except CassetteError:
        if start_over:
            return None
        raise


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Hold the lock of `folder`. Raises `CassetteError` after `LOCK_SECONDS`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CassetteError(
                        f"waited {LOCK_SECONDS:.0f} s for the lock of {folder}, held by another",
                        cure=f"find it with: fuser -v {folder}",
                    ) from None
                time.sleep(_LOCK_STEP)
        yield
    finally:
        os.close(descriptor)


def _merge(
    target: str, base: Source | None, new: list[Recording], kept: list[Recording], salt: bytes
) -> Saved:
    merged = in_order([*kept, *new])
    if not merged and not base:
        return Saved(target)
    same = base is not None and _same(merged, base.recordings)
    if base and same and os.path.exists(sidecar_path(target)):
        return Saved(target, False, len(new), len(merged), identity(base.stat))
    salt = base.header.salt if base else salt
    recorded = base.header.recorded if base and same else _today()
    mode = base.stat.st_mode & 0o777 if base else 0
    saved = _put(target, merged, encode_header(salt, recorded), mode)
    return msgspec.structs.replace(saved, added=len(new))


def _put(target: str, recordings: list[Recording], header: bytes, mode: int = 0) -> Saved:
    """Let a file of sorted recordings, and its text, take their places."""
    _remove_leftovers(target)
    with _replacing([target, sidecar_path(target)], mode) as (file, note):
        _write_all(file, note, target, recordings, header)
        file.flush()
        version = identity(os.fstat(file.descriptor))
    _sync_folder(os.path.dirname(target))
    return Saved(target, True, len(recordings), len(recordings), version)


def in_order(recordings: list[Recording]) -> list[Recording]:
    """Sort by what identifies a flow; what is equal in that stays in recorded order."""
    return sorted(recordings, key=lambda recording: order_key(recording.record()))


def order_key(record: AnyRecord) -> tuple[str, int, int, str, str, str, str]:
    """Return (host, dns < connection < http < service, port, path, query, method, body)."""
    if isinstance(record, HttpRecord):
        request = record.request
        path, query = split_target(request.target)
        return request.host, 2, request.port, path, query, request.method, request.body.id
    if isinstance(record, DnsRecord):
        return record.name, 0, 0, record.type, record.server, record.transport, ""
    if isinstance(record, ServiceRecord):
        asked = (record.service, record.session, record.step, record.question)
        return record.host, 3, record.port, *asked
    kind = str(record.__struct_config__.tag)
    return record.host, 1, record.port, kind, record.address, "", ""


def _same(merged: list[Recording], existing: list[Recording]) -> bool:
    if len(merged) != len(existing):
        return False
    return all(
        one is other or (one.size == other.size and one.payload() == other.payload())
        for one, other in zip(merged, existing, strict=True)
    )


class _Output:
    """A file being written, in large writes."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > 1 << 20:
            self.flush()

    def flush(self) -> None:
        data = memoryview(b"".join(self._parts))
        self._parts.clear()
        self._size = 0
        while data:
            data = data[os.write(self.descriptor, data) :]


@contextlib.contextmanager
def _replacing(paths: list[str], mode: int) -> Iterator[list[_Output]]:
    """Give a file to write for each of `paths`: all take their places at the end, or all vanish."""
    temporary: dict[str, str] = {}
    outputs: list[_Output] = []
    try:
        for path in paths:
            name = os.path.join(os.path.dirname(path), f"{hidden_stem(path)}.{os.getpid()}.tmp")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            outputs.append(_Output(os.open(name, flags, 0o666)))
            temporary[name] = path
            if mode:
                os.fchmod(outputs[-1].descriptor, mode)
        yield outputs
        for output in outputs:
            output.flush()
            os.fsync(output.descriptor)
        for name, path in temporary.items():
            os.rename(name, path)
    except BaseException:
        for name in temporary:
            with contextlib.suppress(OSError):
                os.unlink(name)
        raise
    finally:
        for output in outputs:
            os.close(output.descriptor)


def _write_all(
    file: _Output, note: _Output, target: str, recordings: list[Recording], header: bytes
) -> None:
    file.write(header)
    note.write(heading(os.path.basename(target), len(recordings)).encode())
    written: set[str] = set()
    count = 0
    for number, recording in enumerate(recordings, 1):
        payload = recording.payload()
        record = recording.record()
        for ref in bodies_of(record):
            body = ref.id
            if not body or body in written:
                continue
            written.add(body)
            for frame in recording.source.frames(body):
                file.write(frame)
                count += 1
        file.write(encode_record(payload))
        count += 1
        note.write(describe(number, record, recording.source).encode("utf-8", "replace"))
    file.write(encode_end(count))


def _remove_leftovers(target: str) -> None:
    """Remove what a process that was killed while it held the lock has left."""
    folder = os.path.dirname(target)
    stems = (hidden_stem(target) + ".", hidden_stem(sidecar_path(target)) + ".")
    for name in os.listdir(folder):
        if name.startswith(stems) and name.endswith(".tmp"):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some file systems cannot; the files themselves are safe
    finally:
        os.close(descriptor)


def _today() -> str:
    return dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d")
