import asyncio
import sys

import aiohttp


async def get(url):
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        print(await response.text())


asyncio.run(get(sys.argv[1]))
