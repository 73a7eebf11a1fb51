"""What the kernel's half and ours write for each other: the structures of bpf/capture.bpf.c.

Numbers are the machine's own order, ports and addresses as on the wire; IPv4 is ::ffff:a.b.c.d.
Tests: test_ebpf_records.py.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from pytest_netcapture.redirect.base import Address

_ADDRESS = struct.Struct("=16s2sH")
_PROCESS = struct.Struct("=I")
_MAPPED = bytes(10) + b"\xff\xff"
_NAME = 64
_SEQUENCE = struct.Struct("!I")
_CONFIG = struct.Struct("=QII4s4s4s4s16s16s8I")
_WORD = struct.Struct("=I")

ROUTE_SIZE = _ADDRESS.size + _PROCESS.size
ARRIVAL_SIZE = _ADDRESS.size + ROUTE_SIZE + _SEQUENCE.size
PATH_SIZE = _ADDRESS.size + _PROCESS.size + 8

CAPTURE_REST, CAPTURE_LOOPBACK, NAMES = 1, 2, 4
"""Flags of a `Config`."""


class Arrival(NamedTuple):
    """A SYN of a diverted connection: who, where to, and its sequence number."""

    client: Address
    server: Address
    process: int
    sequence: int


class Path(NamedTuple):
    """What a port of ours stands for; `used` is CLOCK_MONOTONIC in nanoseconds."""

    server: Address
    process: int
    used: int


class Config(NamedTuple):
    """What the kernel's half needs to know."""

    network: int = 0
    engine: int = 0
    flags: int = 0
    stream_ports: tuple[int, int] = (0, 0)
    lost_ports: tuple[int, int] = (0, 0)
    sources: tuple[str, str] = ("", "")
    offsets: tuple[int, ...] = (0,) * 8

    def encode(self) -> bytes:
        ports = (*self.stream_ports, *self.lost_ports)
        sources = (pack_ip(source) if source else bytes(16) for source in self.sources)
        return _CONFIG.pack(
            self.network,
            self.engine,
            self.flags,
            *(encode_port(port) for port in ports),
            *sources,
            *self.offsets,
        )


def pack_ip(host: str) -> bytes:
    if ":" in host:
        return socket.inet_pton(socket.AF_INET6, host)
    return _MAPPED + socket.inet_pton(socket.AF_INET, host)


def read_ip(data: bytes) -> str:
    if data[:12] == _MAPPED:
        return socket.inet_ntop(socket.AF_INET, data[12:])
    return socket.inet_ntop(socket.AF_INET6, data)


def encode_port(port: int) -> bytes:
    """Return a port as the kernel's half has it in a word of its own."""
    return _WORD.pack(socket.htons(port))


def encode_place(port: int, *, six: bool) -> bytes:
    """Return the key of a path: its port and family."""
    return _WORD.pack(socket.htons(port) | int(six) << 16)


def encode_address(address: Address, protocol: int) -> bytes:
    return _ADDRESS.pack(pack_ip(address[0]), address[1].to_bytes(2, "big"), protocol)


def read_arrival(data: bytes) -> Arrival:
    """Read what a gate reports. Raises `ValueError`."""
    if len(data) < ARRIVAL_SIZE:
        raise ValueError(f"an arrival has {ARRIVAL_SIZE} bytes, not {len(data)}")
    server, process = read_route(data[_ADDRESS.size :])
    (sequence,) = _SEQUENCE.unpack_from(data, _ADDRESS.size + ROUTE_SIZE)
    return Arrival(_read_address(data), server, process, sequence)


def read_route(data: bytes) -> tuple[Address, int]:
    """Return a server, and the process that wanted it."""
    return _read_address(data), _PROCESS.unpack_from(data, _ADDRESS.size)[0]


def read_path(data: bytes) -> Path:
    server, process = read_route(data)
    return Path(server, process, struct.unpack_from("=Q", data, ROUTE_SIZE)[0])


def encode_name(name: str, limit: int = _NAME) -> bytes:
    """Return a name as the kernel cuts it, `limit` counting the zero at its end."""
    return name.encode()[: limit - 1].ljust(_NAME, b"\0")


def encode_word(number: int) -> bytes:
    return _WORD.pack(number)


def read_word(data: bytes) -> int:
    return int(_WORD.unpack(data)[0])


def _read_address(data: bytes) -> Address:
    host, port, _ = _ADDRESS.unpack_from(data)
    return read_ip(host), int.from_bytes(port, "big")
