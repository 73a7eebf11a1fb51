"""Makes the engine's sockets inside a namespace. Call it in a thread that is there.

1. Each carries ENGINE_MARK, which a listener's accepted sockets inherit, as they do TCP_NODELAY and
   SO_REUSEADDR: so a test may bind a port that captured connections use, if it sets SO_REUSEADDR
   too.
2. IP_TRANSPARENT lets tproxy give a socket packets for any address (tproxy.rst); it takes
   CAP_NET_ADMIN or CAP_NET_RAW in the namespace's user namespace.
3. A socket that cannot be made whole is closed before the error leaves.
4. A raw one sends as from any address by a control message, and may be used outside as well.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect.base import Address
from pytest_netcapture.redirect.netlink import reason

BACKLOG = 4096
_BUFFER = 4 << 20
_CHECKSUM_OFFSET = 6
_FLAGS = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK


def families(*, ipv6: bool) -> tuple[int, ...]:
    return (socket.AF_INET, socket.AF_INET6) if ipv6 else (socket.AF_INET,)


def stream_listener(family: int) -> socket.socket:
    with _transparent(family, socket.SOCK_STREAM) as conn:
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn.bind(_address(family))
        conn.listen(BACKLOG)
        return conn


def datagram_receiver(family: int) -> socket.socket:
    """Return a UDP socket that tells each datagram's original destination."""
    with _transparent(family, socket.SOCK_DGRAM) as conn:
        origin = k.IPV6_RECVORIGDSTADDR if family == socket.AF_INET6 else k.IP_RECVORIGDSTADDR
        conn.setsockopt(_level(family), origin, 1)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        with suppress(PermissionError):  # beyond rmem_max for real root only
            conn.setsockopt(socket.SOL_SOCKET, k.SO_RCVBUFFORCE, _BUFFER)
        conn.bind(_address(family))
        return conn


def datagram_sender(family: int) -> socket.socket:
    """Return a raw UDP socket that sends from any address and receives nothing."""
    with _transparent(family, socket.SOCK_RAW, socket.IPPROTO_UDP) as conn:
        if family == socket.AF_INET6:
            conn.setsockopt(socket.IPPROTO_IPV6, k.IPV6_CHECKSUM, _CHECKSUM_OFFSET)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        conn.bind((_address(family)[0], 0))
        return conn


def icmp_sender(family: int) -> socket.socket:
    """Return a raw ICMP or ICMPv6 socket that sends from any address and receives nothing."""
    return raw_sender(
        family, socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    )


def raw_sender(family: int, protocol: int) -> socket.socket:
    """Return such a socket for any protocol."""
    with _transparent(family, socket.SOCK_RAW, protocol) as conn:
        conn.bind((_address(family)[0], 0))
        return conn


def send_as(
    senders: dict[int, socket.socket], server: Address, client: Address, data: bytes
) -> None:
    """Send `data` to the client as from the server, through the raw socket of their family."""
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    sender = senders.get(family)
    if sender is not None:
        with suppress(OSError):  # lost, as datagrams may be
            sender.sendmsg([data], [source_address(family, server[0])], 0, (client[0], 0))


def source_address(family: int, address: str) -> tuple[int, int, bytes]:
    """Return the control message that makes a datagram come from `address`."""
    packed = socket.inet_pton(family, address)
    if family == socket.AF_INET:
        return socket.IPPROTO_IP, k.IP_PKTINFO, struct.pack("=i4s4x", 0, packed)
    return socket.IPPROTO_IPV6, k.IPV6_PKTINFO, packed + struct.pack("=i", 0)


@contextmanager
def _transparent(family: int, kind: int, protocol: int = 0) -> Iterator[socket.socket]:
    try:
        conn = socket.socket(family, kind | _FLAGS, protocol)
    except OSError as error:
        raise _problem(family, kind, error) from error
    try:
        conn.setsockopt(socket.SOL_SOCKET, k.SO_MARK, k.ENGINE_MARK)
        if family == socket.AF_INET6 and kind != socket.SOCK_RAW:
            conn.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        option = k.IPV6_TRANSPARENT if family == socket.AF_INET6 else k.IP_TRANSPARENT
        conn.setsockopt(_level(family), option, 1)
        yield conn
    except OSError as error:
        conn.close()
        raise _problem(family, kind, error) from error


def _problem(family: int, kind: int, error: OSError) -> EnvironmentProblem:
    names: dict[int, str] = {
        socket.SOCK_STREAM: "TCP",
        socket.SOCK_DGRAM: "UDP",
        socket.SOCK_RAW: "raw",
    }
    version = "IPv6" if family == socket.AF_INET6 else "IPv4"
    why = reason(error.errno or 0)
    return EnvironmentProblem(
        f"tproxy: cannot make a transparent {names[kind]} socket ({version}): {why}",
        cure="the engine needs CAP_NET_ADMIN and CAP_NET_RAW in the namespace",
        slug="docs/limits.md#tproxy",
    )


def _level(family: int) -> int:
    return socket.IPPROTO_IPV6 if family == socket.AF_INET6 else socket.IPPROTO_IP


def _address(family: int) -> tuple[str, int]:
    return k.LISTENER_V6 if family == socket.AF_INET6 else k.LISTENER_V4
