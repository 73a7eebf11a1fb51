"""Run a command behind mitmproxy_rs' TUN device, whose connections all end at a Unix socket.

    unshare --user --map-root-user --net python tun_relay.py SOCKET COMMAND...

It only relays: what mitmproxy does with what it sees is in `peers`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Any

from mitmproxy_rs import Stream
from mitmproxy_rs.tun import create_tun_interface

SERVER = "198.51.100.7"


async def main() -> None:
    path, *command = sys.argv[1:]

    async def relay(stream: Stream) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(_copy(stream, writer), _copy(reader, stream))
        stream.close()
        writer.close()

    async def nothing(stream: Stream) -> None:
        stream.close()

    device = await create_tun_interface(relay, nothing)
    name = device.tun_name()
    for words in ("link set lo up", f"link set {name} up", f"route add {SERVER} dev {name}"):
        await _run("ip", *words.split())
    os._exit(await _run(*command))  # the device's threads may not outlive the interpreter


async def _run(*command: str) -> int:
    return await (await asyncio.create_subprocess_exec(*command)).wait()


async def _copy(source: Any, target: Any) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
        target.write_eof()


if __name__ == "__main__":
    asyncio.run(main())
