"""Twenty-six ways in which a test's code gets out, each a few lines, as a library's user writes them.

A probe is given where to go, and what comes of it does not matter: the server there takes note. What
a server that speaks HTTP only makes a client complain about is swallowed, as by the code of many.
"""

import asyncio
import ctypes
import multiprocessing
import socket
import struct
import subprocess
import sys
import threading
import urllib.request

TIMEOUT = 10
_CODE = "import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=10).read()"
_NODE = "fetch(process.argv[1]).then(a => a.text()).catch(() => 0)"


def requests_(host, port):
    import requests

    requests.get(f"http://{host}:{port}/", timeout=TIMEOUT)


def urllib_(host, port):
    urllib.request.urlopen(f"http://{host}:{port}/", timeout=TIMEOUT).close()


def httpx_sync(host, port):
    import httpx

    httpx.get(f"http://{host}:{port}/", timeout=TIMEOUT)


def httpx_async(host, port):
    import httpx

    async def ask():
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            await client.get(f"http://{host}:{port}/")

    asyncio.run(ask())


def aiohttp_(host, port):
    import aiohttp

    async def ask():
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/"):
            pass

    asyncio.run(ask())


def requests_in_thread(host, port):
    thread = threading.Thread(target=swallow, args=(requests_, host, port))
    thread.start()
    thread.join()


def raw_tcp_connect(host, port):
    with socket.socket() as conn:
        conn.connect((host, port))


def raw_tcp_connect_ex(host, port):
    with socket.socket() as conn:
        conn.connect_ex((host, port))


def asyncio_open_connection(host, port):
    asyncio.run(_open(host, port))


def uvloop_open_connection(host, port):
    import uvloop

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(_open(host, port))
    finally:
        loop.close()


async def _open(host, port):
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
    await writer.wait_closed()


def udp_sendto(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as conn:
        conn.sendto(b"anybody?", (host, port))


def c_socket_type(host, port):
    import _socket

    conn = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    try:
        conn.connect((host, port))
    finally:
        conn.close()


def ctypes_connect(host, port):
    libc = ctypes.CDLL(None)
    conn = libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host)
    libc.connect(conn, address + bytes(8), 16)
    libc.close(conn)


def pycurl_(host, port):
    import pycurl

    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, f"http://{host}:{port}/")
    curl.setopt(pycurl.WRITEFUNCTION, lambda _: None)
    curl.setopt(pycurl.TIMEOUT, TIMEOUT)
    curl.perform()


def curl_cffi_(host, port):
    import curl_cffi

    curl_cffi.get(f"http://{host}:{port}/", timeout=TIMEOUT)


def grpcio_sync(host, port):
    import grpc

    with grpc.insecure_channel(f"{host}:{port}") as channel:
        channel.unary_unary("/probe/Ask")(b"", timeout=TIMEOUT)


def grpcio_aio(host, port):
    import grpc

    async def ask():
        async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
            await channel.unary_unary("/probe/Ask")(b"", timeout=TIMEOUT)

    asyncio.run(ask())


def psycopg_libpq(host, port):
    import psycopg

    psycopg.connect(host=host, port=port, user="probe", sslmode="disable", connect_timeout=TIMEOUT)


def websockets_sync(host, port):
    from websockets.sync.client import connect

    with connect(f"ws://{host}:{port}/", open_timeout=TIMEOUT, proxy=None):
        pass


def websockets_asyncio(host, port):
    from websockets.asyncio.client import connect

    async def ask():
        async with connect(f"ws://{host}:{port}/", open_timeout=TIMEOUT, proxy=None):
            pass

    asyncio.run(ask())


def getaddrinfo_(host, port):
    socket.getaddrinfo(NAME, port)


NAME = "probe.example.com"
"""What getaddrinfo_ asks for; a lookup is all that it sends."""


def subprocess_python(host, port):
    subprocess.run([sys.executable, "-c", _CODE, f"http://{host}:{port}/"], stderr=subprocess.PIPE)


def subprocess_curl(host, port):
    subprocess.run(["curl", "-sS", f"http://{host}:{port}/"], capture_output=True)


def subprocess_node(host, port):
    subprocess.run(["node", "-e", _NODE, f"http://{host}:{port}/"], capture_output=True)


def multiprocessing_fork(host, port):
    _in_process("fork", host, port)


def multiprocessing_spawn(host, port):
    _in_process("spawn", host, port)


def _in_process(method, host, port):
    process = multiprocessing.get_context(method).Process(
        target=swallow, args=(urllib_, host, port)
    )
    process.start()
    process.join()


def swallow(probe, host, port):
    try:
        probe(host, port)
    except Exception as error:
        print(f"{probe.__name__}: {error!r}", file=sys.stderr)
