"""Real clients trust our CA by their environment alone, and nothing is mounted."""

from __future__ import annotations

import http.server
import os
import shutil
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trustme

from pytest_netcapture.sandbox import java, trust_variables

pytestmark = pytest.mark.live

CLEAN = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
URLLIB = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
REQUESTS = "import sys, requests; print(requests.get(sys.argv[1]).text)"
HTTPX = "import sys, httpx; print(httpx.get(sys.argv[1]).text)"
NODE = "require('https').get(process.argv[1], r => r.on('data', d => console.log(String(d))))"
RUBY = "require 'net/http'; puts Net::HTTP.get(URI(ARGV[0]))"
JAVA = Path(__file__).parent.parent / "clients" / "programs" / "Client.java"
CLIENTS = {
    "urllib": [sys.executable, "-c", URLLIB],
    "requests": [sys.executable, "-c", REQUESTS],
    "httpx": [sys.executable, "-c", HTTPX],
    "curl": ["curl", "-sS"],
    "node": ["node", "-e", NODE],
    "ruby": ["ruby", "-e", RUBY],
    "java": ["java", str(JAVA)],
}


@pytest.fixture(scope="session")
def ca():
    return trustme.CA(organization_name="pytest-netcapture tests")


class _Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """Be silent about clients that do not trust us."""


@pytest.fixture(scope="session")
def url(ca):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    with _Server(("127.0.0.1", 0), _Hello) as server:
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://localhost:{server.server_port}/"
        server.shutdown()
        thread.join()


def get(command, url, variables):
    done = subprocess.run(
        [*command, url], env=CLEAN | variables, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip() if done.returncode == 0 else ""


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_trusts_by_its_environment(client, ca, url, tmp_path):
    command = CLIENTS[client]
    if not shutil.which(command[0]):
        pytest.skip(f"not in CI: {command[0]} is not installed")
    found = trust_variables.install(ca.cert_pem.bytes(), directory=str(tmp_path), environ=CLEAN)
    assert found.failed == ()
    assert get(command, url, {}) != "hello"
    assert "hello" in get(command, url, found.environment)


def test_what_a_variable_named_is_still_trusted(ca, tmp_path):
    own = tmp_path / "own.pem"
    own.write_bytes(trustme.CA().cert_pem.bytes())
    environ = {"REQUESTS_CA_BUNDLE": str(own), "NODE_EXTRA_CA_CERTS": str(own)}
    found = trust_variables.install(ca.cert_pem.bytes(), directory=str(tmp_path), environ=environ)
    for name in environ:
        content = Path(found.environment[name]).read_bytes()
        assert content == own.read_bytes() + ca.cert_pem.bytes()
    assert own.read_bytes().count(b"BEGIN CERTIFICATE") == 1


def test_what_cannot_be_read_is_named(ca, tmp_path):
    environ = {"SSL_CERT_FILE": "/nobody/is/here", "CURL_CA_BUNDLE": str(tmp_path)}
    found = trust_variables.install(ca.cert_pem.bytes(), directory=str(tmp_path), environ=environ)
    assert dict(found.failed).keys() == environ.keys()
    assert "No such file" in dict(found.failed)["SSL_CERT_FILE"]
    assert environ.keys().isdisjoint(found.environment)


def test_java_options_stay(ca, tmp_path):
    if not java.find_stores({}):
        pytest.skip("not in CI: no JDK is installed")
    given = {"JAVA_TOOL_OPTIONS": "-Xmx64m"}
    found = trust_variables.install(ca.cert_pem.bytes(), directory=str(tmp_path), environ=given)
    assert found.environment["JAVA_TOOL_OPTIONS"].startswith("-Xmx64m -Djavax.net.ssl.trustStore=")
    chosen = {"JAVA_TOOL_OPTIONS": "-Djavax.net.ssl.trustStore=/own"}
    found = trust_variables.install(ca.cert_pem.bytes(), directory=str(tmp_path), environ=chosen)
    assert "JAVA_TOOL_OPTIONS" not in found.environment
