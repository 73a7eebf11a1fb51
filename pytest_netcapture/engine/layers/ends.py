"""How a live conversation with a database or broker ends: what each layer of one does alike.

1. An end is passed on; the second one closes both sides, and whatever was not answered is recorded
   with it. A server's end leaves nothing to wait for, so that is recorded at once.
2. A server that fails or resets resets the client; a client that resets closes the rest.
"""

from __future__ import annotations

from pytest_netcapture.engine.layers.layer import Context, Ignoring
from pytest_netcapture.flows import FlowError


class Ends(Ignoring):
    """Ends of the two sides. A layer says what becomes of its open exchanges: `_abandon`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ended: set[str] = set()

    def _abandon(self, error: FlowError) -> None:
        """Record what is not complete."""
        raise NotImplementedError

    def server_failed(self, error: FlowError) -> None:
        self._abandon(error)
        self._context.reset()

    def client_eof(self) -> None:
        self._end("client")

    def server_eof(self) -> None:
        self._abandon(FlowError("eof", "the server ended it"))
        self._end("server")

    def aborted(self, side: str, error: FlowError) -> None:
        self._abandon(error)
        if side == "server":
            self._context.reset()
        else:
            self._context.close()

    def _end(self, side: str) -> None:
        if side in self._ended:
            return
        self._ended.add(side)
        if len(self._ended) == 2:
            self._abandon(FlowError("eof", f"the {side} ended it"))
            self._context.close()
        elif side == "client":
            self._context.eof_server()
        else:
            self._context.eof_client()
