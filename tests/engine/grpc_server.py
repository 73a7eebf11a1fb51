"""A grpcio server with all four kinds of call. Arguments: chain, key. A message is one string."""

import sys
from concurrent import futures

import grpc


def text(data):
    return data[2:].decode()


def message(string):
    return bytes((10, len(string))) + string.encode()


def unary(request, context):
    word = text(request)
    if word == "fail":
        context.set_trailing_metadata((("why", "because"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: ü")
    if word == "slow":
        futures.Future().result(timeout=min(20, context.time_remaining() + 5))
    context.send_initial_metadata((("x-seen", dict(context.invocation_metadata())["x-sent"]),))
    return message(f"hello {word}")


def server_stream(request, _context):
    for number in range(3):
        yield message(f"{text(request)} {number}")


def client_stream(requests, _context):
    return message(" ".join(map(text, requests)))


def both(requests, _context):
    yield message("ready")
    for request in requests:
        yield message(f"you said {text(request)}")
        yield message("next?")


def main(chain, key):
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server = grpc.server(futures.ThreadPoolExecutor(4), compression=grpc.Compression.Gzip)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Talk", handlers),))
    with open(chain, "rb") as certificates, open(key, "rb") as private:
        pair = (private.read(), certificates.read())
    secure = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    plain = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(secure, plain, flush=True)
    sys.stdin.read()
    server.stop(0).wait()


main(*sys.argv[1:])
