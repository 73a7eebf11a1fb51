"""Print each piece of what comes, and after how many tenths of a second since the one before.

Arguments: URL with http, http2 or ws for a scheme's way; a WebSocket says "slow" once.
"""

import ssl
import sys
import time


class Clock:
    def __init__(self):
        self.last = time.monotonic()

    def tick(self, what):
        now = time.monotonic()
        print(what, int((now - self.last) * 10), flush=True)
        self.last = now


def pieces(way, url):
    import httpx

    with (
        httpx.Client(http2=way == "2", verify=ssl.create_default_context()) as client,
        client.stream("GET", url) as answer,
    ):
        clock = Clock()
        for piece in answer.iter_raw():
            clock.tick(piece.decode().strip())


def messages(url):
    from websockets.sync.client import connect

    with connect(url) as socket:
        socket.recv()
        clock = Clock()
        socket.send("slow")
        clock.tick(socket.recv())


if sys.argv[1] == "ws":
    messages(sys.argv[2])
else:
    pieces(*sys.argv[1:])
