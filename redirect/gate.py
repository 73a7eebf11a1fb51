"""The gate: connections wait in the kernel until the engine says what becomes of them.

1. The kernel hands over each SYN with an id; the packet waits until a verdict for that id comes
   back over the same socket. Closing the socket drops what waits; clients try again after 1 s.
2. A question is asked once. The same SYN again (same addresses, ports and initial sequence number)
   is a retransmission: it waits with the first, or gets at once what the first got.
3. When more SYNs wait than the queue or the socket's buffer holds (512 with the default rmem_max),
   the kernel lets the rest pass ungated (fail open), so a `StreamOpened` can come without a
   `Connecting`. It must not also report ENOBUFS, which tells us nothing that we can mend.
4. Whatever the kernel sends that is not understood is let through, not dropped. Nothing here raises
   on strange bytes.
5. `Pending` decides and has no socket; `Gate` is its edge.
6. "Host unreachable" is an ICMP error of ours (icmp.py), and the SYN is dropped: also each
   retransmission, since a client that is still in connect(2) only takes note of the first.

Kernel: include/uapi/linux/netfilter/nfnetlink_queue.h. Tests: test_gate.py (pure), test_tproxy.py.
"""

from __future__ import annotations

import socket
import struct
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect import netlink
from pytest_netcapture.redirect.base import Connecting, Verdict
from pytest_netcapture.redirect.packets import Syn, parse_syn

COPY_RANGE = 128
QUEUE_LENGTH = 4096
_REMEMBERED = 4096
_SUBSYSTEM = k.NFNL_SUBSYS_QUEUE << 8
_HEADER = 4
_MESSAGE = struct.Struct("=IH10x")
_ATTRIBUTE = struct.Struct("=HH")
_PACKET = _SUBSYSTEM | k.NFQNL_MSG_PACKET
_BUFFER = 4 << 20


def parse_packets(data: bytes) -> list[tuple[int, bytes]]:
    """Return (packet id, first bytes of the packet) of each queued packet in a netlink datagram."""
    found: list[tuple[int, bytes]] = []
    offset, size = 0, len(data)
    while offset + _MESSAGE.size <= size:
        length, kind = _MESSAGE.unpack_from(data, offset)
        end = offset + length
        if length < _MESSAGE.size or end > size:
            break
        if kind == _PACKET:
            number, payload = _parse_packet(data, offset + _MESSAGE.size + _HEADER, end)
            if number >= 0:
                found.append((number, payload))
        offset = (end + 3) & ~3
    return found


def _parse_packet(data: bytes, offset: int, end: int) -> tuple[int, bytes]:
    number, payload = -1, b""
    while offset + _ATTRIBUTE.size <= end:
        length, name = _ATTRIBUTE.unpack_from(data, offset)
        after = offset + length
        if length < _ATTRIBUTE.size or after > end:
            break
        if name == k.NFQA_PACKET_HDR and length >= _ATTRIBUTE.size + 4:
            number = int.from_bytes(data[offset + 4 : offset + 8], "big")
        elif name == k.NFQA_PAYLOAD:
            payload = data[offset + 4 : after]
        offset = (after + 3) & ~3
    return number, payload


def encode_verdict(number: int, verdict: Verdict) -> bytes:
    """Let the packet go on, marked with what the verdict chain shall do (ACCEPT: not marked)."""
    if verdict is Verdict.ACCEPT:
        return _ACCEPTED + number.to_bytes(4, "big")
    body = netlink.attribute(k.NFQA_VERDICT_HDR, struct.pack("!II", k.NF_ACCEPT, number))
    body += netlink.attribute(k.NFQA_MARK, struct.pack("!I", verdict))
    return _message(k.NFQNL_MSG_VERDICT, body)


def encode_binding(*, fail_open: bool) -> bytes:
    """Bind the queue: how much of a packet to copy, how many may wait, and rule 3."""
    command = struct.pack("!BxH", k.NFQNL_CFG_CMD_BIND, 0)
    parameters = struct.pack("!IB", COPY_RANGE, k.NFQNL_COPY_PACKET)
    body = netlink.attribute(k.NFQA_CFG_CMD, command)
    body += netlink.attribute(k.NFQA_CFG_PARAMS, parameters)
    body += netlink.attribute(k.NFQA_CFG_QUEUE_MAXLEN, struct.pack("!I", QUEUE_LENGTH))
    if fail_open:
        flag = struct.pack("!I", k.NFQA_CFG_F_FAIL_OPEN)
        body += netlink.attribute(k.NFQA_CFG_FLAGS, flag) + netlink.attribute(k.NFQA_CFG_MASK, flag)
    return _message(k.NFQNL_MSG_CONFIG, body)


def _message(kind: int, body: bytes) -> bytes:
    general = struct.pack("!BBH", socket.AF_UNSPEC, 0, k.QUEUE_NUMBER)
    return netlink.message(_SUBSYSTEM | kind, general + body)


_ACCEPTED = _message(
    k.NFQNL_MSG_VERDICT, netlink.attribute(k.NFQA_VERDICT_HDR, struct.pack("!II", k.NF_ACCEPT, 0))
)[:-4]


class Pending:
    """Which SYNs wait, and what was said of earlier ones."""

    def __init__(self) -> None:
        self._waiting: dict[Syn, list[int]] = {}
        self._answered: OrderedDict[Syn, Verdict] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def arrive(self, number: int, packet: bytes) -> tuple[Syn | None, Verdict | None]:
        """Take in a packet: a SYN to ask about, a verdict to give now, or (None, None) to wait.

        A verdict comes with its SYN, if it is one.
        """
        syn = parse_syn(packet)
        if syn is None:
            return None, Verdict.ACCEPT
        known = self._answered.get(syn)
        if known is not None:
            return syn, known
        numbers = self._waiting.setdefault(syn, [])
        numbers.append(number)
        return (syn, None) if len(numbers) == 1 else (None, None)

    def answer(self, syn: Syn, verdict: Verdict) -> list[int]:
        """Settle a SYN; return the packets that waited for it (none the second time)."""
        numbers = self._waiting.pop(syn, [])
        if numbers:
            self._answered[syn] = verdict
            if len(self._answered) > _REMEMBERED:
                self._answered.popitem(last=False)
        return numbers


class Gate:
    """The queue of one namespace. Made inside it, used on the loop's thread."""

    def __init__(self, namespace: int, unreachable: Callable[[Syn], None]) -> None:
        self.namespace = namespace
        self.pending = Pending()
        self._unreachable = unreachable
        self._socket: socket.socket = _open_queue()

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self, ask: Callable[[Connecting], None]) -> None:
        """Take a datagram that the kernel has queued and `ask` about each new connection in it."""
        try:
            data = self._socket.recv(65536)
        except OSError:
            return
        for number, packet in parse_packets(data):
            self._take(number, packet, ask)

    def _take(self, number: int, packet: bytes, ask: Callable[[Connecting], None]) -> None:
        syn, verdict = self.pending.arrive(number, packet)
        if verdict is not None:
            self._settle(number, verdict, syn)
        elif syn is not None:
            ask(Connecting(self.namespace, syn.client, syn.server, self._answerer(syn)))

    def _answerer(self, syn: Syn) -> Callable[[Verdict], None]:
        def answer(verdict: Verdict) -> None:
            for number in self.pending.answer(syn, verdict):
                self._settle(number, verdict, syn)

        return answer

    def _settle(self, number: int, verdict: Verdict, syn: Syn | None) -> None:
        if verdict is Verdict.UNREACHABLE and syn is not None:
            self._unreachable(syn)
            verdict = Verdict.DROP
        with suppress(OSError):  # closed since: the kernel has dropped what waited
            self._socket.send(encode_verdict(number, verdict))

    def close(self) -> None:
        self._socket.close()


def _open_queue() -> socket.socket:
    """Return a bound queue socket of the calling thread's namespace, non-blocking."""
    flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    conn = socket.socket(socket.AF_NETLINK, flags, k.NETLINK_NETFILTER)
    try:
        conn.setsockopt(k.SOL_NETLINK, k.NETLINK_NO_ENOBUFS, 1)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        with suppress(PermissionError):  # beyond rmem_max for real root only
            conn.setsockopt(socket.SOL_SOCKET, k.SO_RCVBUFFORCE, _BUFFER)
        failed = netlink.exchange(conn, encode_binding(fail_open=True))
        if failed:
            failed = netlink.exchange(conn, encode_binding(fail_open=False))
    except BaseException:
        conn.close()
        raise
    if failed:
        conn.close()
        raise EnvironmentProblem(
            f"tproxy: cannot bind netfilter queue {k.QUEUE_NUMBER}: {netlink.reason(failed[0][1])}",
            cure="modprobe nfnetlink_queue (as root, once)",
            slug="docs/limits.md#gate",
        )
    return conn
