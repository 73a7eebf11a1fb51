"""Makes every TCP segment and datagram of a namespace leave by the TUN device, loopback included.

1. Routes and rules only, no nftables. TCP and UDP are looked up in a table whose every way is
   `eth0`; that is before the table `local`, which the kernel would look at first: it is moved back.
2. What the engine marks, and what comes from `eth0`, is looked up in `local`: it is delivered.
3. ICMP to an own address stays inside; to others it leaves by `eth0`, where the stack answers.
4. Multicast and broadcast are looked up in the ordinary tables: members in the namespace hear it.
5. Packets that have loopback addresses are taken back on `lo`, where IPv6 takes them at all; for
   IPv4 that needs route_localnet and accept_local.
6. The kernel gives `::1` as a source to nothing that leaves by another device. So a client of
   `::1` that is captured comes from the own address, and UDP to `::1`, whose answers would come
   from there as well, stays inside.
7. Without IPv6 in the kernel there is IPv4 only. When the engine has ended so has `eth0`, and
   what is not local is unreachable at once.

Kernel: rtnetlink(7), fib_rules.h, Documentation/networking/ip-sysctl.rst. Tests: test_tun.py.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from functools import lru_cache

from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect.netlink import attribute, message
from pytest_netcapture.redirect.plumbing import (
    FAMILIES,
    Family,
    Step,
    address_message,
    carry_out,
    has_ipv6,
    link_message,
    numbered,
    out_message,
    write_sysctl,
    write_sysctls,
)
from pytest_netcapture.redirect.tun_device import NAME, Tun

_V4, _V6 = socket.AF_INET, socket.AF_INET6
_ROUTE = struct.Struct("=BBBBBBBBI")
_RULE = struct.Struct("=BBBBBxxBI")
_NUMBER = struct.Struct("=I")
_QUEUE_LENGTH = 10_000
"""Packets that the device holds; when it is full, the kernel drops."""

_MARKED, _ARRIVED, _INSIDE, _TCP, _UDP, _LOCAL = 10, 20, 25, 30, 31, 40
_STAY: dict[int, tuple[tuple[str, int], ...]] = {
    _V4: (("224.0.0.0", 4), ("240.0.0.0", 4), ("192.0.0.255", 32)),
    _V6: (("ff00::", 8),),
}


def prepare(first_port: str = "") -> bool:
    """Write the sysctls that a new device heeds; tell whether there is IPv6.

    `first_port` is what `first_unprivileged_port` told outside.
    """
    ipv6 = has_ipv6()
    write_sysctls(first_port, ipv6=ipv6)
    write_sysctl("ipv4/conf/all/rp_filter", "0")
    return ipv6


def lay(tun: Tun, addresses: tuple[str, ...], *, ipv6: bool) -> bool:
    """Set up the calling thread's namespace; tell whether IPv6 is captured.

    `addresses` are the machine's own. Raises `EnvironmentProblem`.
    """
    return carry_out(_steps(tun.mtu, addresses, ipv6=ipv6), "tun") and ipv6


@lru_cache(maxsize=4)
def _steps(mtu: int, addresses: tuple[str, ...], *, ipv6: bool) -> list[Step]:
    up = attribute(k.IFLA_MTU, _NUMBER.pack(mtu))
    up += attribute(k.IFLA_TXQLEN, _NUMBER.pack(_QUEUE_LENGTH))
    steps = [
        Step("bring lo up", link_message(k.LOOPBACK_INDEX), _V4),
        Step("bring eth0 up", link_message(k.LINK_INDEX, up), _V4),
        Step("let lo take loopback addresses", _conf(k.LOOPBACK_INDEX), _V4),
        Step("let eth0 route loopback addresses", _conf(k.LINK_INDEX), _V4),
    ]
    for family in FAMILIES[: 1 + ipv6]:
        own = [a for a in addresses if (":" in a) == (family.number == _V6)]
        for address in own:
            data = address_message(family, address, family.bits, k.LINK_INDEX)
            steps.append(Step(f"add {address}", data, family.number, needed=False))
        found = [*_routes(family, own), *_rules(family)]
        steps += [Step(what, data, family.number) for what, data in found]
    return [step._replace(data=numbered(step.data, at)) for at, step in enumerate(steps)]


def _routes(family: Family, addresses: list[str]) -> Iterator[tuple[str, bytes]]:
    name, own = family.name, family.own
    yield f"add {own} to eth0", address_message(family, own, family.length, k.LINK_INDEX)
    yield f"route {name} to eth0", out_message(family, k.RT_TABLE_MAIN, gateway=family.gateway)
    if family.number == _V4:
        yield "route multicast to eth0", out_message(family, k.RT_TABLE_MAIN, ("224.0.0.0", 3))
    yield f"capture {name}", _route(family, k.CAPTURE_TABLE, ("", 0), own)
    if family.number == _V4:
        yield "capture loopback", _route(family, k.CAPTURE_TABLE, ("127.0.0.0", 8), "127.0.0.1")
    for address in addresses:
        target = (address, family.bits)
        yield f"capture {address}", _route(family, k.CAPTURE_TABLE, target, address)
    for target in _STAY[family.number]:
        yield f"leave {target[0]} alone", _route(family, k.CAPTURE_TABLE, target)


def _rules(family: Family) -> Iterator[tuple[str, bytes]]:
    name, local = family.name, k.RT_TABLE_LOCAL
    mark = attribute(k.FRA_FWMARK, _NUMBER.pack(k.ENGINE_MARK))
    mark += attribute(k.FRA_FWMASK, b"\xff" * 4)
    yield f"deliver what is marked, {name}", _rule(family, _MARKED, local, mark)
    arrived = attribute(k.FRA_IIFNAME, NAME.encode() + b"\0")
    yield f"deliver what arrives, {name}", _rule(family, _ARRIVED, local, arrived)
    if family.number == _V6:
        match = attribute(k.FRA_IP_PROTO, bytes([socket.IPPROTO_UDP]))
        match += attribute(k.FRA_DST, socket.inet_pton(_V6, "::1"))
        yield "leave ::1's datagrams alone", _rule(family, _INSIDE, local, match, length=128)
    yield f"move {name}'s local table", _rule(family, _LOCAL, local)
    for priority, protocol in ((_TCP, socket.IPPROTO_TCP), (_UDP, socket.IPPROTO_UDP)):
        match = attribute(k.FRA_IP_PROTO, bytes([protocol]))
        yield f"capture {name}'s {protocol}", _rule(family, priority, k.CAPTURE_TABLE, match)
    yield f"drop {name}'s first rule", _rule(family, 0, local, kind=k.RTM_DELRULE)


def _conf(index: int) -> bytes:
    """Let a device take and route packets with loopback addresses (struct ipv4_devconf)."""
    wanted = {
        k.IPV4_DEVCONF_RP_FILTER: 0,
        k.IPV4_DEVCONF_ACCEPT_LOCAL: 1,
        k.IPV4_DEVCONF_ROUTE_LOCALNET: 1,
    }
    values = b"".join(attribute(name, _NUMBER.pack(value)) for name, value in wanted.items())
    inet = attribute(_V4, attribute(k.IFLA_INET_CONF, values))
    return link_message(index, attribute(k.IFLA_AF_SPEC, inet))


def _route(family: Family, table: int, target: tuple[str, int], source: str = "") -> bytes:
    """Route `target` to eth0; without `source`, leave it to other tables."""
    number, (prefix, length) = family.number, target
    kind = k.RTN_UNICAST if source else k.RTN_THROW
    scope = k.RT_SCOPE_LINK if source else k.RT_SCOPE_UNIVERSE
    body = _ROUTE.pack(number, length, 0, 0, table, k.RTPROT_STATIC, scope, kind, 0)
    if source:
        body += attribute(k.RTA_OIF, _NUMBER.pack(k.LINK_INDEX))
        body += attribute(k.RTA_PREFSRC, socket.inet_pton(number, source))
    if prefix:
        body += attribute(k.RTA_DST, socket.inet_pton(number, prefix))
    return message(k.RTM_NEWROUTE, body, flags=k.NLM_F_CREATE)


def _rule(
    family: Family,
    priority: int,
    table: int,
    match: bytes = b"",
    *,
    length: int = 0,
    kind: int = k.RTM_NEWRULE,
) -> bytes:
    """Look up in `table` what matches; `length`: bits of the destination in `match`."""
    body = _RULE.pack(family.number, length, 0, 0, table, k.FR_ACT_TO_TBL, 0)
    body += attribute(k.FRA_PRIORITY, _NUMBER.pack(priority)) + match
    flags = k.NLM_F_CREATE if kind == k.RTM_NEWRULE else 0
    return message(kind, body, flags=flags)
