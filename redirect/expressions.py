"""The nftables expressions that the rules use, as attribute trees that pyroute2 encodes.

1. Each function returns a tuple of expressions; a rule is their sum. A match that fails ends the
   rule.
2. Values in registers are in network order, as the packet has them, except marks, which are native.

Names and numbers: include/uapi/linux/netfilter/nf_tables.h; xt_NFQUEUE.h for the compat target.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

from pytest_netcapture.redirect import kernel as k

Expressions = tuple[dict[str, Any], ...]

EQUAL, NOT_EQUAL, AT_LEAST = 0, 1, 5
NO_ROUTE, PORT_UNREACHABLE, HOST_UNREACHABLE = 0, 1, 2
_FIRST, _SECOND, _VERDICT = 1, 2, 0
_META_MARK, _META_OIF, _META_NFPROTO, _META_L4PROTO = 3, 5, 15, 16
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_SOCKET_WILDCARD = 2
_REJECT_TCP_RESET, _REJECT_ICMPX = 1, 2
_TCP_FLAGS_OFFSET, _SYN, _RST, _FIN_SYN_RST_ACK = 13, b"\x02", b"\x04", b"\x17"
_PROTOCOLS: dict[int, int] = {socket.AF_INET: k.NFPROTO_IPV4, socket.AF_INET6: k.NFPROTO_IPV6}


def accept() -> Expressions:
    return _immediate_verdict(k.NF_ACCEPT)


def drop() -> Expressions:
    return _immediate_verdict(k.NF_DROP)


def reject_reset() -> Expressions:
    return _expression("reject", type=_REJECT_TCP_RESET, icmp_code=0)


def reject_icmp(code: int) -> Expressions:
    """Reject with an ICMP or ICMPv6 error; `code` is one of the icmpx codes above."""
    return _expression("reject", type=_REJECT_ICMPX, icmp_code=code)


def mark(value: int) -> Expressions:
    return _meta(_META_MARK) + _compare(EQUAL, struct.pack("=I", value))


def outgoing(interface: int) -> Expressions:
    """Match packets that go out by the interface of that index."""
    return _meta(_META_OIF) + _compare(EQUAL, struct.pack("=I", interface))


def protocol(number: int, operator: int = EQUAL) -> Expressions:
    return _meta(_META_L4PROTO) + _compare(operator, bytes([number]))


def syn(operator: int = EQUAL) -> Expressions:
    """Match a TCP segment that opens a connection (or, NOT_EQUAL, any other)."""
    return _tcp_flags(_FIN_SYN_RST_ACK) + _compare(operator, _SYN)


def reset() -> Expressions:
    return protocol(socket.IPPROTO_TCP) + _tcp_flags(_RST) + _compare(EQUAL, _RST)


def destination(family: int, prefix: str, size: int = 0) -> Expressions:
    """Match the destination's first `size` bytes (0: all) against `prefix`."""
    packed = socket.inet_pton(family, prefix)
    first = packed[: size or len(packed)]
    offset = 16 if family == socket.AF_INET else 24
    return _family(family) + _payload(_NETWORK_HEADER, offset, len(first)) + _compare(EQUAL, first)


def multicast(family: int) -> Expressions:
    """Match multicast, and for IPv4 all above it (class E, broadcast)."""
    offset, first = (16, b"\xe0") if family == socket.AF_INET else (24, b"\xff")
    return _family(family) + _payload(_NETWORK_HEADER, offset, 1) + _compare(AT_LEAST, first)


def has_socket() -> Expressions:
    """Match packets for which there is a socket, exact or wildcard."""
    return _expression("socket", key=_SOCKET_WILDCARD, dreg=_FIRST)


def has_exact_socket() -> Expressions:
    return has_socket() + _compare(EQUAL, b"\0")


def tproxy(family: int, address: tuple[str, int]) -> Expressions:
    packed = socket.inet_pton(family, address[0])
    return (
        _family(family)
        + _immediate(_FIRST, packed)
        + _immediate(_SECOND, struct.pack("!H", address[1]))
        + _expression("tproxy", family=_PROTOCOLS[family], reg_addr=_FIRST, reg_port=_SECOND)
        + accept()
    )


def queue(number: int) -> Expressions:
    """Give the packet to user space; with nobody there, go on (bypass)."""
    return _expression("queue", num=number, total=1, flags=k.NFQ_FLAG_BYPASS)


def queue_target(number: int) -> Expressions:
    """Do the same through the xt target NFQUEUE, revision 3 (`struct xt_NFQ_info_v3`)."""
    info = struct.pack("=HHHxx", number, 1, k.NFQ_FLAG_BYPASS)
    return _expression("target", name="NFQUEUE", rev=3, info=info)


def _tcp_flags(mask: bytes) -> Expressions:
    fields = {"sreg": _FIRST, "dreg": _FIRST, "len": 1, "mask": _value(mask), "xor": _value(b"\0")}
    return _payload(_TRANSPORT_HEADER, _TCP_FLAGS_OFFSET, 1) + _expression("bitwise", **fields)


def _family(family: int) -> Expressions:
    return _meta(_META_NFPROTO) + _compare(EQUAL, bytes([_PROTOCOLS[family]]))


def _immediate_verdict(code: int) -> Expressions:
    inner = {"attrs": [("NFTA_VERDICT_CODE", code)]}
    data = {"attrs": [("NFTA_DATA_VERDICT", inner)]}
    return _expression("immediate", dreg=_VERDICT, data=data)


def _immediate(register: int, value: bytes) -> Expressions:
    return _expression("immediate", dreg=register, data=_value(value))


def _meta(key: int) -> Expressions:
    return _expression("meta", key=key, dreg=_FIRST)


def _payload(base: int, offset: int, length: int) -> Expressions:
    return _expression("payload", dreg=_FIRST, base=base, offset=offset, len=length)


def _compare(operator: int, value: bytes) -> Expressions:
    return _expression("cmp", sreg=_FIRST, op=operator, data=_value(value))


def _value(value: bytes) -> dict[str, Any]:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def _expression(name: str, /, **fields: Any) -> Expressions:
    prefix = f"NFTA_{name.upper()}_"
    data = {"attrs": [(prefix + key.upper(), value) for key, value in fields.items()]}
    return ({"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", data)]},)
