import asyncio
import sys
from urllib.parse import urlsplit


async def get(url):
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, 443, ssl=True)
    writer.write(f"GET {parts.path} HTTP/1.0\r\nHost: {parts.hostname}\r\n\r\n".encode())
    print((await reader.read()).decode())
    writer.close()


asyncio.run(get(sys.argv[1]))
