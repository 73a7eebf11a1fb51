"""A QUIC server that answers each stream with what it got, for any ALPN given: ADDRESS CHAIN KEY.

It says "ready" when it listens. With "h3" it speaks HTTP/3 as far as a handshake goes.
"""

import asyncio
import sys

from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration


async def main(alpn, address, chain, key):
    host, port = address.split(":")
    configuration = QuicConfiguration(is_client=False, alpn_protocols=[alpn])
    configuration.load_cert_chain(chain, key)

    async def answer(reader, writer):
        writer.write(b"re:" + await reader.read())
        writer.write_eof()

    def streams(reader, writer):
        tasks.add(asyncio.ensure_future(answer(reader, writer)))

    tasks = set()
    await serve(host, int(port), configuration=configuration, stream_handler=streams)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
