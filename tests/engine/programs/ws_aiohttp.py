import asyncio
import sys

import aiohttp


async def main(url, *says):
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, compress=15) as socket,
    ):
        print((await socket.receive()).data)
        for text in says:
            await socket.send_str(text)
        while (message := await socket.receive()).type in (
            aiohttp.WSMsgType.TEXT,
            aiohttp.WSMsgType.BINARY,
        ):
            print(message.data)
        print(socket.close_code, message.extra)


asyncio.run(main(*sys.argv[1:]))
