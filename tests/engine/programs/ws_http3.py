"""A WebSocket on an HTTP/3 stream (RFC 9220): print what is heard. Arguments: HOST PORT WORD..."""

import asyncio
import logging
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import CloseConnection, TextMessage


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.told = asyncio.Queue()

    def quic_event_received(self, event):
        for told in self.http.handle_event(event):
            self.told.put_nowait(told)
        if isinstance(event, (StreamReset, ConnectionTerminated)):
            self.told.put_nowait(event)

    async def talk(self, host, words):
        stream = self._quic.get_next_available_stream_id()
        fields = {
            ":method": "CONNECT",
            ":protocol": "websocket",
            ":scheme": "https",
            ":authority": host,
            ":path": "/ws",
            "sec-websocket-version": "13",
        }
        self.http.send_headers(stream, [(k.encode(), v.encode()) for k, v in fields.items()])
        self.transmit()
        socket = Connection(ConnectionType.CLIENT)
        while True:
            event = await self.told.get()
            if isinstance(event, HeadersReceived):
                print(dict(event.headers)[b":status"].decode())
            elif not isinstance(event, DataReceived):
                print("reset")
                return
            else:
                socket.receive_data(event.data)
                for message in socket.events():
                    if isinstance(message, CloseConnection):
                        print("closed", message.code, message.reason)
                        self.http.send_data(stream, socket.send(message.response()), True)
                        self.transmit()
                        return
                    print(message.data)
                    if words:
                        said = socket.send(TextMessage(words.pop(0)))
                        self.http.send_data(stream, said, False)
                        self.transmit()


async def main(host, port, *words):
    configuration = QuicConfiguration(
        alpn_protocols=H3_ALPN, cafile=ssl.get_default_verify_paths().cafile
    )
    options = {"configuration": configuration, "create_protocol": Client}
    async with connect(host, int(port), **options) as client:
        await client.talk(host, list(words))


logging.disable()
asyncio.run(main(*sys.argv[1:]))
