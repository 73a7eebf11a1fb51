"""Tells clients of one namespace that what they wrote to cannot be reached.

Made inside the namespace, used on the loop's thread. Tests: test_tproxy.py, test_datagrams.py,
test_tproxy_datagrams.py.
"""

from __future__ import annotations

import socket

from pytest_netcapture.redirect.base import Address
from pytest_netcapture.redirect.icmp import host_unreachable, port_unreachable
from pytest_netcapture.redirect.packets import Syn
from pytest_netcapture.redirect.transparent import families, icmp_sender, send_as


class Unreachable:
    """A raw ICMP socket a family."""

    def __init__(self, *, ipv6: bool, senders: dict[int, socket.socket] | None = None) -> None:
        """`senders`: sockets that somebody else has made."""
        self._senders: dict[int, socket.socket] = senders or {}
        if senders:
            return
        try:
            for family in families(ipv6=ipv6):
                self._senders[family] = icmp_sender(family)
        except BaseException:
            self.close()
            raise

    def port(self, client: Address, server: Address) -> None:
        """Nobody takes datagrams there: ECONNREFUSED."""
        send_as(self._senders, server, client, port_unreachable(client, server))

    def host(self, syn: Syn) -> None:
        """No way leads there: EHOSTUNREACH."""
        data = host_unreachable(syn.client, syn.server, syn.sequence)
        send_as(self._senders, syn.server, syn.client, data)

    def close(self) -> None:
        """Close the sockets; idempotent. What is said after that is lost."""
        for sender in self._senders.values():
            sender.close()
        self._senders.clear()
