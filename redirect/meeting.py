"""Completing a connection from the side that it was made to: both connect (RFC 9293 §3.5).

1. A client's SYN to a port of ours that nobody answers leaves it connecting. When a socket with
   that port's address connects to the client, the kernel completes both, at once on loopback.
2. Such sockets share the port with whatever the client connects to (SO_REUSEPORT, socket(7)).

Tests: test_seccomp.py, test_ebpf.py.
"""

from __future__ import annotations

import select
import socket

from pytest_netcapture.redirect.base import Address

FLAGS = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_HANDSHAKE_MS = 1000


def meet(address: Address, client: Address) -> socket.socket | None:
    """Complete `client`'s connect to `address`; return our end, None if it is not there now."""
    ours = reusable(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ours.bind(address)
        ours.connect_ex(client)
        if is_ready(ours, select.POLLOUT):
            ours.getpeername()
            return ours
    except OSError:
        pass
    ours.close()
    return None


def reusable(family: int) -> socket.socket:
    sock = socket.socket(family, FLAGS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return sock


def is_ready(sock: socket.socket, event: int) -> bool:
    """Wait for what the kernel does by itself, mostly before we ask: a handshake on loopback."""
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(_HANDSHAKE_MS))


def ended() -> socket.socket:
    """Return a connection whose other end has gone."""
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.setblocking(False)
    return ours
