"""Call a method of grpc_server.py with words, and print what comes. aio: the asyncio interface."""

import asyncio
import sys

import grpc


def message(string):
    return bytes((10, len(string))) + string.encode()


def said(data):
    print(data[2:].decode(), flush=True)


def sync(channel, method, words):
    metadata = (("x-sent", "mine"),)
    path = f"/test.Talk/{method}"
    if method == "Unary":
        call = channel.unary_unary(path)
        for word in words:
            try:
                timeout = 0.5 if word == "slow" else 20
                answer, rpc = call.with_call(message(word), metadata=metadata, timeout=timeout)
                said(answer)
                print(dict(rpc.initial_metadata())["x-seen"])
            except grpc.RpcError as error:
                print(error.code().name, error.details())
    elif method == "ServerStream":
        for answer in channel.unary_stream(path)(message(words[0]), timeout=20):
            said(answer)
    elif method == "ClientStream":
        said(channel.stream_unary(path)(map(message, words), timeout=20))
    else:
        two_ways(channel.stream_stream(path), words)


def two_ways(call, words):
    """Say each word only when the answer to the one before has come."""
    import queue

    to_send = queue.Queue()
    answers = call(iter(to_send.get, None), timeout=20)
    said(next(answers))
    for word in words:
        to_send.put(message(word))
        said(next(answers))
        said(next(answers))
    to_send.put(None)
    print(list(answers), answers.code().name)


async def aio(target, credentials, words):
    make = grpc.aio.secure_channel if credentials else grpc.aio.insecure_channel
    args = (target, credentials) if credentials else (target,)
    async with make(*args) as channel:
        call = channel.stream_stream("/test.Talk/Both")(timeout=20)
        said(await call.read())
        for word in words:
            await call.write(message(word))
            said(await call.read())
            said(await call.read())
        await call.done_writing()
        print([] if await call.read() is grpc.aio.EOF else "more", (await call.code()).name)


def main(target, method, *words):
    secure = target.endswith(":443")
    credentials = grpc.ssl_channel_credentials() if secure else None
    try:
        if method == "aio":
            asyncio.run(aio(target, credentials, words))
            return
        options = {"compression": grpc.Compression.Gzip}
        channel = (
            grpc.secure_channel(target, credentials, **options)
            if secure
            else grpc.insecure_channel(target, **options)
        )
        with channel:
            sync(channel, method, words)
    except grpc.RpcError as error:
        print(error.code().name)


main(*sys.argv[1:])
