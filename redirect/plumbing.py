"""Makes every address local to a namespace: addresses, routes and sysctls.

1. `lo` comes up and gets a documentation address of each family (RFC 5737, RFC 3849): without one
   that is not loopback, AI_ADDRCONFIG hides the family from getaddrinfo.
2. `local default dev lo` makes every address ours (AnyIP), so each packet that is sent comes back
   on `lo`.
3. A kernel without IPv6 gets IPv4 only; whatever else fails is an `EnvironmentProblem`.

Tests: test_kernel_facts.py, test_tproxy.py.
"""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from typing import Any

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect.kept import kept
from pytest_netcapture.redirect.netlink import reason, transact

_STEPS = (
    "bring lo up",
    f"add {k.OWN_V4} to lo",
    "route every IPv4 address to lo",
    f"add {k.OWN_V6} to lo",
    "route every IPv6 address to lo",
)
_FIRST_V6_STEP = 3


def lay() -> bool:
    """Set up the calling thread's namespace; tell whether it has IPv6."""
    ipv6 = _has_ipv6()
    _write_sysctls(ipv6=ipv6)
    failed = transact(k.NETLINK_ROUTE, _batch(ipv6=ipv6))
    for step, number in failed:
        if step >= _FIRST_V6_STEP:
            ipv6 = False
        else:
            raise EnvironmentProblem(
                f"tproxy: cannot {_STEPS[step]} in a new network namespace: {reason(number)}",
                cure="the engine needs CAP_NET_ADMIN in the namespace's user namespace",
                slug="docs/limits.md#tproxy",
            )
    return ipv6


def _has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def _write_sysctls(*, ipv6: bool) -> None:
    """Write what can be written: in some containers /proc/sys is read-only.

    So that a test may bind port 80, ping works without privilege, as it does by default on most
    distributions, and IPv6 is there on a host that hands on `disable_ipv6` to new namespaces.
    """
    group = os.getgid()
    _write("ipv4/ip_unprivileged_port_start", "0")
    _write("ipv4/ping_group_range", f"{group} {group}")
    if ipv6:
        _write("ipv6/conf/all/disable_ipv6", "0")
        _write("ipv6/conf/lo/disable_ipv6", "0")


def _write(name: str, value: str) -> None:
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


@lru_cache(maxsize=2)
def _batch(*, ipv6: bool) -> bytes:
    return kept(f"addresses-{4 + 2 * ipv6}", lambda: _encoded(ipv6=ipv6))


def _encoded(*, ipv6: bool) -> bytes:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    link = ifinfmsg()
    link["index"], link["flags"], link["change"] = k.LOOPBACK_INDEX, k.IFF_UP, k.IFF_UP
    messages = [
        (k.RTM_NEWLINK, link),
        (k.RTM_NEWADDR, _address(socket.AF_INET, k.OWN_V4, 32)),
        (k.RTM_NEWROUTE, _route(socket.AF_INET, k.OWN_V4)),
    ]
    if ipv6:
        messages.append((k.RTM_NEWADDR, _address(socket.AF_INET6, k.OWN_V6, 128)))
        messages.append((k.RTM_NEWROUTE, _route(socket.AF_INET6, k.OWN_V6)))
    return b"".join(_encode(m, kind, step) for step, (kind, m) in enumerate(messages))


def _address(family: int, address: str, length: int) -> Any:
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

    message = ifaddrmsg()
    message["family"], message["prefixlen"] = family, length
    message["index"], message["scope"] = k.LOOPBACK_INDEX, 0
    message["flags"] = k.IFA_F_NODAD if family == socket.AF_INET6 else 0
    message["attrs"] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    return message


def _route(family: int, source: str) -> Any:
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    message = rtmsg()
    message["family"], message["table"] = family, k.RT_TABLE_LOCAL
    message["type"], message["proto"] = k.RTN_LOCAL, k.RTPROT_STATIC
    message["scope"] = k.RT_SCOPE_HOST if family == socket.AF_INET else 0
    message["attrs"] = [("RTA_OIF", k.LOOPBACK_INDEX), ("RTA_PREFSRC", source)]
    return message


def _encode(message: Any, kind: int, step: int) -> bytes:
    message["header"]["type"] = kind
    message["header"]["flags"] = k.NLM_F_REQUEST | k.NLM_F_CREATE
    message["header"]["sequence_number"] = step
    message.encode()
    return bytes(message.data)
