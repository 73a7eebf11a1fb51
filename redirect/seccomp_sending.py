"""What a sending call says, read from the program's memory: to whom, and which bytes.

1. `sendto`, `sendmsg` and `sendmmsg` are one thing here: a list of `Parcel`. A message without an
   address is nobody's business but the kernel's: then there is none.
2. A message that is to be cut into datagrams by the kernel (UDP_SEGMENT) is refused with EIO, which
   is how a network card says that it cannot: QUIC libraries then cut by themselves.

Tests: test_seccomp_datagrams.py.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from pytest_netcapture.redirect import seccomp_messages as messages
from pytest_netcapture.redirect.seccomp_listener import Notification
from pytest_netcapture.redirect.seccomp_memory import Memory

_LONGEST_NAME = 128
_MOST_MESSAGES = 1024
_SOL_UDP, _UDP_SEGMENT = 17, 103


class Parcel(NamedTuple):
    """One message with an address; `length_at` is where the program wants to know what was sent."""

    name: messages.Name
    pieces: tuple[tuple[int, int], ...]
    length_at: int = 0

    def payload(self, memory: Memory, thread: int) -> bytes:
        """Read the bytes. Raises OSError."""
        wanted = sum(length for _, length in self.pieces)
        if wanted > 0xFFFF:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        data = b"".join(memory.read(thread, at, length) for at, length in self.pieces if length)
        if len(data) != wanted:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return data


def read_name(memory: Memory, thread: int, address: int, length: int) -> messages.Name | None:
    """Read a socket address; None when it makes no sense, of which the kernel will tell."""
    if not address or not 0 < length <= _LONGEST_NAME:
        return None
    return messages.parse_name(memory.read(thread, address, length))


def parcels(memory: Memory, note: Notification) -> list[Parcel]:
    """Return what a sending call wants to send to an address. Raises OSError."""
    _, first, second, _, fifth, sixth = note.arguments
    if note.call == "sendto":
        name = read_name(memory, note.thread, fifth, sixth & 0xFFFF_FFFF)
        return [Parcel(name, ((first, second),))] if name is not None else []
    if note.call == "sendmsg":
        found = _message(memory, note.thread, first, 0)
        return [found] if found is not None else []
    size = messages.SEVERAL.size
    count = min(second & 0xFFFF_FFFF, _MOST_MESSAGES)
    all_ = []
    for at in range(first, first + count * size, size):
        found = _message(memory, note.thread, at, at + messages.MOVED_AT)
        if found is None:
            return []
        all_.append(found)
    return all_


def _message(memory: Memory, thread: int, at: int, length_at: int) -> Parcel | None:
    data = memory.read(thread, at, messages.HEADER.size)
    if len(data) < messages.HEADER.size:
        return None
    header = messages.parse_header(data)
    name = read_name(memory, thread, header.name, header.name_length)
    if name is None:
        return None
    if header.control_length:
        control = memory.read(thread, header.control, min(header.control_length, 4096))
        if any((m[0], m[1]) == (_SOL_UDP, _UDP_SEGMENT) for m in messages.parse_control(control)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
    return Parcel(name, pieces_of(memory, thread, header), length_at)


def pieces_of(memory: Memory, thread: int, header: messages.Header) -> tuple[tuple[int, int], ...]:
    """Read where a message's bytes are."""
    if not header.piece_count:
        return ()
    return tuple(messages.parse_pieces(memory.read(thread, header.pieces, header.piece_count * 16)))
