"""What becomes of each call that the filter stops: who it is for, and whose business it is.

1. TCP is seccomp_streams.py, UDP seccomp_datagrams.py: a program's own socket is connected to the
   engine on loopback, and it is told the addresses that it expects.
2. What stays on this machine goes on by itself, and of TCP the engine lists it: test and machine
   share one loopback. Queries to the name servers are the exception.
3. What is neither TCP nor UDP over IP does not leave (EPERM), nor does what is for many
   (ENETUNREACH, as without a network). Other families, Unix sockets above all, are left alone; but
   those on which names are asked for without a packet are refused: libc then asks by packet.
4. Methods answer the call, hand it to who will, or raise OSError: then the kernel does it.

Tests: test_seccomp.py, test_seccomp_datagrams.py.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from pytest_netcapture.redirect import seccomp_messages as messages
from pytest_netcapture.redirect import seccomp_sockets as kinds
from pytest_netcapture.redirect.base import Address, Connecting, Sink
from pytest_netcapture.redirect.seccomp_datagrams import Datagrams
from pytest_netcapture.redirect.seccomp_listener import Listener, Notification
from pytest_netcapture.redirect.seccomp_memory import Memory
from pytest_netcapture.redirect.seccomp_places import Places, process_of
from pytest_netcapture.redirect.seccomp_receiving import Receiving
from pytest_netcapture.redirect.seccomp_routes import is_local, is_many, source_for, why_unreachable
from pytest_netcapture.redirect.seccomp_sending import Parcel, parcels, read_name
from pytest_netcapture.redirect.seccomp_sockets import Sockets, Taken
from pytest_netcapture.redirect.seccomp_streams import Caller, Streams

NAME_SOCKETS = frozenset(
    folder + name
    for folder in (b"/run/", b"/var/run/")
    for name in (
        b"nscd/socket",
        b".nscd_socket",
        b"systemd/resolve/io.systemd.Resolve",
        b"avahi-daemon/socket",
    )
)
_DNS = 53
_ROUTE_PROBES = (0, 65535)
"""Ports to which libc connects UDP sockets, to learn which source address they would have."""

_KNOWN = 8192
_LENGTH = struct.Struct("<I")
_TCP, _UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
K = TypeVar("K")
V = TypeVar("V")


class Calls:
    """Deals with the calls of one filter."""

    def __init__(
        self,
        loop: Any,
        sink: Sink,
        listener: Listener,
        memory: Memory,
        places: Places,
        *,
        duplicates: bool,
        name_servers: Sequence[str],
    ) -> None:
        self._sink = sink
        self._listener = listener
        self._memory = memory
        self._places = places
        self._name_servers = frozenset(name_servers or ("127.0.0.1", "::1"))
        self._sockets = Sockets(listener, memory, duplicates=duplicates)
        self._streams = Streams(loop, sink, listener, self._sockets)
        self._datagrams = Datagrams(loop, sink, self._sockets)
        self._receiving = Receiving(loop, listener, memory, self._datagrams)
        self._owners: OrderedDict[tuple[int, Address], tuple[int, int]] = OrderedDict()
        self._shown: OrderedDict[int, tuple[Address, Address]] = OrderedDict()
        """Of TCP sockets, by inode: the client's own port, and the server that it dialled."""
        self.handlers: dict[str, Callable[[Notification], None]] = {
            "socket": self._sockets.make,
            "bind": self._bind,
            "connect": self._connect,
            "sendto": self._send,
            "sendmsg": self._send,
            "sendmmsg": self._send,
            "recvfrom": self._receive,
            "recvmsg": self._receive,
            "recvmmsg": self._receive,
            "getpeername": self._tell_name,
            "getsockname": self._tell_name,
        }

    def owner(self, protocol: int, client: Address) -> tuple[int, int]:
        """Return the inode and the process of a client's socket, (0, 0) when it is not known."""
        return self._owners.get((protocol, client), (0, 0))

    def stays_here(self, server: Address) -> bool:
        """Tell whether `server` is this machine, and not asked for names."""
        return not self._asks_names(server) and is_local(server[0])

    def caller(self, note: Notification) -> Caller:
        process = process_of(note.thread, self._places.test_process)
        return Caller(note, process, self._places.of(process))

    def drain(self) -> None:
        """Take in the datagrams that programs have sent by now."""
        self._datagrams.drain()

    def close(self) -> None:
        self._receiving.close()
        self._streams.close()
        self._datagrams.close()
        self._sockets.close()

    def _asks_names(self, server: Address) -> bool:
        host, port = server
        return port == _DNS and (host in self._name_servers or not is_local(host))

    def _bind(self, note: Notification) -> None:
        length = note.arguments[2] & 0xFFFF_FFFF
        name = read_name(self._memory, note.thread, note.arguments[1], length)
        if name is not None and name.address is not None:
            self._sockets.binds(note, name.address[1])
        self._listener.go_on(note)

    # ── connect ──────────────────────────────────────────────────────────────────────────────

    def _connect(self, note: Notification) -> None:
        length = note.arguments[2] & 0xFFFF_FFFF
        name = read_name(self._memory, note.thread, note.arguments[1], length)
        if name is None or name.address is None:
            self._connect_elsewhere(note, name)
            return
        protocol = kinds.protocol_of(note)
        if kinds.is_unseen(protocol):
            self._listener.fail(note, errno.EPERM)
        elif kinds.is_stream(protocol):
            self._connect_stream(note, name, name.address)
        elif kinds.is_datagram(protocol):
            self._connect_datagram(note, name.address)
        else:
            self._listener.go_on(note)

    def _connect_elsewhere(self, note: Notification, name: messages.Name | None) -> None:
        if name is not None and name.path in NAME_SOCKETS:
            self._listener.fail(note, errno.ECONNREFUSED)
            return
        if name is not None and name.family == socket.AF_UNSPEC:
            self._datagrams.forget(kinds.inode_of(note))
        self._listener.go_on(note)

    def _connect_stream(self, note: Notification, name: messages.Name, server: Address) -> None:
        caller = self.caller(note)
        if self.stays_here(server) and self._is_left_alone(caller, server):
            self._listener.go_on(note)
            return
        taken = self._sockets.take(note, caller.process)
        if taken is None:
            self._listener.go_on(note)
            return
        if taken.socket.family != name.family:  # EAFNOSUPPORT
            self._listener.go_on(note)
            self._sockets.release(taken.socket, unused=True)
            return
        observer = _Observer(self, caller, taken, server)
        self._streams.connect(caller, taken.socket, server, observer)

    def _is_left_alone(self, caller: Caller, server: Address) -> bool:
        client = source_for(server) or server[0], 0
        self.know(_TCP, client, caller, kinds.inode_of(caller.note))
        return self._sink.left_alone(
            Connecting(caller.place, client, server, lambda _verdict: None)
        )

    def _connect_datagram(self, note: Notification, server: Address) -> None:
        if server[1] in _ROUTE_PROBES or self.stays_here(server):
            self._datagrams.forget(kinds.inode_of(note))
            self._listener.go_on(note)
            return
        refused = 0 if self._asks_names(server) else why_unreachable(server)
        if refused or is_many(server[0]):
            self._listener.fail(note, refused or errno.ENETUNREACH)
            return
        self._with_datagram_socket(
            note, lambda lent: self._datagrams.connect(lent.caller, lent.socket, server, lent.know)
        )

    # ── datagrams ────────────────────────────────────────────────────────────────────────────

    def _send(self, note: Notification) -> None:
        wanted = parcels(self._memory, note)
        server = wanted[0].name.address if wanted else None
        protocol = kinds.protocol_of(note) if server is not None else b""
        if server is not None and kinds.is_unseen(protocol):
            self._listener.fail(note, errno.EPERM)
        elif server is None or not kinds.is_datagram(protocol) or self.stays_here(server):
            self._listener.go_on(note)
        elif is_many(server[0]):
            self._listener.fail(note, errno.ENETUNREACH)
        else:
            self._with_datagram_socket(note, lambda lent: self._send_parcels(lent, wanted))

    def _send_parcels(self, lent: _Lent, wanted: list[Parcel]) -> int:
        """Hand them on; return what the call returns."""
        note, sent = lent.caller.note, 0
        for parcel in wanted:
            if parcel.name.address is None:
                break
            payload = parcel.payload(self._memory, note.thread)
            self._datagrams.send(lent.caller, lent.socket, parcel.name.address, payload, lent.know)
            if parcel.length_at:
                self._memory.write(note.thread, parcel.length_at, _LENGTH.pack(len(payload)))
            sent += 1 if note.call == "sendmmsg" else len(payload)
        return sent

    def _receive(self, note: Notification) -> None:
        inode = 0 if self._datagrams.idle else kinds.inode_of(note)
        theirs = None
        if inode and self._datagrams.knows(inode):
            process = process_of(note.thread, self._places.test_process)
            theirs = self._sockets.find(process, note.descriptor, inode)
        if theirs is None:
            self._listener.go_on(note)
        else:
            self._receiving.receive(note, theirs, inode)

    def _with_datagram_socket(self, note: Notification, do: Callable[[_Lent], int]) -> None:
        """Lend `do` the program's socket; what it returns, or raises, is what the call gets."""
        caller = self.caller(note)
        taken = self._sockets.take(note, caller.process)
        if taken is None:  # one too many is in use
            self._listener.fail(note, errno.ENOBUFS)
            return

        def know(client: Address) -> None:
            self.know(_UDP, client, caller, taken.inode)

        try:
            value = do(_Lent(caller, taken.socket, know))
        except OSError as error:
            number = error.errno or errno.EIO
            missing = number in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # there is no ::1
            self._listener.fail(note, errno.ENETUNREACH if missing else number)
        else:
            self._listener.succeed(note, value)
        finally:
            self._sockets.release(taken.socket)

    # ── names ────────────────────────────────────────────────────────────────────────────────

    def _tell_name(self, note: Notification) -> None:
        """Answer `getpeername` and `getsockname` of a diverted socket with what was dialled."""
        inode = kinds.inode_of(note)
        shown = self._shown.get(inode)
        server = shown[1] if shown is not None else self._datagrams.peer(inode)
        address = None
        if server is not None:
            process = process_of(note.thread, self._places.test_process)
            theirs = self._sockets.find(process, note.descriptor, inode)
            address = self._name_of(note, theirs, server, shown)
        if address is None:
            self._listener.go_on(note)
            return
        v6 = kinds.protocol_of(note).endswith(b"v6")
        name = messages.encode(socket.AF_INET6 if v6 else socket.AF_INET, address)
        _, at, length_at, *_ = note.arguments
        room = _LENGTH.unpack(self._memory.read(note.thread, length_at, 4).ljust(4, b"\0"))[0]
        if room:
            self._memory.write(note.thread, at, name[:room])
        self._memory.write(note.thread, length_at, _LENGTH.pack(len(name)))
        self._listener.succeed(note)

    @staticmethod
    def _name_of(
        note: Notification,
        theirs: socket.socket | None,
        server: Address,
        shown: tuple[Address, Address] | None,
    ) -> Address | None:
        """Return the address to tell; None when the kernel's own answer is right."""
        port = shown[0][1] if shown is not None else 0
        if theirs is not None:
            with theirs:
                port = theirs.getsockname()[1]
                try:
                    theirs.getpeername()
                except OSError:  # not connected, or no longer
                    return None
        if note.call == "getpeername":
            return server
        host = source_for(server)
        return (host, port) if host is not None else None

    def show(self, inode: int, client: Address, server: Address) -> None:
        """Let a program's socket have the name of its server from now on."""
        _remember(self._shown, inode, (client, server))

    def know(self, protocol: int, client: Address, caller: Caller, inode: int) -> None:
        _remember(self._owners, (protocol, client), (inode, caller.process))


class _Observer:
    """Notes whose a connection is, and what its ends are to be called."""

    def __init__(self, calls: Calls, caller: Caller, taken: Taken, server: Address) -> None:
        self._calls = calls
        self._caller = caller
        self._taken = taken
        self._inode = os.fstat(taken.socket.fileno()).st_ino
        self._server = server

    def asks(self, client: Address) -> None:
        self._calls.know(_TCP, client, self._caller, self._taken.inode)

    def connects(self, client: Address) -> None:
        self._calls.show(self._inode, client, self._server)


class _Lent(NamedTuple):
    """A program's UDP socket, for the time of a call; `know` is told the client's address."""

    caller: Caller
    socket: socket.socket
    know: Callable[[Address], None]


def _remember(table: OrderedDict[K, V], key: K, value: V) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > _KNOWN:
        table.popitem(last=False)
