import asyncio
import sys

import websockets


async def main(url, *says):
    async with websockets.connect(url) as socket:
        print(await socket.recv())
        for text in says:
            await socket.send(text)
        try:
            while True:
                print(await socket.recv())
        except websockets.ConnectionClosed as closed:
            print(
                closed.rcvd.code if closed.rcvd else closed.code, closed.rcvd and closed.rcvd.reason
            )


asyncio.run(main(*sys.argv[1:]))
