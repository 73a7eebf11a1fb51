"""The nftables rules of a namespace, as one netlink batch.

Every packet in the namespace is local (all addresses are, see plumbing.py), so all of them pass the
prerouting hook on `lo`. Three chains there, in this order:

1. *gate* hands a TCP SYN that no socket of the namespace wants to the engine's queue. `bypass`:
   with nobody at the queue it passes, so a dead engine holds nobody up.
2. *verdict* turns the packet mark that the queue's verdict left into a reset or silence. It is a
   chain of its own since a queued packet resumes at the next one.
3. *capture* lets local traffic through and gives the rest to the engine's transparent sockets. What
   they do not take (they are gone) is refused.

What is local: a packet for an exact socket (bound to that very address, or connected), whatever the
address; on loopback and our own addresses also one for a wildcard socket. So a test's `0.0.0.0:443`
is reached over 127.0.0.1 and does not swallow connections to the world. The `socket` expression
ends the rule when there is no socket, or only one that is TIME_WAIT or being made; `tproxy` sorts
those out.

4. Packets of sockets with ENGINE_MARK pass every chain first thing: dials into the namespace are
   not gated, and data from the engine's accepted sockets, which inherit the listener's mark, is
   quick.
5. Multicast, broadcast and class E are left to the kernel: members in the namespace hear it, nobody
   else.
6. The listeners' own addresses are rejected, so a stray connect cannot make the engine talk to
   itself.

7. TCP is refused by a reset, never by an ICMP error: one that comes while `connect` still holds the
   socket is only noted, and `connect` fails at the first retransmission, 1 s later (tcp_v6_err).
8. A fourth chain, *outgoing*, refuses what would leave by eth0, behind which nobody is: ICMP to
   others (ping says "host unreachable"), and sockets that are bound to it. The reset reaches such a
   socket since it takes over the interface that the refused segment was bound to; the `socket`
   expression does not know that, so resets that it finds no socket for pass.

Tests: test_kernel_facts.py for the kernel's part, test_tproxy.py for each rule.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pytest_netcapture.redirect import expressions as x
from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect.base import Verdict
from pytest_netcapture.redirect.kept import kept

TABLE = "netcapture"
NATIVE, COMPAT, NO_GATE = "queue", "target", ""
"""How the gate reaches the queue: the `queue` expression, the xt target NFQUEUE, or not at all."""

CHAINS = {
    "gate": (k.NF_INET_PRE_ROUTING, -20),
    "verdict": (k.NF_INET_PRE_ROUTING, -10),
    "capture": (k.NF_INET_PRE_ROUTING, 0),
    "outgoing": (k.NF_INET_LOCAL_OUT, 0),
}
"""Each chain's hook and priority, from mangle on."""

QUEUE_MODULES = {NATIVE: "nft_queue", COMPAT: "nft_compat, xt_NFQUEUE"}
_LISTENERS: dict[int, tuple[str, int]] = {
    socket.AF_INET: k.LISTENER_V4,
    socket.AF_INET6: k.LISTENER_V6,
}
_V4, _V6 = socket.AF_INET, socket.AF_INET6


@dataclass(frozen=True)
class Rule:
    """One rule; `module` is the kernel's, named when the rule is refused."""

    chain: str
    what: str
    expressions: x.Expressions
    module: str = "nf_tables"


@dataclass(frozen=True)
class Batch:
    """Encoded messages. `parts` says what each sequence number is: (what, kernel module)."""

    data: bytes
    parts: dict[int, tuple[str, str]]


def rules(gate: str, *, ipv6: bool) -> list[Rule]:
    """Return all rules in order; `gate` is NATIVE, COMPAT or NO_GATE."""
    families = (_V4, _V6) if ipv6 else (_V4,)
    return [*(_gate(gate, families) if gate else ()), *_capture(families), *_outgoing(families)]


def _gate(gate: str, families: tuple[int, ...]) -> Iterator[Rule]:
    tcp = x.protocol(socket.IPPROTO_TCP)
    queue = x.queue if gate == NATIVE else x.queue_target
    other = x.protocol(socket.IPPROTO_TCP, x.NOT_EQUAL)
    yield Rule("gate", "pass the engine's own packets", x.mark(k.ENGINE_MARK) + x.accept())
    yield Rule("gate", "pass other protocols", other + x.accept())
    yield Rule("gate", "pass segments that open nothing", x.syn(x.NOT_EQUAL) + x.accept())
    yield from _local("gate", families)
    yield Rule("gate", "queue other SYNs", queue(k.QUEUE_NUMBER), QUEUE_MODULES[gate])
    refuse = x.mark(Verdict.REFUSE) + tcp + x.reject_reset()
    yield Rule("verdict", "refuse", refuse, "nft_reject_inet")
    yield Rule("verdict", "drop", x.mark(Verdict.DROP) + x.drop())


def _capture(families: tuple[int, ...]) -> Iterator[Rule]:
    yield Rule("capture", "pass the engine's own packets", x.mark(k.ENGINE_MARK) + x.accept())
    for family in families:
        stray = x.destination(family, _LISTENERS[family][0])
        segment = stray + x.protocol(socket.IPPROTO_TCP) + x.reject_reset()
        datagram = stray + x.reject_icmp(x.PORT_UNREACHABLE)
        yield Rule("capture", "refuse TCP strays to the listener", segment, "nft_reject_inet")
        yield Rule("capture", "refuse other strays to the listener", datagram, "nft_reject_inet")
    yield from _local("capture", families)
    for family in families:
        yield Rule("capture", "pass multicast", x.multicast(family) + x.accept())
    yield Rule("capture", "pass resets of refusals", x.reset() + x.accept())
    for family in families:
        what = "tproxy IPv4" if family == _V4 else "tproxy IPv6"
        yield Rule("capture", what, x.tproxy(family, _LISTENERS[family]), "nft_tproxy")
    syn = x.protocol(socket.IPPROTO_TCP) + x.syn() + x.reject_reset()
    datagram = x.protocol(socket.IPPROTO_UDP) + x.reject_icmp(x.PORT_UNREACHABLE)
    yield Rule("capture", "refuse SYNs without engine", syn, "nft_reject_inet")
    yield Rule("capture", "refuse datagrams without engine", datagram, "nft_reject_inet")


def _outgoing(families: tuple[int, ...]) -> Iterator[Rule]:
    yield Rule("outgoing", "pass what comes back", x.outgoing(k.LOOPBACK_INDEX) + x.accept())
    for family in families:
        yield Rule("outgoing", "pass multicast", x.multicast(family) + x.accept())
    segment = x.protocol(socket.IPPROTO_TCP) + x.reject_reset()
    yield Rule("outgoing", "refuse TCP", segment, "nft_reject_inet")
    yield Rule("outgoing", "refuse others", x.reject_icmp(x.HOST_UNREACHABLE), "nft_reject_inet")


def _local(chain: str, families: tuple[int, ...]) -> Iterator[Rule]:
    exact = x.has_exact_socket() + x.accept()
    yield Rule(chain, "pass packets for exact sockets", exact, "nft_socket")
    own = [(_V4, "127.0.0.0", 1), (_V4, k.OWN_V4, 0), (_V6, "::1", 0), (_V6, k.OWN_V6, 0)]
    for family, address, size in own:
        if family in families:
            match = x.destination(family, address, size) + x.has_socket() + x.accept()
            yield Rule(chain, f"pass packets for sockets on {address}", match, "nft_socket")


@lru_cache(maxsize=8)
def batch(gate: str, *, ipv6: bool) -> Batch:
    """Return table, chains and rules as messages, encoded now or in an earlier session."""
    wanted = rules(gate, ipv6=ipv6)
    chains = [name for name in CHAINS if any(r.chain == name for r in wanted)]
    steps = [("table", "nf_tables"), *((f"chain {name}", "nf_tables") for name in chains)]
    steps += [(f"rule {rule.chain}: {rule.what}", rule.module) for rule in wanted]
    data = kept(f"rules-{gate}-{4 + 2 * ipv6}", lambda: _encoded(chains, wanted))
    return Batch(data, dict(enumerate(steps, 1)))


def _encoded(chains: list[str], wanted: list[Rule]) -> bytes:
    from pyroute2.netlink.nfnetlink import nftsocket as nft

    steps = [(nft.NFT_MSG_NEWTABLE, _table(nft))]
    steps += [(nft.NFT_MSG_NEWCHAIN, _chain(nft, name)) for name in chains]
    steps += [(nft.NFT_MSG_NEWRULE, _rule(nft, rule)) for rule in wanted]
    data = [_bracket(nft, k.NFNL_MSG_BATCH_BEGIN)]
    for number, (kind, message) in enumerate(steps, 1):
        data.append(_encode(message, k.NFNL_SUBSYS_NFTABLES << 8 | kind, number))
    return b"".join([*data, _bracket(nft, k.NFNL_MSG_BATCH_END)])


def _table(nft: Any) -> Any:
    message = nft.nft_table_msg()
    message["attrs"] = [("NFTA_TABLE_NAME", TABLE)]
    return message


def _chain(nft: Any, name: str) -> Any:
    number, priority = CHAINS[name]
    hook = [
        ("NFTA_HOOK_HOOKNUM", number),
        ("NFTA_HOOK_PRIORITY", k.NF_IP_PRI_MANGLE + priority),
    ]
    message = nft.nft_chain_msg()
    message["attrs"] = [
        ("NFTA_CHAIN_TABLE", TABLE),
        ("NFTA_CHAIN_NAME", name),
        ("NFTA_CHAIN_HOOK", {"attrs": hook}),
        ("NFTA_CHAIN_POLICY", k.NF_ACCEPT),
        ("NFTA_CHAIN_TYPE", "filter"),
    ]
    return message


def _rule(nft: Any, rule: Rule) -> Any:
    message = nft.nft_rule_msg()
    message["attrs"] = [
        ("NFTA_RULE_TABLE", TABLE),
        ("NFTA_RULE_CHAIN", rule.chain),
        ("NFTA_RULE_EXPRESSIONS", list(rule.expressions)),
    ]
    return message


def _bracket(nft: Any, kind: int) -> bytes:
    message = nft.nfgen_msg()
    message["res_id"] = k.NFNL_SUBSYS_NFTABLES
    return _encode(message, kind, 0, family=0)


def _encode(message: Any, kind: int, number: int, family: int = k.NFPROTO_INET) -> bytes:
    message["nfgen_family"] = family
    message["header"]["type"] = kind
    message["header"]["flags"] = k.NLM_F_REQUEST | k.NLM_F_CREATE | k.NLM_F_APPEND
    message["header"]["sequence_number"] = number
    message.encode()
    return bytes(message.data)
