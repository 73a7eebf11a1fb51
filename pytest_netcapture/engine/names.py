"""Which names an address is known by, and which address a name is given.

1. An answer that a test saw is remembered for the session: clients cache it across tests.
2. A name that no resolver knows (it is mapped, or only on a cassette) gets a stable address of each
   family, the same in every run (198.18.0.0/15, RFC 2544; 2001:db8::/32, RFC 3849).
"""

from __future__ import annotations

import hashlib
import ipaddress

_V4_BASE = int(ipaddress.IPv4Address("198.18.0.0"))
_V4_SIZE = 1 << 17
_V6_BASE = int(ipaddress.IPv6Address("2001:db8:6e63::"))


class Names:
    """Addresses ↔ names, for one engine."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, None]] = {}
        self._given: dict[tuple[str, int], str] = {}

    def learn(self, address: str, name: str) -> None:
        """Note that `name` was answered with `address`; the latest is first in `of`."""
        known = self._names.setdefault(address, {})
        name = name.lower().rstrip(".")
        known.pop(name, None)
        known[name] = None

    def of(self, address: str) -> tuple[str, ...]:
        """Return the names that `address` was given as an answer for, latest first."""
        return tuple(reversed(self._names.get(address, {})))

    def is_given(self, address: str) -> bool:
        """Tell whether `address` is one of ours, which nobody outside has."""
        return address in self._given.values()

    def give(self, name: str, version: int) -> str:
        """Return the stable address of IP `version` for `name`."""
        name = name.lower().rstrip(".")
        key = (name, version)
        if key not in self._given:
            address = self._choose(name, version)
            self._given[key] = address
            self.learn(address, name)
        return self._given[key]

    def _choose(self, name: str, version: int) -> str:
        digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
        if version == 6:
            return str(ipaddress.IPv6Address(_V6_BASE | digest))
        taken = set(self._given.values())
        offset = digest % (_V4_SIZE - 2)
        while (address := str(ipaddress.IPv4Address(_V4_BASE + 1 + offset))) in taken:
            offset = (offset + 1) % (_V4_SIZE - 2)
        return address
