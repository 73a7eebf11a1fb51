"""Where an address is, as the machine's own routes have it. No packet is sent to find out.

Connecting a UDP socket looks a route up and does nothing else. Kernel: ip(7).
Tests: test_seccomp_datagrams.py.
"""

from __future__ import annotations

import errno
import ipaddress
import socket

from pytest_netcapture.redirect.base import Address

_FLAGS = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


def source_for(server: Address) -> str | None:
    """Return the address from which this machine would connect; None if it could not."""
    try:
        with _connected(server) as sock:
            source: str = sock.getsockname()[0]
            return source
    except OSError:
        return None


def why_unreachable(server: Address) -> int:
    """Return the errno that a UDP socket would get on connecting, 0 if it would connect."""
    try:
        with _connected(server):
            return 0
    except OSError as error:
        return error.errno or errno.ENETUNREACH


def is_local(host: str) -> bool:
    """Tell whether `host` is this machine: loopback, one of its own addresses, or no address."""
    if host.startswith("127.") or host in {"::1", "0.0.0.0", "::"}:
        return True
    return source_for((host, 9)) == host


def is_many(host: str) -> bool:
    """Tell whether `host` is a multicast group or the broadcast address."""
    return host == "255.255.255.255" or ipaddress.ip_address(host).is_multicast


def has_ipv6() -> bool:
    """Tell whether there is ::1."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def _connected(server: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    sock = socket.socket(family, _FLAGS)
    try:
        sock.connect((server[0], server[1] or 9))
    except BaseException:
        sock.close()
        raise
    return sock
