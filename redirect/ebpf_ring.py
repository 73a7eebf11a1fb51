"""The kernel's ring buffer, read through shared memory (BPF_MAP_TYPE_RINGBUF, Linux 5.8).

1. The first page has our position, the second the kernel's; then come the records, mapped twice in
   a row, so that none is cut. A record has a header of 8 bytes: its length and two flags.
2. The descriptor is readable when there is something to read.
3. `parse` decides and reads no memory of the kernel's.

Kernel: Documentation/bpf/ringbuf.rst. Tests: test_ebpf_ring.py.
"""

from __future__ import annotations

import mmap
import struct
from typing import Protocol

_BUSY, _DISCARD = 1 << 31, 1 << 30
_HEADER = 8


class Buffer(Protocol):
    """Bytes that can be sliced."""

    def __getitem__(self, key: slice, /) -> bytes | memoryview: ...


def parse(data: Buffer, size: int, consumed: int, produced: int) -> tuple[list[bytes], int]:
    """Return the records between two positions, and how far they reach.

    `data` holds `size` bytes, a power of two, twice. Stops at what is being written.
    """
    records = []
    while consumed < produced:
        at = consumed & (size - 1)
        (word,) = struct.unpack("=I", data[at : at + 4])
        if word & _BUSY:
            break
        length = word & ~_DISCARD
        if _HEADER + length > size:
            raise ValueError(f"a record of {length} bytes in a ring of {size}")
        if not word & _DISCARD:
            records.append(bytes(data[at + _HEADER : at + _HEADER + length]))
        consumed += (_HEADER + length + 7) & ~7
    return records, consumed


class Ring:
    """One ring buffer; `size` is its number of entries."""

    def __init__(self, descriptor: int, size: int) -> None:
        page = mmap.PAGESIZE
        self.fileno = descriptor
        self._size = size
        self._ours = mmap.mmap(descriptor, page, mmap.MAP_SHARED, offset=0)
        self._theirs = mmap.mmap(
            descriptor, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        self._consumed = memoryview(self._ours)[:8].cast("Q")  # one store, not eight
        self._produced = memoryview(self._theirs)[:8].cast("Q")
        self._data = memoryview(self._theirs)[page:]

    def take(self) -> list[bytes]:
        """Return what there is by now."""
        records, consumed = parse(self._data, self._size, self._consumed[0], self._produced[0])
        self._consumed[0] = consumed
        return records

    def close(self) -> None:
        for view in (self._consumed, self._produced, self._data):
            view.release()
        self._ours.close()
        self._theirs.close()
