"""Makes a namespace look like a machine's network, all of whose ways lead back to us.

1. Beside `lo` there is `eth0`: what asks whether the machine is online looks for an interface that
   is up, has an address and is not loopback. Nothing is behind it. A kernel that has neither of
   `LINKS` gets `lo` only.
2. The addresses are the dummy address of IPv4 (RFC 7600) and one for benchmarks of IPv6 (RFC 5180),
   without which AI_ADDRCONFIG hides the family from getaddrinfo, and the machine's own, which tests
   may bind. Those of documentation are left to tests, which expect that nobody has them.
3. A route is looked for among local addresses, then by two rules of ours: for ICMP in table `main`,
   where eth0 is the way to everything; else in a table in which every address is local (AnyIP), so
   that each packet comes back on `lo`. That table is not `local` itself: bind(2) looks there only,
   and so refuses an address that is not ours, as it should.
4. What takes eth0 all the same (ICMP, a socket bound to it) is refused (ruleset.py, "outgoing");
   multicast and broadcast are heard by members in the namespace.
5. The name server's address is local, so that lookups are refused at once without the engine.
6. A kernel without IPv6 gets IPv4 only; whatever else fails is an `EnvironmentProblem`.

Messages are encoded here: what they hold differs from machine to machine, and pyroute2 takes longer
to import than all else at start-up. Kernel: rtnetlink(7), fib_rules.h. Tests: test_plumbing.py,
test_kernel_facts.py.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect.netlink import attribute, message, reason, transact

LINKS = ("dummy", "ifb")
"""Kinds of interface that swallow what they are given, the most common first."""

_V4, _V6 = socket.AF_INET, socket.AF_INET6
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_RULE = struct.Struct("=BBBBBxxBI")
_NUMBER = struct.Struct("=I")
_ICMP_RULE, _CAPTURE_RULE = 100, 101
_FIRST_PORT = "ipv4/ip_unprivileged_port_start"


class Family(NamedTuple):
    """What one family is given."""

    name: str
    number: int
    bits: int
    own: str
    length: int
    """Bits of the network of `own`."""
    gateway: str
    icmp: int
    host: int
    """The scope of a local route: IPv6 has none."""


FAMILIES = (
    Family("IPv4", _V4, 32, k.OWN_V4, 24, k.GATEWAY_V4, socket.IPPROTO_ICMP, k.RT_SCOPE_HOST),
    Family("IPv6", _V6, 128, k.OWN_V6, 64, k.GATEWAY_V6, socket.IPPROTO_ICMPV6, 0),
)


class _Kind(NamedTuple):
    """What a route does."""

    type: int
    scope: int
    interface: int


class Laid(NamedTuple):
    """What the namespace has got; `link` is the kind of its interface, "" for none."""

    ipv6: bool
    link: str


class Step(NamedTuple):
    """One message. What is not `needed` may fail: an address that is there already."""

    what: str
    data: bytes
    family: int
    needed: bool = True


def lay(
    addresses: tuple[str, ...] = (), links: tuple[str, ...] = LINKS, first_port: str = ""
) -> Laid:
    """Set up the calling thread's namespace; `addresses` are the machine's own.

    `first_port` is what `first_unprivileged_port` told outside.
    """
    ipv6 = has_ipv6()
    write_sysctls(first_port, ipv6=ipv6)
    link = next((kind for kind in links if not transact(k.NETLINK_ROUTE, _new_link(kind))), "")
    steps = _steps(addresses, ipv6=ipv6, link=bool(link))
    return Laid(carry_out(steps, "tproxy") and ipv6, link)


def carry_out(steps: list[Step], redirector: str) -> bool:
    """Send all messages; tell whether IPv6 is whole. Raises `EnvironmentProblem`."""
    ipv6 = True
    for at, number in transact(k.NETLINK_ROUTE, b"".join(step.data for step in steps)):
        step = steps[at]
        if step.needed and step.family == _V4:
            raise EnvironmentProblem(
                f"{redirector}: cannot {step.what} in a new network namespace: {reason(number)}",
                cure="the engine needs CAP_NET_ADMIN in the namespace's user namespace",
                slug=f"docs/limits.md#{redirector}",
            )
        ipv6 = ipv6 and not step.needed
    return ipv6


def has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def first_unprivileged_port() -> str:
    """Read from which port on a server takes no privilege here; "" when nobody says."""
    try:
        with open(f"/proc/sys/net/{_FIRST_PORT}") as file:
            return file.read().strip()
    except OSError:
        return ""


def write_sysctls(first_port: str, *, ipv6: bool) -> None:
    """Write what can be written: in some containers /proc/sys is read-only.

    So that a test may bind the ports that it may bind outside (containers often allow all), ping
    works without privilege, as it does by default on most distributions, IPv6 is there on a host
    that hands on `disable_ipv6` to new namespaces, and eth0 does not look for neighbours to have an
    address of its own.
    """
    group = os.getgid()
    if first_port:
        write_sysctl(_FIRST_PORT, first_port)
    write_sysctl("ipv4/ping_group_range", f"{group} {group}")
    if ipv6:
        write_sysctl("ipv6/conf/all/disable_ipv6", "0")
        write_sysctl("ipv6/conf/lo/disable_ipv6", "0")
        write_sysctl("ipv6/conf/default/addr_gen_mode", "1")


def write_sysctl(name: str, value: str) -> None:
    try:
        descriptor = os.open(f"/proc/sys/net/{name}", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(descriptor, value.encode())
    except OSError:
        pass
    finally:
        os.close(descriptor)


@lru_cache(maxsize=4)
def _steps(addresses: tuple[str, ...], *, ipv6: bool, link: bool) -> list[Step]:
    """Return what is to be done, in order; a step's place is its message's sequence number."""
    steps = [Step("bring lo up", link_message(k.LOOPBACK_INDEX), _V4)]
    families = FAMILIES[: 1 + ipv6]
    for family in families:
        found = _addresses(family, link=link)
        steps += [Step(what, data, family.number) for what, data in found]
    index = k.LINK_INDEX if link else k.LOOPBACK_INDEX
    for address in addresses:
        family = FAMILIES[":" in address]
        if family in families:
            data = address_message(family, address, family.bits, index)
            steps.append(Step(f"add {address}", data, family.number, needed=False))
    return [step._replace(data=numbered(step.data, at)) for at, step in enumerate(steps)]


def _addresses(family: Family, *, link: bool) -> Iterator[tuple[str, bytes]]:
    """Yield what rules 2, 3 and 5 ask for in one family."""
    name, own = family.name, family.own
    if link:
        yield f"add {own} to eth0", address_message(family, own, family.length, k.LINK_INDEX)
        yield f"route {name} to eth0", out_message(family, k.RT_TABLE_MAIN, gateway=family.gateway)
        yield f"add a rule for {name}'s ICMP", _rule(family, _ICMP_RULE, k.RT_TABLE_MAIN)
    else:
        yield f"add {own} to lo", address_message(family, own, family.bits, k.LOOPBACK_INDEX)
        yield f"add a rule for {name}'s ICMP", _rule(family, _ICMP_RULE, 0)
    if family.number == _V4:
        yield f"make {k.RESOLVER_V4} local", _local(family, k.RT_TABLE_LOCAL, k.RESOLVER_V4)
        if link:  # IPv6 has such a route by itself
            yield "route multicast to eth0", out_message(family, k.CAPTURE_TABLE, ("224.0.0.0", 3))
    yield f"make every {name} address local", _local(family, k.CAPTURE_TABLE)
    yield f"add a rule for {name}", _rule(family, _CAPTURE_RULE, k.CAPTURE_TABLE)


def _new_link(kind: str) -> bytes:
    info = attribute(k.IFLA_INFO_KIND, kind.encode())
    name = attribute(k.IFLA_IFNAME, b"eth0\0")
    return link_message(k.LINK_INDEX, name + attribute(k.IFLA_LINKINFO, info))


def link_message(index: int, attributes: bytes = b"") -> bytes:
    head = _LINK.pack(socket.AF_UNSPEC, 0, index, k.IFF_UP, k.IFF_UP)
    return message(k.RTM_NEWLINK, head + attributes, flags=k.NLM_F_CREATE)


def address_message(family: Family, address: str, length: int, index: int) -> bytes:
    flags = k.IFA_F_NODAD if family.number == _V6 else 0
    head = _ADDRESS.pack(family.number, length, flags, k.RT_SCOPE_UNIVERSE, index)
    packed = socket.inet_pton(family.number, address)
    both = attribute(k.IFA_LOCAL, packed) + attribute(k.IFA_ADDRESS, packed)
    return message(k.RTM_NEWADDR, head + both, flags=k.NLM_F_CREATE)


def _local(family: Family, table: int, target: str = "") -> bytes:
    """Make `target`, or every address, one of ours."""
    kind = _Kind(k.RTN_LOCAL, family.host, k.LOOPBACK_INDEX)
    return _route(family, table, kind, (target, family.bits) if target else ("", 0))


def out_message(
    family: Family, table: int, target: tuple[str, int] = ("", 0), *, gateway: str = ""
) -> bytes:
    """Route `target`, or everything, out of eth0."""
    scope = k.RT_SCOPE_UNIVERSE if gateway else k.RT_SCOPE_LINK
    return _route(family, table, _Kind(k.RTN_UNICAST, scope, k.LINK_INDEX), target, gateway)


def _route(
    family: Family, table: int, kind: _Kind, target: tuple[str, int], gateway: str = ""
) -> bytes:
    number, (prefix, length) = family.number, target
    head = _ROUTE.pack(number, length, 0, 0, table, k.RTPROT_STATIC, kind.scope, kind.type, 0)
    body = attribute(k.RTA_OIF, _NUMBER.pack(kind.interface))
    body += attribute(k.RTA_PREFSRC, socket.inet_pton(number, family.own))
    if prefix:
        body += attribute(k.RTA_DST, socket.inet_pton(number, prefix))
    if gateway:
        body += attribute(k.RTA_GATEWAY, socket.inet_pton(number, gateway))
    return message(k.RTM_NEWROUTE, head + body, flags=k.NLM_F_CREATE)


def _rule(family: Family, priority: int, table: int) -> bytes:
    """Look all packets, or with _ICMP_RULE those of ICMP, up in `table` (0: unreachable)."""
    action = k.FR_ACT_TO_TBL if table else k.FR_ACT_UNREACHABLE
    body = _RULE.pack(family.number, 0, 0, 0, table, action, 0)
    body += attribute(k.FRA_PRIORITY, _NUMBER.pack(priority))
    if priority == _ICMP_RULE:
        body += attribute(k.FRA_IP_PROTO, bytes([family.icmp]))
    return message(k.RTM_NEWRULE, body, flags=k.NLM_F_CREATE)


def numbered(data: bytes, sequence: int) -> bytes:
    """Return the message with a sequence number (struct nlmsghdr)."""
    return data[:8] + _NUMBER.pack(sequence) + data[12:]
