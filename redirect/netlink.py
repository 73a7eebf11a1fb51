"""Netlink, as far as several modules need it: attributes, messages, and one exchange.

1. A netlink request is done when `send` returns: the kernel works in the sender's context, so what
   it has to say is in the receive queue by then. No acknowledgement is asked for; an empty queue is
   success (netlink(7); tests: test_kernel_facts.py).
2. Parsers take any bytes and never raise: what is torn ends the walk.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator

from pytest_netcapture.redirect.kernel import (
    NLA_HEADER,
    NLA_TYPE_MASK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    NLMSG_HEADER,
)


def attribute(kind: int, data: bytes) -> bytes:
    return NLA_HEADER.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)


def message(kind: int, body: bytes, *, flags: int = 0, sequence: int = 0) -> bytes:
    length = NLMSG_HEADER.size + len(body)
    return NLMSG_HEADER.pack(length, kind, flags | NLM_F_REQUEST, sequence, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, int, memoryview]]:
    """Yield (type, sequence, body) of each whole message."""
    view = memoryview(data)
    offset = 0
    while offset + NLMSG_HEADER.size <= len(view):
        length, kind, _, sequence, _ = NLMSG_HEADER.unpack_from(view, offset)
        if length < NLMSG_HEADER.size or offset + length > len(view):
            return
        yield kind, sequence, view[offset + NLMSG_HEADER.size : offset + length]
        offset += (length + 3) & ~3


def attributes(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (type, payload) of each whole attribute."""
    offset = 0
    while offset + NLA_HEADER.size <= len(view):
        length, kind = NLA_HEADER.unpack_from(view, offset)
        if length < NLA_HEADER.size or offset + length > len(view):
            return
        yield kind & NLA_TYPE_MASK, view[offset + NLA_HEADER.size : offset + length]
        offset += (length + 3) & ~3


def errors(data: bytes) -> list[tuple[int, int]]:
    """Return (sequence, errno) of each error message; acknowledgements are none."""
    found = []
    for kind, sequence, body in messages(data):
        if kind == NLMSG_ERROR and len(body) >= 4:
            number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
            if number:
                found.append((sequence, number))
    return found


def transact(protocol: int, request: bytes) -> list[tuple[int, int]]:
    """Send `request` in the calling thread's namespace; return what failed (rule 1)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as conn:
        return exchange(conn, request)


def exchange(conn: socket.socket, request: bytes) -> list[tuple[int, int]]:
    conn.send(request)
    found: list[tuple[int, int]] = []
    while True:
        try:
            data = conn.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return found
        found += errors(data)


def reason(number: int) -> str:
    """Name an errno as people search for it."""
    return f"{errno.errorcode.get(number, number)} ({os.strerror(number)})"
