"""A server of the websockets library: greets, answers, pushes, closes. Arguments: chain, key."""

import asyncio
import ssl
import sys

from websockets.asyncio.server import serve


async def talk(socket):
    await socket.send("welcome")
    async for message in socket:
        if message == "push":
            for number in range(3):
                await socket.send(bytes([number]) * 3)
        elif message == "slow":
            await asyncio.sleep(0.4)
            await socket.send("at last")
        elif message == "bye":
            await socket.close(4001, "see you")
            return
        else:
            await socket.send(f"you said {message}")


async def main(chain, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    async with (
        serve(talk, "127.0.0.1", 0, ssl=context) as secure,
        serve(talk, "127.0.0.1", 0) as plain,
    ):
        print(*(s.sockets[0].getsockname()[1] for s in (secure, plain)), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main(*sys.argv[1:]))
