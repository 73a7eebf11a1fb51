"""Ten things that HTTP clients in Python see, each printed: CASE, then where the server is."""

import asyncio
import hashlib
import ssl
import sys

CASE, BASE = sys.argv[1:]


def context():
    return ssl.create_default_context()


def sse(pieces, following):
    """Print each piece, and ask for the next event when one has come."""
    for piece in pieces:
        if piece:
            print(piece, flush=True)
            if b"2" not in piece:
                following()


def requests_lines():
    import requests

    with requests.get(f"{BASE}/events", stream=True) as answer:
        lines = (line for line in answer.iter_lines(1) if line)
        sse(lines, lambda: requests.get(f"{BASE}/next"))


def requests_content():
    import requests

    with requests.get(f"{BASE}/events", stream=True) as answer:
        sse(answer.iter_content(None), lambda: requests.get(f"{BASE}/next"))


def httpx_by(way):
    import httpx

    with (
        httpx.Client(verify=context()) as client,
        client.stream("GET", f"{BASE}/events") as answer,
    ):
        sse(getattr(answer, way)(), lambda: client.get(f"{BASE}/next"))


def aiohttp_any():
    import aiohttp

    async def main():
        async with aiohttp.ClientSession() as client, client.get(f"{BASE}/events") as answer:
            # What has come by now is one piece: played at once, that may be all of it.
            async for piece in answer.content.iter_any():
                for event in piece.decode().split("\n\n")[:-1]:
                    print(f"{event}\n\n".encode(), flush=True)
                    if "2" not in event:
                        await (await client.get(f"{BASE}/next")).read()

    asyncio.run(main())


def redirect():  # a cookie's value is a secret, and another one when it is played
    import requests

    session = requests.Session()
    answer = session.get(f"{BASE}/redirect")
    path = answer.url.removeprefix(BASE)
    print(path, len(answer.history), [*session.cookies.keys()], answer.text)


def binary():
    import httpx

    with httpx.Client(verify=context()) as client:
        answer = client.get(f"{BASE}/binary")
    print(len(answer.content), hashlib.sha256(answer.content).hexdigest())


def failing():
    import requests

    try:
        with requests.get(f"{BASE}/x", stream=True) as answer:
            for piece in answer.iter_content(None):
                print(piece)
    except requests.RequestException as error:
        print(type(error).__name__, reason_of(error))


def reason_of(error):
    """Return the system's word for it: reprs hold addresses."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return type(error).__name__
        args = [
            one
            for one in (*error.args, getattr(error, "reason", None))
            if isinstance(one, Exception)
        ]
        error = args[0] if args else error.__cause__ or error.__context__
    return ""


def http2():
    import httpx

    with httpx.Client(http2=True, verify=context()) as client:
        answer = client.get(f"{BASE}/a")
    print(answer.http_version, answer.text)


CASES = {
    "sse, requests.iter_lines": requests_lines,
    "sse, requests.iter_content": requests_content,
    "sse, httpx.iter_bytes": lambda: httpx_by("iter_bytes"),
    "sse, httpx.iter_raw": lambda: httpx_by("iter_raw"),
    "sse, aiohttp.iter_any": aiohttp_any,
    "redirect with a cookie": redirect,
    "binary": binary,
    "refused": failing,
    "reset in the body": failing,
    "HTTP/2": http2,
}
CASES[CASE]()
