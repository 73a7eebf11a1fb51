"""Lists the machine's own addresses, which every sandbox has, too: tests bind and dial them.

Loopback and link-local ones are left out: the former are there anyway, the latter mean nothing
without their link. Kernel: rtnetlink(7). Tests: test_addresses.py.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect import netlink
from pytest_netcapture.redirect.sockdiag import is_last

_HEAD = struct.Struct("=BBBBI")
_UNUSABLE = k.IFA_F_TENTATIVE | k.IFA_F_DADFAILED


def own_addresses() -> tuple[str, ...]:
    """Return the global addresses of the calling thread's namespace; none if it cannot tell."""
    request = netlink.message(k.RTM_GETADDR, bytes(_HEAD.size), flags=k.NLM_F_ROOT_MATCH)
    found: list[str] = []
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    try:
        with socket.socket(socket.AF_NETLINK, kind, k.NETLINK_ROUTE) as conn:
            conn.send(request)
            while True:
                data = conn.recv(65536)
                found += parse(data)
                if is_last(data):
                    return tuple(dict.fromkeys(found))
    except OSError:
        return ()


def parse(data: bytes) -> Iterator[str]:
    """Yield the global addresses of a reply (struct ifaddrmsg). Takes any bytes, never raises."""
    for kind, _, body in netlink.messages(data):
        if kind != k.RTM_NEWADDR or len(body) < _HEAD.size:
            continue
        family, _, flags, scope, _ = _HEAD.unpack_from(body)
        size = {socket.AF_INET: 4, socket.AF_INET6: 16}.get(family)
        if scope != k.RT_SCOPE_UNIVERSE or flags & _UNUSABLE:
            continue
        told = {name: bytes(value) for name, value in netlink.attributes(body[_HEAD.size :])}
        packed = told.get(k.IFA_LOCAL, told.get(k.IFA_ADDRESS, b""))
        if len(packed) == size:
            yield socket.inet_ntop(family, packed)
