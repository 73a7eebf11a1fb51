"""The Rust stack (redirect/stack), as Python sees it: a library, and a channel of records.

1. Two calls in the life of a stack, `nc_start` and `nc_join`; all else travels on the channel, a
   SOCK_SEQPACKET socket that the loop watches.
2. The library says which version its records and functions have; another one is not used.
3. It is absent where it was not built: pip found no cargo. `Stack` then raises
   `EnvironmentProblem`, and nothing else of the package minds.

The other side is stack/src/record.rs and ffi.rs. Tests: test_tun_stack.py.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect.base import Address

VERSION = 2
LIBRARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libnetcapture_stack.so")
BUFFER = 256 << 10
_RECORD = struct.Struct("=BBHHHiIQ16s16s")
_FAULTS = struct.Struct("=QQQQIIIIII")
_LONGEST = _RECORD.size + (1 << 16)
_MAPPED = bytes(10) + b"\xff\xff"
_SYNC_TIMEOUT = 2.0
_ABSENT = "tun: its library has not been built"
_CURE = (
    "install Rust 1.91 or later (rustup.rs), then reinstall: "
    "pip install --force-reinstall --no-cache-dir pytest-netcapture"
)


class Event(IntEnum):
    CONNECTING = 1
    OPENED = 2
    CLOSED = 3
    DATAGRAM = 4
    SYNCED = 5
    FATAL = 9


class Command(IntEnum):
    ACCEPT = 1
    REFUSE = 2
    DROP = 3
    UNREACHABLE = 4
    ABORT = 5
    DATAGRAM = 6
    PORT_UNREACHABLE = 7
    SYNC = 8
    STOP = 9
    FAULTS_UP = 10
    FAULTS_DOWN = 11


@dataclass(frozen=True)
class Happened:
    """One event. `number` is a descriptor, a flag or a serial number, as `kind` says."""

    kind: int
    flow: int
    number: int
    source: Address
    target: Address
    payload: bytes


@dataclass(frozen=True)
class PacketFaults:
    """What is done to packets one way: shares from 0 to 1, times in seconds, `rate` in bytes/s.

    Packets longer than `black_hole` bytes vanish. The same `seed` hits the same packets.
    """

    seed: int = 0
    loss: float = 0
    duplicate: float = 0
    reorder: float = 0
    corrupt: float = 0
    delay: float = 0
    jitter: float = 0
    rate: int = 0
    black_hole: int = 0

    def encode(self) -> bytes:
        """Return `Faults` of stack/src/link.rs. Raises `ValueError`."""
        shares = (self.loss, self.duplicate, self.reorder, self.corrupt)
        for name, share in zip(("loss", "duplicate", "reorder", "corrupt"), shares, strict=True):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, not {share!r}")
        for name in ("seed", "delay", "jitter", "rate", "black_hole"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} cannot be negative: {getattr(self, name)!r}")
        times = (round(self.delay * 1e6), round(self.jitter * 1e6))
        parts = (round(share * 1e6) for share in shares)
        return _FAULTS.pack(self.seed, *times, self.rate, *parts, self.black_hole, 0)


@lru_cache(1)
def library() -> tuple[Any, Any]:
    """Return cffi's (ffi, lib). Raises `EnvironmentProblem`."""
    if not os.path.exists(LIBRARY):
        raise EnvironmentProblem(_ABSENT, cure=_CURE, slug="docs/limits.md#tun")
    from pytest_netcapture.redirect.tun_ffi import ffi

    try:
        lib = ffi.dlopen(LIBRARY)
        version = lib.nc_abi_version()
    except (OSError, AttributeError) as error:
        raise EnvironmentProblem(
            f"tun: its library cannot be loaded: {error}", cure=_CURE, slug="docs/limits.md#tun"
        ) from error
    if version != VERSION:
        raise EnvironmentProblem(
            f"tun: its library has version {version} of the interface, not {VERSION}",
            cure=_CURE,
            slug="docs/limits.md#tun",
        )
    return ffi, lib


@dataclass(frozen=True)
class Descriptors:
    """What a stack is given, and closes: the device, a packet socket on lo, a diagnostic socket."""

    tun: int
    loopback: int
    diag: int


class Stack:
    """A running stack. Used on one thread."""

    def __init__(
        self,
        given: Descriptors,
        *,
        mtu: int,
        offload: bool,
        own: tuple[str, ...],
        addresses: tuple[str, ...],
        seed: int = 0,
    ) -> None:
        ffi, lib = library()
        self._join = lib.nc_join
        packed = b"".join(_mapped(address) for address in (*own, *addresses))
        config = ffi.new("nc_config *")
        config.seed, config.mtu, config.buffer = seed, mtu, BUFFER
        config.offload, config.own = int(offload), len(own)
        config.locals = len(own) + len(addresses)
        config.tun, config.loopback, config.diag = given.tun, given.loopback, given.diag
        handle = ffi.new("void **")
        with _no_signals():  # its thread inherits the mask: signals are for Python's
            descriptor = lib.nc_start(config, packed, handle)
        if descriptor < 0:
            raise OSError(-descriptor, f"tun: the stack did not start: {os.strerror(-descriptor)}")
        self._channel = socket.socket(fileno=descriptor)
        self._handle = handle[0]
        self._serial = 0

    def fileno(self) -> int:
        return self._channel.fileno()

    def events(self) -> Iterator[Happened]:
        """Yield what has happened by now."""
        while self._channel.fileno() >= 0:
            try:
                data = self._channel.recv(_LONGEST)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                yield Happened(Event.FATAL, 0, 0, ("", 0), ("", 0), b"")
                return
            yield decode(data)

    def synced(self) -> Iterator[Happened]:
        """Yield what has happened, until all is read that was sent to the device before."""
        self._serial += 1
        self.tell(Command.SYNC, number=self._serial)
        waiting = select.poll()
        waiting.register(self._channel, select.POLLIN)
        while self._channel.fileno() >= 0 and waiting.poll(_SYNC_TIMEOUT * 1000):
            for event in self.events():
                if event.kind == Event.SYNCED and event.number == self._serial:
                    return
                yield event
                if event.kind == Event.FATAL:
                    return

    def tell(
        self,
        command: Command,
        flow: int = 0,
        *,
        number: int = 0,
        key: tuple[Address, Address] | None = None,
        payload: bytes = b"",
    ) -> None:
        """Send a command; `key` is (source, target)."""
        source, target = key or (("0.0.0.0", 0), ("0.0.0.0", 0))
        family = 6 if ":" in source[0] else 4
        head = (command, family, source[1], target[1], 0, number, 0, flow)
        record = _RECORD.pack(*head, _packed(source[0]), _packed(target[0]))
        self._send(record + payload)

    def close(self) -> None:
        """End the stack, its device and its sockets; idempotent."""
        if self._channel.fileno() < 0:
            return
        self._channel.close()  # which is how it learns
        self._join(self._handle)

    def _send(self, message: bytes) -> None:
        """Send at once; a stack that is behind is waited for."""
        with contextlib.suppress(OSError):
            while True:
                try:
                    self._channel.send(message)
                except BlockingIOError:
                    if not select.select([], [self._channel], [], _SYNC_TIMEOUT)[1]:
                        return
                else:
                    return


def decode(data: bytes) -> Happened:
    kind, family, source_port, target_port, _, number, _, flow, source, target = (
        _RECORD.unpack_from(data)
    )
    size, number_of = (16, socket.AF_INET6) if family == 6 else (4, socket.AF_INET)
    return Happened(
        kind,
        flow,
        number,
        (socket.inet_ntop(number_of, source[:size]), source_port),
        (socket.inet_ntop(number_of, target[:size]), target_port),
        data[_RECORD.size :],
    )


@lru_cache(1024)
def _packed(address: str) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address)


def _mapped(address: str) -> bytes:
    packed = _packed(address)
    return packed if len(packed) == 16 else _MAPPED + packed


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
