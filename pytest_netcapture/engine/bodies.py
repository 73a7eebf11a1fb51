"""Where a body is kept while it is received: in memory first, in a spool file past a window.

1. Memory is bounded by the window; past it all goes to a file of `directory`, whose owner removes
   it with the directory. `Body.path` names it.
2. `finish` removes the content coding in bounded memory. What does not decode to its very end, is
   not known, or expands beyond reason, is kept as sent with `coding` "" (`note` says why).
3. Chunk sizes are counted after decoding; a chunk that decodes to nothing is no chunk, and one
   chunk alone says nothing and is left out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator

from pytest_netcapture.engine.codings import CodingError, Decoder, decoder, names
from pytest_netcapture.flows import Body

WINDOW = 1 << 20
LARGEST = 1 << 31
"""Bytes that a coded body may decode to."""
EXPANSION = 2000
"""How many times its coded size a body past the window may decode to; deflate's best is 1032."""
_GAP = 100_000_000
_READ = 1 << 16


class _Store:
    """Bytes: in memory up to the window, then in a file."""

    __slots__ = ("_directory", "_file", "_parts", "_window", "path", "size")

    def __init__(self, directory: str, window: int) -> None:
        self._directory = directory
        self._window = window
        self._parts: list[bytes] = []
        self._file = -1
        self.path = ""
        self.size = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if self._file < 0:
            self._parts.append(data)
            if self.size > self._window:
                self._spill()
            return
        self._write_file(data)

    def _spill(self) -> None:
        self._file, self.path = tempfile.mkstemp(prefix="body-", dir=self._directory)
        parts, self._parts = self._parts, []
        for part in parts:
            self._write_file(part)

    def _write_file(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        """Close the file of a body that nobody finished: its connection was dropped."""
        self.close()

    def remove(self) -> None:
        self.close()
        if self.path:
            os.unlink(self.path)
            self.path = ""
        self._parts.clear()

    def body(self) -> Body:
        self.close()
        if self.path:
            return Body(size=self.size, path=self.path)
        parts = self._parts
        return Body(size=self.size, data=parts[0] if len(parts) == 1 else b"".join(parts))


class SpoolingBody:
    """A `BodySink`; `now`, monotonic nanoseconds, lets it note the waits before chunks."""

    __slots__ = ("_directory", "_gaps", "_last", "_marks", "_now", "_store", "_window", "note")

    def __init__(
        self, directory: str, window: int = WINDOW, *, now: Callable[[], int] | None = None
    ) -> None:
        self._directory = directory
        self._window = window
        self._now = now
        self._last = now() if now else 0
        self._store = _Store(directory, window)
        self._marks: list[int] = []
        self._gaps: list[int] = []
        self.note = ""

    def write(self, data: bytes) -> None:
        if data:
            self._store.write(data)

    def mark(self) -> None:
        self._marks.append(self._store.size)
        if self._now is not None:
            now = self._now()
            self._gaps.append((now - self._last) // _GAP)
            self._last = now

    def finish(self, coding: str) -> Body:
        body = self._store.body()
        marks = self._marks
        if coding and body.size:
            coding_names = names(coding)
            decoded = self._decoded(body, coding) if coding_names else None
            if decoded is not None:
                body, marks = decoded
                body.coding = ", ".join(coding_names)
        if marks:
            body.chunks, body.gaps = _chunks(marks, self._gaps, body.size)
        return body

    def _decoded(self, body: Body, coding: str) -> tuple[Body, list[int]] | None:
        remover = decoder(coding)
        if remover is None:
            self.note = f"unknown content coding {coding!r}"
            return None
        store = _Store(self._directory, self._window)
        try:
            marks = _decode(body, self._marks, remover, store)
        except CodingError as error:
            store.remove()
            self.note = f"content coding {coding!r}: {error}"
            return None
        if body.path:
            os.unlink(body.path)
        return store.body(), marks


def _decode(body: Body, marks: list[int], remover: Decoder, store: _Store) -> list[int]:
    """Decode `body` into `store`; return the marks, moved to where they are in the output."""
    moved: list[int] = []
    limit = min(LARGEST, max(WINDOW, body.size * EXPANSION))
    for piece, ends_chunk in _cut(body, marks):
        for out in remover.feed(piece):
            if store.size + len(out) > limit:
                raise CodingError(f"expands to more than {limit} bytes")
            if out:
                store.write(out)
        if ends_chunk:
            moved.append(store.size)
    remover.finish()
    return moved


def _cut(body: Body, marks: list[int]) -> Iterator[tuple[bytes, bool]]:
    """Yield the body in pieces that end at each mark, and whether they do."""
    position = 0
    following = iter(marks)
    mark = next(following, -1)
    for piece in body.pieces(_READ):
        start = 0
        while mark >= 0 and mark - position <= len(piece):
            yield piece[start : mark - position], True
            start = mark - position
            mark = next(following, -1)
        if start < len(piece):
            yield piece[start:], False
        position += len(piece)


def _chunks(marks: list[int], gaps: list[int], size: int) -> tuple[list[int], list[int]]:
    """Turn end positions into sizes, and drop what carries no meaning."""
    sizes: list[int] = []
    waits: list[int] = []
    before = wait = 0
    for index, mark in enumerate(marks):
        wait += gaps[index] if gaps else 0
        if mark > before:
            sizes.append(mark - before)
            waits.append(wait)
            before, wait = mark, 0
    if size > before:
        sizes.append(size - before)
        waits.append(wait)
    if not any(waits):
        waits = []
    if len(sizes) < 2 and not waits:
        return [], []
    return sizes, waits
