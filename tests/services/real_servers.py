"""Real databases and brokers, each in a temporary folder, on a port of its own, as an ordinary user.

A server says that it is ready by answering its own client or by its log; nothing sleeps.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

PATIENCE = 60
PASSWORD = "p4ssw0rd-of-the-server"


@dataclass
class Running:
    """A server that can be stopped before its fixture ends."""

    port: int
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def program(name: str, pattern: str = "") -> str:
    """Return a program's path; skip the test where it is not installed."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/lib/rabbitmq/bin")
    if not found and pattern:
        found = max(map(str, Path("/").glob(pattern)), default=None)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def plain_user(*names: str) -> str | None:
    """Return whom to run as, where we are root and the server refuses to be."""
    if os.geteuid() != 0:
        return None
    known = {one.pw_name for one in pwd.getpwall()}
    return next((name for name in names if name in known), "nobody")


@contextlib.contextmanager
def running(
    command: Sequence[str],
    folder: Path,
    port: int,
    *,
    user: str | None = None,
    environ: dict[str, str] | None = None,
    ready: Callable[[], bool] = lambda: True,
) -> Iterator[Running]:
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            user=user,
            group=pwd.getpwnam(user).pw_gid if user else None,
            env=os.environ | {"TMPDIR": str(folder)} | (environ or {}),
        )
    server = Running(port, process)
    try:
        _wait_for(server, folder / "log", ready)
        yield server
    finally:
        server.stop()


def _wait_for(server: Running, log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1):
            if ready():
                return
        time.sleep(0.05)
    raise RuntimeError(f"{server.process.args!r} does not answer: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def workplace(user: str | None) -> Iterator[Path]:
    """A folder that `user` can reach, which those that pytest makes are not."""
    folder = Path(tempfile.mkdtemp(prefix="ci-", dir="/tmp"))
    folder.chmod(0o755)
    if user:
        shutil.chown(folder, user)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def postgresql(*, auth: str = "scram-sha-256", certificate: str = "") -> Iterator[Running]:
    """PostgreSQL with the role `app` and the database `shop`; TLS with a PEM file of chain and key."""
    user = plain_user("postgres")
    with workplace(user) as folder:
        yield from _postgresql(folder, user, auth, certificate)


def _postgresql(folder: Path, user: str | None, auth: str, certificate: str) -> Iterator[Running]:
    port = free_port()
    initdb = program("initdb", "usr/lib/postgresql/*/bin/initdb")
    data, password = folder / "data", folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    options = ["--username=app", f"--auth={auth}", f"--pwfile={password}", "--no-sync"]
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    command = [initdb, *options, f"--pgdata={data}"]
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder, env=environment
    )
    settings = [f"unix_socket_directories = '{folder}'", "fsync = off", "max_connections = 40"]
    if certificate:
        for name in ("server.key", "server.crt"):
            shutil.copy(certificate, data / name)
            shutil.chown(data / name, user or os.geteuid())
            (data / name).chmod(0o600)
        settings.append("ssl = on")
    with (data / "postgresql.conf").open("a") as file:
        file.write("\n".join([*settings, ""]))
    command = [str(Path(initdb).resolve().parent / "postgres"), "-D", str(data), "-p", str(port)]
    psql = program("psql")

    def ready() -> bool:
        words = [psql, "-h", str(folder), "-p", str(port), "-U", "app", "-d", "postgres", "-qc"]
        done = subprocess.run(
            [*words, "CREATE DATABASE shop"],
            env=os.environ | {"PGPASSWORD": PASSWORD},
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    with running(command, folder, port, user=user, ready=ready) as server:
        yield server


@contextlib.contextmanager
def redis(*, password: str = "") -> Iterator[Running]:
    """Redis without a disk."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    if password:
        options += ["--requirepass", password]
    with workplace(None) as folder:
        command = [program("redis-server"), *options, "--dir", str(folder)]
        with running(command, folder, port) as server:
            yield server


@contextlib.contextmanager
def mariadb(*, certificate: str = "") -> Iterator[Running]:
    """MariaDB with the user `app` and the database `shop`; TLS with a PEM file of chain and key."""
    user, port = plain_user("mysql"), free_port()
    with workplace(user) as folder:
        data, socket_path = folder / "data", folder / "socket"
        install = [program("mariadb-install-db"), "--no-defaults", f"--datadir={data}"]
        subprocess.run(
            [*install, "--skip-test-db", "--auth-root-authentication-method=normal"],
            check=True,
            stdout=subprocess.DEVNULL,
            user=user,
            cwd=folder,
            env=os.environ | {"TMPDIR": str(folder)},
        )
        command = [program("mariadbd"), "--no-defaults", f"--datadir={data}", f"--port={port}"]
        command += [f"--socket={socket_path}", "--bind-address=127.0.0.1"]
        command += [f"--pid-file={folder}/pid"]
        if certificate:
            leaf = folder / "leaf.pem"
            shutil.copy(certificate, leaf)
            shutil.chown(leaf, user or os.geteuid())
            command += [f"--ssl-cert={leaf}", f"--ssl-key={leaf}"]
        words = f"CREATE DATABASE shop; CREATE USER app IDENTIFIED BY '{PASSWORD}';"
        words += "GRANT ALL ON shop.* TO app;"

        def ready() -> bool:
            client = [program("mariadb"), "--no-defaults", f"--socket={socket_path}", "-uroot"]
            done = subprocess.run([*client, "-e", words], capture_output=True, check=False)
            return done.returncode == 0

        with running(command, folder, port, user=user, ready=ready) as server:
            yield server


@contextlib.contextmanager
def smtp(certificate: str) -> Iterator[Running]:
    """A server that takes mail over TLS only, and after a login; PEM file of chain and key."""
    port = free_port()
    with workplace(None) as folder:
        script = Path(__file__).parent / "programs" / "mail_server.py"
        command = [sys.executable, str(script), str(port), certificate, PASSWORD]
        with running(command, folder, port) as server:
            yield server


@contextlib.contextmanager
def exim(certificate: str) -> Iterator[Running]:
    """Debian's Exim, as `smtp`. Given a configuration of ours, it is nobody but who starts it."""
    user, port = plain_user("Debian-exim"), free_port()
    with workplace(user) as folder:
        leaf, configuration = folder / "leaf.pem", folder / "exim.conf"
        shutil.copy(certificate, leaf)
        own = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
        macros = f"FOLDER = {folder}\nPORT = {port}\nPASSWORD = {PASSWORD}\n"
        macros += f"exim_user = {own.pw_uid}\nexim_group = {own.pw_gid}\nkeep_environment =\n"
        rules = Path(__file__).parent / "programs" / "exim.conf"
        configuration.write_text(macros + rules.read_text())
        for path in (leaf, configuration):
            shutil.chown(path, user or os.geteuid())
        command = [program("exim4"), "-C", str(configuration), "-bdf"]
        with running(command, folder, port, user=user) as server:
            yield server


@contextlib.contextmanager
def memcached() -> Iterator[Running]:
    port = free_port()
    with workplace(plain_user("nobody")) as folder:
        command = [program("memcached"), "-p", str(port), "-l", "127.0.0.1", "-U", "0"]
        with running(command, folder, port, user=plain_user("nobody")) as server:
            yield server


@contextlib.contextmanager
def kafka(host: str) -> Iterator[Running]:
    """Apache Kafka, one broker that is its own controller; its clients know it as `host`:9092.

    `NETCAPTURE_KAFKA` is the folder of its jars.
    """
    jars, port, inner = os.environ.get("NETCAPTURE_KAFKA", ""), free_port(), free_port()
    if not jars:
        pytest.skip("not in CI: NETCAPTURE_KAFKA names no folder with Kafka's jars")
    java = [program("java"), "-Xmx400m", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*"]
    with workplace(None) as folder:
        settings = folder / "server.properties"
        settings.write_text(
            "process.roles=broker,controller\nnode.id=1\n"
            f"controller.quorum.voters=1@127.0.0.1:{inner}\n"
            f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{inner}\n"
            f"advertised.listeners=PLAINTEXT://{host}:9092\n"
            "controller.listener.names=CONTROLLER\n"
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
            f"log.dirs={folder}/data\noffsets.topic.replication.factor=1\n"
            "group.initial.rebalance.delay.ms=0\noffsets.topic.num.partitions=1\n"
        )
        words = ["format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", str(settings)]
        subprocess.run([*java, "kafka.tools.StorageTool", *words], check=True, capture_output=True)
        with running([*java, "kafka.Kafka", str(settings)], folder, port) as server:
            yield server


@contextlib.contextmanager
def rabbitmq() -> Iterator[Running]:
    """RabbitMQ with the user guest; with a port mapper (epmd) of its own, which ends with it."""
    server_program = program("rabbitmq-server", "usr/lib/rabbitmq/bin/rabbitmq-server")
    direct = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    user, port = plain_user("rabbitmq"), free_port()
    with workplace(user) as folder:
        environ = {
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(free_port()),
            "RABBITMQ_NODENAME": f"ci-{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
        }
        command = [str(direct) if direct.exists() else server_program]
        try:
            with running(command, folder, port, user=user, environ=environ) as server:
                yield server
        finally:
            own = os.environ | environ
            subprocess.run(["epmd", "-kill"], env=own, capture_output=True, check=False, user=user)


@contextlib.contextmanager
def mongodb() -> Iterator[Running]:
    """FerretDB 1, which speaks MongoDB's protocol over SQLite, with the user `app`."""
    server_program, port = shutil.which("ferretdb"), free_port()
    if server_program is None:
        pytest.skip("not in CI: ferretdb (version 1) is not installed")
    with workplace(None) as folder:
        command = [server_program, "--handler=sqlite", f"--listen-addr=127.0.0.1:{port}"]
        command += [f"--sqlite-url=file:{folder}/", f"--state-dir={folder}", "--debug-addr=-"]
        command += ["--telemetry=disable", "--test-enable-new-auth", "--setup-database=shop"]
        command += ["--setup-username=app", f"--setup-password={PASSWORD}"]
        with running(command, folder, port) as server:
            yield server
