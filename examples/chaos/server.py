"""The shop, to record the tests anew.

python server.py prints its port; then
pytest --netcapture-record-mode=rewrite --netcapture-map-host=api.shop.example:80=127.0.0.1:PORT
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWERS = {
    "/stock/tea": json.dumps({"article": "tea", "count": 7}),
    "/prices/tea": json.dumps({"article": "tea", "cents": 450}),
    "/reviews/tea": "a fine tea\nbit dear, but very good\nwill buy again\nnot for me\n",
    "/orders": json.dumps({"number": "no-1001", "article": "tea"}),
}


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        text = ANSWERS.get(self.path)
        body = (text or "").encode()
        kind = "application/json" if body.startswith(b"{") else "text/plain"
        self.send_response(200 if text else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *args: object) -> None:
        pass


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
