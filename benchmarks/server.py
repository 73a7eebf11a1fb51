"""nginx with TLS 1.3 and a P-256 certificate on free ports of 127.0.0.1, in a folder of its own."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME = "bench.test"

_CONFIG = """
worker_processes 1;
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    sendfile on;
    default_type application/octet-stream;
    client_body_temp_path {folder}/tmp-body;
    proxy_temp_path {folder}/tmp-proxy;
    fastcgi_temp_path {folder}/tmp-fastcgi;
    uwsgi_temp_path {folder}/tmp-uwsgi;
    scgi_temp_path {folder}/tmp-scgi;
    ssl_protocols TLSv1.3;
    ssl_certificate {folder}/server.pem;
    ssl_certificate_key {folder}/server.key;
    ssl_session_tickets on;
    ssl_session_cache off;
    server {{
        listen 127.0.0.1:{https} ssl backlog=4096;
        listen 127.0.0.1:{http} backlog=4096;
        listen 127.0.0.1:{http2} ssl http2 backlog=4096;
        listen unix:{folder}/socket;
        root {folder}/files;
    }}
}}
"""


@dataclass(frozen=True)
class Server:
    """A running nginx; `ca` is the file that a client is to trust. `http2` is HTTPS as well."""

    folder: str
    ca: str
    https: int
    http: int
    http2: int

    @property
    def unix(self) -> str:
        """Return the path of its Unix socket, which speaks plain HTTP."""
        return os.path.join(self.folder, "socket")

    def file(self, name: str, size: int) -> str:
        """Serve `size` random bytes as /NAME; return that path."""
        path = os.path.join(self.folder, "files", name)
        if not os.path.exists(path):
            with open(path, "wb") as file:
                file.writelines(os.urandom(1 << 22) for _ in range(size >> 22))
                file.write(os.urandom(size & ((1 << 22) - 1)))
        return f"/{name}"


@contextlib.contextmanager
def nginx(folder: str) -> Iterator[Server]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise FileNotFoundError("nginx")
    os.makedirs(os.path.join(folder, "files"), exist_ok=True)
    ports = [free_port() for _ in range(3)]
    server = Server(folder, os.path.join(folder, "ca.pem"), *ports)
    _make_certificates(folder)
    config = os.path.join(folder, "nginx.conf")
    user = "user root;\n" if os.getuid() == 0 else ""
    with open(config, "w") as file:
        places = {"https": server.https, "http": server.http, "http2": server.http2}
        file.write(user + _CONFIG.format(folder=folder, **places))
    log = os.path.join(folder, "error.log")
    with subprocess.Popen([program, "-c", config, "-e", log, "-p", folder]) as process:
        try:
            _wait_for(server.https, process)
            yield server
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError("nginx did not start within 10 s")


def _make_certificates(folder: str) -> None:
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"bench {secrets.token_hex(4)}")])
    ca = _builder(issuer, issuer, ca_key).add_extension(x509.BasicConstraints(True, 0), True)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    leaf = _builder(subject, issuer, key).add_extension(
        x509.SubjectAlternativeName([x509.DNSName(NAME), x509.DNSName("localhost")]), False
    )
    for name, builder in (("ca.pem", ca), ("server.pem", leaf)):
        pem = builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        _write(os.path.join(folder, name), pem)
    plain = serialization.NoEncryption()
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    _write(os.path.join(folder, "server.key"), key.private_bytes(encoding, form, plain))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
    )


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
