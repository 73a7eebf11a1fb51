"""A real server in a process of its own: HTTPS and HTTP on 127.0.0.1, ports of the kernel's choice.

`https_server.py CERT.pem` prints {"https": port, "http": port, "pid": pid}, serves, and ends when
its standard input does: so with whoever started it, however that dies.

| path | answer |
| --- | --- |
| /count | how many requests it has had for this path and query |
| /status/NNN | that status |
| /slow?n=KIB | a body in chunks, 1 KiB each |
| /login | a token, and a cookie |
| /malformed | bytes that are not HTTP |
| /hang | nothing: the connection stays open |
| anything else | JSON: method, path, what the request's headers and body were |
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ASKED: Counter[str] = Counter()
LOCK = threading.Lock()
OVER = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        path = urlsplit(self.path).path
        with LOCK:
            ASKED[self.path] += 1
        if path == "/count":
            self._json({"count": ASKED[self.path]})
        elif path.startswith("/status/"):
            self._json({"path": path}, int(path.rpartition("/")[2]))
        elif path == "/slow":
            self._chunks(int(parse_qs(urlsplit(self.path).query)["n"][0]))
        elif path == "/login":
            self._json(
                {"token": "sess-0123456789abcdef"}, 200, {"Set-Cookie": "sid=c00kie-s3cret; Path=/"}
            )
        elif path == "/malformed":
            self.wfile.write(b"\x00\x01this is not HTTP at all\r\n\r\n")
            self.close_connection = True
        elif path == "/hang":
            OVER.wait()
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._json(
                {
                    "method": self.command,
                    "path": self.path,
                    "headers": headers,
                    "body": body.decode("latin-1"),
                }
            )

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 (http.server's names)

    def _json(
        self, value: object, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, content in (headers or {}).items():
            self.send_header(name, content)
        self.end_headers()
        self.wfile.write(body)

    def _chunks(self, kib: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(kib):
            self.wfile.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        pass


def serve(certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    secure, plain = Server(("127.0.0.1", 0), Handler), Server(("127.0.0.1", 0), Handler)
    # The handshake is the connection's thread's: a silent client must not stop the others.
    secure.socket = context.wrap_socket(
        secure.socket, server_side=True, do_handshake_on_connect=False
    )
    for server in (secure, plain):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    ports = {"https": secure.server_port, "http": plain.server_port, "pid": os.getpid()}
    print(json.dumps(ports), flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
