"""Ask a name server on behalf of captured code, in the way in which the code asked.

Only the message goes through: identity, options and the answer are those of the two ends.
Tests: tests/engine/test_dns_server.py, test_dns_servers.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_netcapture.engine.datagram_relay import DatagramRelay
from pytest_netcapture.engine.dialer import Candidate
from pytest_netcapture.engine.layers.dns import frame
from pytest_netcapture.flows import Address, FlowError

if TYPE_CHECKING:
    from pytest_netcapture.engine.main import Engine

TIMEOUT = 5.0


class Unanswered(Exception):
    """Nobody answered; `error` says how: timeout, refused, ..."""

    def __init__(self, error: FlowError) -> None:
        super().__init__(error.detail or error.kind)
        self.error = error


@dataclass(frozen=True)
class Asked:
    """Where and how captured code asked.

    `ask` passes a query on to the server at the other end of a connection that there is already,
    which is called `name`.
    """

    namespace: int
    client: Address
    server: Address
    transport: str
    ask: Callable[[bytes], Awaitable[bytes]] | None = None
    name: str = ""

    @property
    def tcp(self) -> bool:
        """Tell whether answers of any size fit."""
        return self.transport != "udp"


async def ask(engine: Engine, candidates: list[Candidate], query: bytes, *, tcp: bool) -> bytes:
    """Return the answer of the first candidate that is there. Raises `Unanswered`."""
    way = _over_tcp if tcp else _over_udp
    try:
        return await asyncio.wait_for(way(engine, candidates, query), TIMEOUT)
    except asyncio.TimeoutError:
        raise Unanswered(FlowError("timeout", "the name server did not answer")) from None
    except (OSError, asyncio.IncompleteReadError) as error:
        raise Unanswered(FlowError("reset", str(error))) from None


async def _over_udp(engine: Engine, candidates: list[Candidate], query: bytes) -> bytes:
    answer: asyncio.Future[bytes] = engine.loop.create_future()

    def heard(data: bytes) -> None:
        if data[:2] == query[:2] and not answer.done():
            answer.set_result(data)

    def refused() -> None:
        if not answer.done():
            answer.set_exception(Unanswered(FlowError("refused", "nobody listens there")))

    relay = DatagramRelay(engine, list(candidates), heard, refused)
    try:
        relay.send(query)
        return await answer
    finally:
        relay.close()


async def _over_tcp(engine: Engine, candidates: list[Candidate], query: bytes) -> bytes:
    sock = await _dialled(engine, candidates)
    peer = sock.getpeername()[0]
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        writer.write(frame(query))
        size = int.from_bytes(await reader.readexactly(2), "big")
        return await reader.readexactly(size)
    finally:
        engine.left_machine(engine.dialer.left_by(writer.get_extra_info("socket"), peer))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _dialled(engine: Engine, candidates: list[Candidate]) -> socket.socket:
    dialled: asyncio.Future[socket.socket] = engine.loop.create_future()

    def done(sock: socket.socket | None, error: FlowError | None) -> None:
        if dialled.done():  # given up meanwhile
            if sock is not None:
                sock.close()
        elif sock is None:
            dialled.set_exception(Unanswered(error or FlowError("refused")))
        else:
            dialled.set_result(sock)

    engine.dialer.dial(list(candidates), done)
    return await dialled
