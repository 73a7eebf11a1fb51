"""Real servers that begin in clear text and change to TLS: SMTP, IMAP, LDAP, PostgreSQL.

Each is a context manager that yields its port on the host's loopback; what is not installed skips.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import glob
import grp
import os
import pwd
import select
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PATIENCE = 30


class Certificate(NamedTuple):
    """Files in PEM."""

    chain: str
    key: str


@contextlib.contextmanager
def smtp(certificate: Certificate) -> Iterator[int]:
    controller = pytest.importorskip("aiosmtpd.smtp", reason="aiosmtpd is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    loop = asyncio.new_event_loop()

    def make() -> asyncio.Protocol:
        handler = _Postbox()
        return controller.SMTP(handler, tls_context=context, require_starttls=True, loop=loop)

    server = loop.run_until_complete(loop.create_server(make, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        server.close()
        loop.close()


class _Postbox:
    """Takes mail, and says whether it came over TLS."""

    async def handle_DATA(self, _server, session, envelope) -> str:
        return f"250 {'secret' if session.ssl else 'open'}, {len(envelope.content)} bytes"


@contextlib.contextmanager
def imap(certificate: Certificate) -> Iterator[int]:
    program = _needs("dovecot")
    with tempfile.TemporaryDirectory(prefix="dovecot-") as directory:
        port = _free_port()
        config = Path(directory, "dovecot.conf")
        config.write_text(_dovecot(directory, port, certificate))
        with _running([program, "-F", "-c", str(config)], port):
            yield port


def _dovecot(directory: str, port: int, certificate: Certificate) -> str:
    user, group = getpass.getuser(), grp.getgrgid(os.getgid()).gr_name
    internal, its_group, login = (
        ("dovecot", "dovecot", "dovenull") if os.geteuid() == 0 else (user, group, user)
    )
    return f"""
        base_dir = {directory}/run
        state_dir = {directory}/state
        log_path = {directory}/log
        protocols = imap
        listen = 127.0.0.1
        default_internal_user = {internal}
        default_internal_group = {its_group}
        default_login_user = {login}
        ssl = required
        ssl_cert = <{certificate.chain}
        ssl_key = <{certificate.key}
        passdb {{
          driver = static
        }}
        userdb {{
          driver = static
        }}
        service imap-login {{
          chroot =
          inet_listener imap {{
            port = {port}
          }}
          inet_listener imaps {{
            port = 0
          }}
        }}
        service anvil {{
          chroot =
        }}
        """


@contextlib.contextmanager
def ldap(certificate: Certificate) -> Iterator[int]:
    program = _needs("slapd")
    with tempfile.TemporaryDirectory(prefix="slapd-") as directory:
        port = _free_port()
        config = Path(directory, "slapd.conf")
        config.write_text(
            f"TLSCertificateFile {certificate.chain}\n"
            f"TLSCertificateKeyFile {certificate.key}\n"
            "security tls=128\n"
        )
        with _running(
            [program, "-h", f"ldap://127.0.0.1:{port}", "-f", str(config), "-d", "0"], port
        ):
            yield port


@contextlib.contextmanager
def postgres(certificate: Certificate) -> Iterator[int]:
    binaries = _postgres_binaries()
    # It refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else getpass.getuser()
    with tempfile.TemporaryDirectory(prefix="postgres-") as directory:
        chain, key = (shutil.copy(path, directory) for path in certificate)
        os.chmod(key, 0o600)
        for path in (directory, chain, key):
            shutil.chown(path, user)
        as_user = {"user": user, "group": pwd.getpwnam(user).pw_gid} if os.geteuid() == 0 else {}
        data = f"{directory}/data"
        command = [f"{binaries}/initdb", "--no-sync", "--auth=trust", "--username=test", data]
        subprocess.run(command, check=True, capture_output=True, cwd=directory, **as_user)
        port = _free_port()
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": directory,
            "port": port,
            "fsync": "off",
            "ssl": "on",
            "ssl_cert_file": chain,
            "ssl_key_file": key,
        }
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with _running([f"{binaries}/postgres", "-D", data, *given], port, **as_user):
            yield port


def psql() -> str:
    return f"{_postgres_binaries()}/psql"


def _postgres_binaries() -> str:
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed")
    return os.path.dirname(found[-1])


def _needs(program: str) -> str:
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def _running(command: list[str], port: int, **kwargs) -> Iterator[None]:
    """Run a server as long as the block lasts, which begins when it can be reached."""
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdout=log, stderr=log, **kwargs) as server,
    ):
        try:
            _wait_for(port, server, log)
            yield
        finally:
            server.terminate()
            server.wait(PATIENCE)


def _wait_for(port: int, server: subprocess.Popen[bytes], log) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError:
            log.seek(0)
            assert server.poll() is None, log.read().decode()
            assert time.monotonic() < deadline, log.read().decode()
            select.select([], [], [], 0.01)
        else:
            return
