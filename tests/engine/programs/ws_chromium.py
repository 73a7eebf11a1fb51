"""What ws.js does, in a real Chromium without a window: print what is heard. Arguments: URL WORD...

The page comes from here, over loopback, and what it heard comes back the same way when the
conversation is over; then the browser is ended.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, HTTPServer

PAGE = """<!doctype html><script>
const says = SAYS, heard = [];
const socket = new WebSocket(URL_);
socket.binaryType = "arraybuffer";
const hex = (n) => "\\\\x" + n.toString(16).padStart(2, "0");
socket.onmessage = ({data}) => {
  const text = typeof data === "string";
  heard.push(text ? data : `b'${[...new Uint8Array(data)].map(hex).join("")}'`);
  if (heard.length === 1) says.forEach((word) => socket.send(word));
};
socket.onclose = ({code, reason}) => {
  heard.push(`${code} ${reason}`);
  fetch("/heard", {method: "POST", body: heard.join("\\n")});
};
</script>
"""
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


class Handler(BaseHTTPRequestHandler):
    page = b""
    heard = ""

    def do_GET(self):
        self.answer(self.page if self.path == "/" else b"")

    def do_POST(self):
        Handler.heard = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.answer(b"")

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main(url, *says):
    Handler.page = PAGE.replace("SAYS", json.dumps(says)).replace("URL_", json.dumps(url)).encode()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = HTTPServer(("127.0.0.1", 0), Handler)
        environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": folder}
        command = ["chromium", *FLAGS, f"--user-data-dir={folder}/profile"]
        browser = subprocess.Popen(
            [*command, f"http://127.0.0.1:{server.server_port}/"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environ,
            start_new_session=True,
        )
        server.timeout = 20
        for _ in range(10):
            if not Handler.heard:
                server.handle_request()
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()
    print(Handler.heard)


main(*sys.argv[1:])
