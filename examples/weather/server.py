"""A real HTTPS server that plays api.weather.example, on a port of 127.0.0.1 that it prints.

Usage: python server.py CERTIFICATE_AND_KEY.pem
"""

from __future__ import annotations

import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWERS: dict[tuple[str, str], tuple[int, Any]] = {
    ("GET", "/v1/forecast"): (200, {"celsius": [19, 21, 20]}),
    ("POST", "/v1/observations"): (201, {"id": "obs-1"}),
    ("GET", "/v1/alerts/pt"): (200, [{"title": "Storm"}, {"title": "Heat"}]),
    ("GET", "/v1/usage"): (200, {}),
}


class Weather(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, answer = ANSWERS.get((self.command, self.path.partition("?")[0]), (404, {}))
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 (the name that http.server wants)

    def log_message(self, *args: Any) -> None:
        """Stay silent."""


class Server(ThreadingHTTPServer):
    """Each connection makes its TLS handshake in a thread of its own."""

    daemon_threads = True

    def __init__(self, certificate: str) -> None:
        super().__init__(("127.0.0.1", 0), Weather)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate)

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(30)
        with self.tls.wrap_socket(request, server_side=True) as connection:
            super().finish_request(connection, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is not worth a traceback."""


if __name__ == "__main__":
    server = Server(sys.argv[1])
    print(server.server_port, flush=True)
    server.serve_forever()
