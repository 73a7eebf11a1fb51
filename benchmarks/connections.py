"""A client for redirectors.py: `connections.py new|kept SECONDS URL [IDLE]`.

Prints how many requests it made a second, each on a connection of its own or all on one, and how
many in all. IDLE connections are opened before, and do nothing.
"""

from __future__ import annotations

import resource
import socket
import sys
import time
from urllib.parse import urlsplit


def main() -> None:
    kind, seconds, url = sys.argv[1], float(sys.argv[2]), urlsplit(sys.argv[3])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found = socket.getaddrinfo(url.hostname, url.port or 80, type=socket.SOCK_STREAM)
    family, _, _, _, address = found[0]
    closing = "close" if kind == "new" else "keep-alive"
    request = f"GET {url.path} HTTP/1.1\r\nHost: {url.hostname}\r\nConnection: {closing}\r\n\r\n"
    idle = [_connect(family, address) for _ in range(int((sys.argv[4:] or ["0"])[0]))]
    kept = _connect(family, address)
    count, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        conn = _connect(family, address) if kind == "new" else kept
        conn.sendall(request.encode())
        _read(conn)
        if kind == "new":
            conn.close()
        count += 1
    print(count / taken, count)
    del idle


def _connect(family: int, address: tuple[object, ...]) -> socket.socket:
    conn = socket.socket(family)
    conn.connect(address)
    return conn


def _read(conn: socket.socket) -> None:
    """Read an answer of 1 KiB."""
    data = b""
    while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < 1024:
        piece = conn.recv(65536)
        if not piece:
            raise ConnectionError("the answer is cut off")
        data += piece


if __name__ == "__main__":
    main()
