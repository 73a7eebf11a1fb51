"""The engine's side of a redirector under test: a loop in a thread, and a sink that writes down."""

from __future__ import annotations

import asyncio
import queue
import threading
from concurrent.futures import Future

from pytest_netcapture.redirect.base import Connecting, DatagramFlow, StreamOpened, Verdict

WAIT = 5


class SinkLab:
    """`verdict` is given to each connect; None: later. A callable decides by the question."""

    def __init__(self):
        self.verdict = Verdict.ACCEPT
        self.events = queue.SimpleQueue()
        self.errors = []
        try:
            from uvloop import new_event_loop
        except ImportError:
            new_event_loop = asyncio.new_event_loop
        self.loop = new_event_loop()
        self.loop.set_exception_handler(lambda loop, context: self.errors.append(context))
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def call(self, function, *arguments):
        """Run `function` on the loop's thread and return what it returns."""
        future = Future()

        def body():
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)

        self.loop.call_soon_threadsafe(body)
        return future.result(WAIT)

    # the sink
    def connecting(self, syn):
        self.events.put(syn)
        verdict = self.verdict(syn) if callable(self.verdict) else self.verdict
        if verdict is not None:
            syn.answer(verdict)

    def stream_opened(self, stream):
        stream.socket.settimeout(WAIT)
        self.events.put(stream)

    def datagram_flow(self, flow):
        self.events.put(flow)

    # what tests ask
    def expect(self, kind):
        """Return the next event, which must be a `kind`; `Connecting` is passed over for others."""
        while True:
            event = self.events.get(timeout=WAIT)
            if isinstance(event, kind):
                return event
            assert isinstance(event, Connecting), event

    def syn(self):
        return self.expect(Connecting)

    def stream(self):
        return self.expect(StreamOpened)

    def flow(self):
        return self.expect(DatagramFlow)

    def nothing_more(self):
        self.call(lambda: None)
        assert self.events.empty(), self.events.get()
