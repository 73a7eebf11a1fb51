"""Make requests over HTTP/3, all on one connection, and print what came.

Each argument is METHOD:PATH[:SIZE[:cancel]]; those after "+" are made at the same time as the one
before. Certificates are verified with the machine's own roots.
"""

import asyncio
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.answers = {}

    def quic_event_received(self, event):
        for told in self.http.handle_event(event):
            self.answers[told.stream_id].put_nowait(told)
        if isinstance(event, StreamReset) and event.stream_id in self.answers:
            self.answers[event.stream_id].put_nowait(event)
        if isinstance(event, ConnectionTerminated):
            for queue in self.answers.values():
                queue.put_nowait(event)

    async def ask(self, host, method, path, size=0, how="", told=print):
        stream = self._quic.get_next_available_stream_id()
        queue = self.answers[stream] = asyncio.Queue()
        fields = {":method": method, ":scheme": "https", ":authority": host, ":path": path}
        raw = [(k.encode(), v.encode()) for k, v in fields.items()]
        self.http.send_headers(stream, raw, end_stream=not size)
        if size:
            self.http.send_data(stream, b"x" * size, end_stream=True)
        self.transmit()
        said, body, sections = [], 0, 0
        while True:
            event = await queue.get()
            if isinstance(event, HeadersReceived):
                sections += 1
                said += [
                    v.decode()
                    for k, v in event.headers
                    if k in (b":status", b"x-version", b"x-sum")
                ]
            elif isinstance(event, DataReceived):
                body += len(event.data)
                if how == "chunks" and event.data:
                    told(event.data.decode())
                    if b"2" not in event.data:
                        await self.ask(host, "GET", "/next", told=lambda *_: None)
            else:
                reason = "reset" if isinstance(event, StreamReset) else "closed"
                told(method, path, *said, reason, hex(event.error_code))
                return
            if event.stream_ended:
                told(method, path, *said, body)
                return
            if how == "cancel" and body:
                self._quic.stop_stream(stream, 0x10C)
                self.transmit()
                told(method, path, *said, "cancelled")
                return


def cut(text):
    method, path, size, how = (
        (*text.split(":"), "0", "")[:4] if text.count(":") < 3 else text.split(":")
    )
    return method, path, int(size or 0), how


async def main(host, port, requests):
    configuration = QuicConfiguration(
        alpn_protocols=H3_ALPN, cafile=ssl.get_default_verify_paths().cafile
    )
    try:
        async with connect(
            host, port, configuration=configuration, create_protocol=Client
        ) as client:
            for group in " ".join(requests).replace(" + ", "+").split():
                lines = {}
                await asyncio.gather(
                    *(
                        client.ask(
                            host,
                            *cut(one),
                            told=lambda *what, n=n: lines.setdefault(n, []).append(what),
                        )
                        for n, one in enumerate(group.split("+"))
                    )
                )
                for _, several in sorted(lines.items()):
                    for what in several:
                        print(*what, flush=True)
    except ConnectionError as error:
        print("no connection:", error)


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
