"""Say a word on a QUIC stream and print the answer: HOST PORT ALPN VERSION WORD."""

import argparse
import asyncio
import logging
import ssl

from aioquic.asyncio.client import connect
from aioquic.quic.configuration import QuicConfiguration


async def main(host, port, alpn, version, word, ca):
    configuration = QuicConfiguration(
        alpn_protocols=[alpn],
        cafile=ca,
        supported_versions=[int(version, 16)],
        idle_timeout=3,
    )
    try:
        async with connect(host, int(port), configuration=configuration) as client:
            reader, writer = await client.create_stream()
            writer.write(word.encode())
            writer.write_eof()
            print((await reader.read()).decode())
    except ConnectionError as error:
        print("no connection", error)


logging.disable()
parser = argparse.ArgumentParser()
parser.add_argument("--ca", default=ssl.get_default_verify_paths().cafile)
for name in ("host", "port", "alpn", "version", "word"):
    parser.add_argument(name)
asyncio.run(main(**vars(parser.parse_args())))
