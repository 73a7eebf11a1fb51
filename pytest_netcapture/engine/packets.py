"""Keeps the packets of scopes that want it, and writes them as pcapng.

1. They are on disk, in the scope's directory, until it is forgotten; what is kept of a program's
   scope is written with its test's.
2. The secrets are of the handshakes whose packets are there, and of no others.
3. The first packet of a connection has a comment for each of its flows.

Tests: tests/engine/test_packets.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from pytest_netcapture.engine import pcapng
from pytest_netcapture.engine.pcapng import Packet
from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import Address, AnyFlow, HttpFlow
from pytest_netcapture.redirect.packet_tap import Tap, open_tap
from pytest_netcapture.redirect.packets import addresses_of

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine
    from pytest_netcapture.engine.scopes import Scope

_RECORD = struct.Struct("=QI")
_CURE = "run with --netcapture-packets, or mark the test: @pytest.mark.netcapture(packets=True)"


class _Kept:
    """One scope's packets, in a file."""

    def __init__(self, engine: Engine, conn: object, path: str) -> None:
        self.path = path
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115
        self.tap = Tap(engine.loop, conn, self._heard)  # type: ignore[arg-type]

    def close(self) -> None:
        self.tap.close()
        self._file.close()

    def packets(self) -> list[Packet]:
        self.tap.read()
        if not self._file.closed:
            self._file.flush()
        with open(self.path, "rb") as file:
            return list(_records(file))

    def _heard(self, at: int, data: bytes) -> None:
        self._file.write(_RECORD.pack(at, len(data)) + data)


class Packets:
    """The packets of an engine's scopes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: dict[int, _Kept] = {}
        self._keys = os.path.join(engine.options.runtime_dir, "keys.log")

    async def begin(self, scope: Scope) -> str:
        """Keep the packets of `scope` from now on; return "" or why that cannot be."""
        namespace = scope.namespace
        if namespace is None or not self._engine.redirector.isolates:
            return f"packets cannot be kept with {self._engine.redirector.name}: choose another"
        self._engine.authority.log_secrets(self._keys)
        future = self._engine.hopper.submit(namespace.fd, open_tap)
        conn = await asyncio.wrap_future(future)
        path = os.path.join(self._engine.scopes.spool(scope), "packets")
        self._kept[scope.id] = _Kept(self._engine, conn, path)
        return ""

    def end(self, scope: Scope) -> None:
        kept = self._kept.pop(scope.id, None)
        if kept is not None:
            kept.close()

    def save(self, scope: Scope, path: str) -> None:
        """Write what `scope` and its programs have sent and received. Raises `UsageError`."""
        scopes = [s for s in (scope, *scope.children) if s.id in self._kept]
        if not scopes:
            raise UsageError(f"{path}: this test's packets were not kept", cure=_CURE)
        packets = sorted(p for s in scopes for p in self._kept[s.id].packets())
        flows = [flow for s in scopes for flow in s.flows]
        blocks = pcapng.encode(
            packets,
            secrets=self._secrets(packets),
            comments=comments(packets, flows),
            dropped=sum(self._kept[s.id].tap.dropped for s in scopes),
        )
        try:
            with open(path, "wb") as file:
                file.writelines(blocks)
        except OSError as error:
            raise UsageError(
                f"{path} cannot be written: {error.strerror}", cure="give a path that can be"
            ) from error

    def _secrets(self, packets: list[Packet]) -> bytes:
        with contextlib.suppress(FileNotFoundError), open(self._keys, "rb") as file:
            return secrets_of(file, packets)
        return b""


def secrets_of(lines: Iterable[bytes], packets: list[Packet]) -> bytes:
    """Return those lines of a key log (NSS's format) whose handshake is in `packets`."""
    hellos = b"".join(packet.data[:400] for packet in packets if b"\x16\x03" in packet.data[:120])
    chosen = []
    for line in lines:
        parts = line.split()
        with contextlib.suppress(ValueError):
            if len(parts) == 3 and bytes.fromhex(parts[1].decode("ascii", "replace")) in hellos:
                chosen.append(line)
    return b"".join(chosen)


def comments(packets: list[Packet], flows: list[AnyFlow]) -> dict[int, list[str]]:
    """Return what is said of each connection's first packet, by its place."""
    of: dict[tuple[Address, Address], list[str]] = {}
    for flow in flows:
        if flow.client is not None and flow.address is not None:
            ends = (flow.client, flow.address)
            of.setdefault(ends, []).append(_described(flow))
    found: dict[int, list[str]] = {}
    for place, packet in enumerate(packets):
        found_ends = addresses_of(packet.data)
        said = of.pop(found_ends, None) if found_ends is not None else None
        if said:
            found[place] = said
        if not of:
            break
    return found


def _described(flow: AnyFlow) -> str:
    what = f"{flow.protocol} {flow.host}:{flow.port}"
    if isinstance(flow, HttpFlow):
        status = flow.response.status if flow.response is not None else "no answer"
        what = f"{flow.request.method} {flow.url} {status}"
    who = f" ({flow.process.name})" if flow.process.pid else ""
    return f"flow {flow.id}: {what}{who}"


def _records(file: BinaryIO) -> Iterator[Packet]:
    while len(head := file.read(_RECORD.size)) == _RECORD.size:
        at, size = _RECORD.unpack(head)
        yield Packet(at, file.read(size))
