"""An ASGI application for hypercorn: what a static server cannot do."""

import asyncio


async def app(scope, receive, send):
    if scope["type"] == "http":
        await PATHS.get(scope["path"], echo)(scope, receive, send)
    elif scope["type"] == "websocket":
        await talk(receive, send)


async def talk(receive, send):
    """Greet, answer one message, close."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "welcome"})
    message = await receive()
    await send({"type": "websocket.send", "text": message["text"] + "!"})
    await send({"type": "websocket.close", "code": 4000, "reason": "bye"})


async def body_of(receive):
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def start(send, status=200, headers=(), **more):
    await send({"type": "http.response.start", "status": status, "headers": list(headers), **more})


async def echo(scope, receive, send):
    body = await body_of(receive)
    await start(send, headers=[(b"x-version", scope["http_version"].encode())])
    text = f"{scope['method']} {scope['path']} {len(body)}".encode()
    await send({"type": "http.response.body", "body": text})


async def events(scope, receive, send):
    """Send the next event when the client, which got the one before, says so at /next."""
    await start(send, headers=[(b"content-type", b"text/event-stream")])
    for number in range(3):
        if number:
            await go_on.acquire()
        text = b"data: %d\n\n" % number
        await send({"type": "http.response.body", "body": text, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def following(scope, receive, send):
    go_on.release()
    await echo(scope, receive, send)


async def trailers(scope, receive, send):
    await start(send, headers=[(b"trailer", b"x-sum")], trailers=True)
    await send({"type": "http.response.body", "body": b"content"})
    await send(
        {"type": "http.response.trailers", "headers": [(b"x-sum", b"7")], "more_trailers": False}
    )


async def broken(scope, receive, send):
    """Break off in the middle: hypercorn resets the stream."""
    await start(send, headers=[(b"content-length", b"10")])
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise RuntimeError("on purpose")


async def redirect(scope, receive, send):
    fields = [(b"location", b"/final"), (b"set-cookie", b"a=1; Path=/")]
    await start(send, 302, fields)
    await send({"type": "http.response.body", "body": b""})


async def final(scope, receive, send):
    await start(send)
    name, _, _ = dict(scope["headers"]).get(b"cookie", b"no cookie").partition(b"=")
    await send({"type": "http.response.body", "body": name})


async def binary(scope, receive, send):
    await start(send, headers=[(b"content-type", b"application/octet-stream")])
    await send({"type": "http.response.body", "body": bytes(range(256)) * 1000})


async def slow(scope, receive, send):
    """Take 400 ms before each event but the first: what is to be recorded."""
    await start(send, headers=[(b"content-type", b"text/event-stream")])
    for number in range(3):
        await asyncio.sleep(0.4 if number else 0)
        text = b"data: %d\n\n" % number
        await send({"type": "http.response.body", "body": text, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


go_on = asyncio.Semaphore(0)
PATHS = {
    "/redirect": redirect,
    "/final": final,
    "/binary": binary,
    "/slow": slow,
    "/events": events,
    "/next": following,
    "/trailers": trailers,
    "/broken": broken,
}
