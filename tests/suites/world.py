"""A small offline world in which one program is run: python world.py ORDER.json

1. It is started by `unshare` (see `command`) in network and mount namespaces of its own, so that
   no run sees, or disturbs, what else this machine does. No test of a suite can leave the machine.
2. The world looks like a machine with a network that is silent: `eth0` has an address of both
   families and a default route, packets go out and nothing comes back. A name server answers that
   no name exists. Ports are free: servers may have their usual ones.
3. The program is run with the capabilities of an ordinary user, as the user who started this.
4. What became of it is written to a file: exit status, seconds, whether it had to be ended.

Needs iproute2 and util-linux.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import servers

NAME_SERVER = "198.51.100.53"
_ADDRESSES = {"-4": ("198.51.100.7/24", "198.51.100.1"), "-6": ("fd00:5::7/64", "fd00:5::1")}
_HOSTS = """\
127.0.0.1 localhost
127.0.1.1 {name}
::1 localhost ip6-localhost ip6-loopback
"""
_SILENT_DEVICES = ("dummy", "ifb")
_NXDOMAIN = b"\x81\x83"
_NOT_FINISHED = 124


@dataclass
class Order:
    """What to run: `servers` are names of servers.py, `limit` is in seconds."""

    command: list[str]
    directory: str
    environment: dict[str, str]
    log: str
    result: str
    limit: int
    servers: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What became of the program."""

    status: int
    seconds: float
    finished: bool


def run(order: Order, folder: Path) -> Outcome:
    """Run a program in a world of its own, of which `folder` holds the files."""
    paper = folder / "order.json"
    paper.write_text(json.dumps(asdict(order)))
    enter = ["unshare", "--net", "--mount"]
    if os.geteuid() != 0:
        enter += ["--user", "--map-current-user", "--keep-caps"]
    Path(order.result).unlink(missing_ok=True)
    subprocess.run([*enter, sys.executable, __file__, str(paper)], check=True)
    return Outcome(**json.loads(Path(order.result).read_text()))


def main() -> None:
    order = Order(**json.loads(Path(sys.argv[1]).read_text()))
    folder = Path(sys.argv[1]).parent
    _lay_network()
    servers.cover("/etc/resolv.conf", folder / "resolv.conf", f"nameserver {NAME_SERVER}\n")
    servers.cover("/etc/hosts", folder / "hosts", _HOSTS.format(name=socket.gethostname()))
    threading.Thread(target=_answer_names, args=(_name_socket(),), daemon=True).start()
    place = servers.Place(folder, Path(order.directory), order.environment)
    with servers.started(order.servers, place) as variables:
        outcome = _run(order, order.environment | variables)
    Path(order.result).write_text(json.dumps(asdict(outcome)))


def user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def without_capabilities(command: list[str]) -> list[str]:
    """Return a command that has what its user has elsewhere."""
    if os.geteuid() == 0:
        return command
    return ["setpriv", "--ambient-caps=-all", "--inh-caps=-all", *command]


def _run(order: Order, environment: dict[str, str]) -> Outcome:
    began = time.monotonic()
    with open(order.log, "wb") as log, _group(order, environment, log) as process:
        try:
            status, finished = process.wait(order.limit), True
        except subprocess.TimeoutExpired:
            status, finished = _NOT_FINISHED, False
    return Outcome(status, time.monotonic() - began, finished)


@contextlib.contextmanager
def _group(order: Order, environment: dict[str, str], log: object) -> Iterator[subprocess.Popen]:
    """Start the program; at the end nothing of its process group is left."""
    process = subprocess.Popen(
        without_capabilities(order.command),
        cwd=order.directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _lay_network() -> None:
    _ip("link", "set", "lo", "up")
    for kind in _SILENT_DEVICES:
        if _ip("link", "add", "eth0", "type", kind, check=kind == _SILENT_DEVICES[-1]):
            break
    _ip("link", "set", "eth0", "up")
    for family, (address, gateway) in _ADDRESSES.items():
        nodad = ["nodad"] if family == "-6" else []
        _ip(family, "address", "add", address, "dev", "eth0", *nodad)
        _ip(family, "route", "add", "default", "via", gateway, "dev", "eth0")
    _ip("-4", "address", "add", f"{NAME_SERVER}/32", "dev", "eth0")


def _ip(*words: str, check: bool = True) -> bool:
    done = subprocess.run(["ip", *words], check=check, stderr=None if check else subprocess.DEVNULL)
    return done.returncode == 0


def _name_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((NAME_SERVER, 53))
    return sock


def _answer_names(sock: socket.socket) -> None:
    """Answer each question: there is no such name."""
    while True:
        question, client = sock.recvfrom(4096)
        if len(question) > 12:
            sock.sendto(
                question[:2] + _NXDOMAIN + question[4:6] + bytes(6) + _body(question), client
            )


def _body(question: bytes) -> bytes:
    """Return the question section (one question), without what EDNS appends."""
    end = question.index(b"\0", 12) + 5
    return question[12:end]


if __name__ == "__main__":
    main()
