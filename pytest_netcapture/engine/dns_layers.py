"""Name queries over streams: framed, several at once, answered as they are ready (RFC 7766).

1. On port 53 there is no server to hear from: we are it, and ask whom we like.
2. Over TLS (RFC 7858) the server is the one at the other end of the connection. It is dialled when
   a query has to be passed on, and not at all when its answer is recorded.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_netcapture.engine.dns_asking import TIMEOUT, Asked, Unanswered
from pytest_netcapture.engine.layers import dns as wire
from pytest_netcapture.engine.layers.layer import Ignoring
from pytest_netcapture.flows import FlowError

if TYPE_CHECKING:
    from pytest_netcapture.engine.connection import Connection
    from pytest_netcapture.engine.main import Engine

DOT_PORT = 853


class QueryLayer(Ignoring):
    """Queries over TCP."""

    transport = "tcp"

    def __init__(self, connection: Connection, engine: Engine) -> None:
        self._connection = connection
        self._engine = engine
        self._framing = wire.TcpFraming()

    def client_data(self, data: bytes) -> None:
        for query in self._framing.feed(data):
            self._engine.spawn(self._answer(query))

    def client_eof(self) -> None:
        self._connection.close()

    def aborted(self, side: str, error: FlowError) -> None:  # noqa: ARG002 (a layer's signature)
        self._connection.close()

    async def _answer(self, query: bytes) -> None:
        plan = self._connection.plan
        asked = self._asked(Asked(plan.namespace, plan.client, plan.address, self.transport))
        try:
            reply = await self._engine.dns.answer(query, asked, self._connection.owner)
        except Unanswered:
            reply = None
        if reply is None:
            self._connection.reset()
        else:
            self._connection.to_client(wire.frame(reply))

    def _asked(self, asked: Asked) -> Asked:
        return asked


class TlsQueryLayer(QueryLayer):
    """Queries over TLS, which was taken off."""

    transport = "tls"

    def __init__(self, connection: Connection, engine: Engine) -> None:
        super().__init__(connection, engine)
        self._answers = wire.TcpFraming()
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}

    def server_data(self, data: bytes) -> None:
        for answer in self._answers.feed(data):
            future = self._waiting.pop(answer[:2], None)
            if future is not None and not future.done():
                future.set_result(answer)

    def server_failed(self, error: FlowError) -> None:
        self._fail(error)

    def server_eof(self) -> None:
        self._fail(FlowError("eof", "the name server closed first"))
        self._connection.close()

    def aborted(self, side: str, error: FlowError) -> None:
        self._fail(error)
        super().aborted(side, error)

    def _asked(self, asked: Asked) -> Asked:
        return replace(asked, ask=self._ask, name=self._connection.endpoint.host)

    async def _ask(self, query: bytes) -> bytes:
        future: asyncio.Future[bytes] = self._engine.loop.create_future()
        self._waiting[query[:2]] = future
        if not self._connection.has_server:
            self._connection.connect()
        self._connection.to_server(wire.frame(query))
        try:
            return await asyncio.wait_for(future, TIMEOUT)
        except asyncio.TimeoutError:
            raise Unanswered(FlowError("timeout", "the name server did not answer")) from None

    def _fail(self, error: FlowError) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(Unanswered(error))
