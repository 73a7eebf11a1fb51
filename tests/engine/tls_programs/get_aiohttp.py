"""Get a URL with aiohttp: get_aiohttp.py CA URL."""

import asyncio
import ssl
import sys

import aiohttp


async def main(ca: str, url: str) -> None:
    context = ssl.create_default_context(cafile=ca)
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
        print(await response.text())


try:
    asyncio.run(main(*sys.argv[1:]))
except aiohttp.ClientError as error:
    sys.exit(str(error))
