"""Make requests over HTTP/3, all on one connection, and print what came.

Each is METHOD:PATH[:SIZE[:HOW]], HOW one of cancel and chunks; with "+" between them they are made at
the same time. Certificates are verified with the machine's own roots, or with those of --ca FILE.
"""

import argparse
import asyncio
import itertools
import logging
import ssl

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

    ended = None

    def quic_event_received(self, event):
        for told in self.http.handle_event(event):
            self.answers[told.stream_id].put_nowait(told)
        if isinstance(event, StreamReset) and event.stream_id in self.answers:
            self.answers[event.stream_id].put_nowait(event)
        if isinstance(event, ConnectionTerminated):
            Client.ended = event
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
        said, body = [], 0
        while True:
            event = await queue.get()
            if isinstance(event, HeadersReceived):
                shown = (b":status", b"x-version", b"x-sum")
                said += [v.decode() for k, v in event.headers if k in shown]
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
    method, path, size, how = [*text.split(":"), "", ""][:4]
    return method, path, int(size or 0), how


async def main(host, port, requests, ca, quick):
    configuration = QuicConfiguration(
        alpn_protocols=H3_ALPN, cafile=ca, idle_timeout=1.5 if quick else 20
    )
    try:
        options = {"configuration": configuration, "create_protocol": Client}
        async with connect(host, port, **options) as client:
            for group in requests:
                lines = [[] for _ in group.split("+")]
                asked = zip(map(cut, group.split("+")), lines, strict=True)
                await asyncio.gather(
                    *(
                        client.ask(host, *one, told=lambda *what, line=line: line.append(what))
                        for one, line in asked
                    )
                )
                for what in itertools.chain(*lines):
                    print(*what, flush=True)
    except ConnectionError as error:
        print("no connection:", str(error) or Client.ended.reason_phrase)


logging.disable()
parser = argparse.ArgumentParser()
parser.add_argument("--ca", default=ssl.get_default_verify_paths().cafile)
parser.add_argument("--quick", action="store_true", help="give up after a moment")
parser.add_argument("host")
parser.add_argument("port", type=int)
parser.add_argument("requests", nargs="*")
asyncio.run(main(**vars(parser.parse_args())))
