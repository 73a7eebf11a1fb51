"""Real servers that suites want: each starts on its usual port, and ends with the run.

A server is a generator: it yields the variables that tell a suite about it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

_PATIENCE = 60


@dataclass(frozen=True)
class Place:
    """Where a server runs: a folder of its own, and the suite's sources and variables."""

    folder: Path
    source: Path
    environment: dict[str, str]


@contextlib.contextmanager
def started(names: Sequence[str], place: Place) -> Iterator[dict[str, str]]:
    """Run the servers of these names; yield the variables of all."""
    variables: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            own = place.folder / name
            own.mkdir(mode=0o755)
            variables |= stack.enter_context(SERVERS[name](replace(place, folder=own)))
        yield variables


@contextlib.contextmanager
def redis(place: Place) -> Iterator[dict[str, str]]:
    options = ["--port", "6379", "--save", "", "--enable-debug-command", "yes"]
    with _running(["redis-server", *options, "--dir", str(place.folder)], place.folder, 6379):
        yield {}


@contextlib.contextmanager
def postgres(place: Place) -> Iterator[dict[str, str]]:
    """PostgreSQL refuses to be root: then it is `postgres`, whom its package makes."""
    user = "postgres" if os.geteuid() == 0 else None
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    data, password = place.folder / "data", place.folder / "password"
    password.write_text("pw")
    if user:
        shutil.chown(place.folder, user)
    options = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={password}"]
    subprocess.run(
        [programs / "initdb", *options, f"--pgdata={data}"],
        check=True,
        stdout=subprocess.DEVNULL,
        user=user,
        cwd=place.folder,
    )
    _certificate(data, user)
    with (data / "postgresql.conf").open("a") as file:
        file.write(f"unix_socket_directories = '{place.folder}'\nfsync = off\nssl = on\n")
    command = [str(programs / "postgres"), "-D", str(data)]
    with _running(command, place.folder, 5432, user):
        own = os.environ | {"PGPASSWORD": "pw"}
        words = ["-h", "127.0.0.1", "-U", "postgres", "-qc", "CREATE EXTENSION hstore"]
        subprocess.run(["psql", *words], check=True, env=own)
        yield {}


def _certificate(folder: Path, user: str | None) -> None:
    """Make a key and a certificate of its own for a server, in its folder."""
    key, certificate = folder / "server.key", folder / "server.crt"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subject = ["-subj", "/CN=localhost", "-days", "2"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *subject],
        check=True,
        stderr=subprocess.DEVNULL,
        user=user,
    )


@contextlib.contextmanager
def sshd(place: Place) -> Iterator[dict[str, str]]:
    """An SSH server that lets the own user in, with a key that both kinds of clients find."""
    keys = Path(place.environment["HOME"]) / ".ssh"
    keys.mkdir(mode=0o700)
    host_key, user_key = place.folder / "host_key", keys / "id_ed25519"
    for key in (host_key, user_key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (place.folder / "sshd_config").write_text(
        f"HostKey {host_key}\n"
        f"AuthorizedKeysFile {user_key}.pub\n"
        "StrictModes no\nUsePAM no\nPidFile none\nMaxStartups 100\n"
        "Subsystem sftp internal-sftp\n"
    )
    client = (  # OpenSSH takes the home directory of the password file
        f"IdentityFile {user_key}\n"
        "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"
    )
    cover("/etc/ssh/ssh_config", place.folder / "ssh_config", client)
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    command = ["/usr/sbin/sshd", "-D", "-e", "-f", str(place.folder / "sshd_config")]
    with _running(command, place.folder, 22):
        yield {}


@contextlib.contextmanager
def websocket_echo(place: Place) -> Iterator[dict[str, str]]:
    """websocket-client's own echo server."""
    server = place.source / "websocket" / "tests" / "echo-server.py"
    variables = {"LOCAL_WS_SERVER_PORT": "8765"}
    environment = place.environment | variables
    command = ["env", "python", str(server)]
    with _running(command, place.folder, 8765, environment=environment):
        yield variables


SERVERS: dict[str, Callable[[Place], contextlib.AbstractContextManager[dict[str, str]]]] = {
    "postgres": postgres,
    "redis": redis,
    "sshd": sshd,
    "websocket_echo": websocket_echo,
}


def cover(path: str, file: Path, content: str) -> None:
    """Have `path` show `content`, in this world only."""
    file.write_text(content)
    subprocess.run(["mount", "--bind", str(file), os.path.realpath(path)], check=True)


@contextlib.contextmanager
def _running(
    command: list[str],
    folder: Path,
    port: int,
    user: str | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[None]:
    """Run a server until the end of the block, which begins when it listens."""
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            user=user,
            env=environment,
        )
    try:
        _wait_for(port, process, folder / "log")
        yield
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen on port {port}: {log.read_text()}")
