"""A machine of the test's own, to get out of: a public address with a door for each probe, a name server.

1. Its network is a namespace: what goes out of it goes nowhere, so the engine may dial what it likes.
2. A door is a TCP and a UDP port that takes note of who comes, and answers with a little HTTP.
3. Run as a program: it enters, runs a command with DOORS in its environment, and prints as JSON what
   came of it: {"arrived": [name, ...], "status": n, "output": text}.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading

import dns.message
import dns.rrset
from pyroute2 import IPRoute

from pytest_netcapture.sandbox import namespaces, resolver

ADDRESS = "203.0.113.10"
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
_TIMEOUT = 10
_SCOPE_LINK = 253
"""Not global: a sandbox has the machine's global addresses as its own, and this is to be remote."""


class Doors:
    """Who came where."""

    def __init__(self, names: list[str]) -> None:
        self.arrived: set[str] = set()
        self.places: dict[str, tuple[str, int]] = {}
        self._sockets: list[tuple[socket.socket, str]] = []
        for name in names:
            door = socket.create_server((ADDRESS, 0), backlog=64)
            self.places[name] = (ADDRESS, door.getsockname()[1])
            datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            datagrams.bind(self.places[name])
            self._sockets += [(door, name), (datagrams, name)]
            self._serve(self._welcome, door, name)
            self._serve(self._take, datagrams, name)

    def look(self) -> list[str]:
        """Return who has come, those who still stand at a door included."""
        for sock, name in self._sockets:
            sock.setblocking(False)
            try:
                sock.recv(1) if sock.type == socket.SOCK_DGRAM else sock.accept()
            except BlockingIOError:
                continue
            self.arrived.add(name)
        return sorted(self.arrived)

    @staticmethod
    def _serve(function: object, *arguments: object) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()  # type: ignore[arg-type]

    def _welcome(self, door: socket.socket, name: str) -> None:
        while True:
            try:
                guest, _ = door.accept()
            except OSError:
                return
            self.arrived.add(name)
            self._serve(self._answer, guest)

    def _take(self, datagrams: socket.socket, name: str) -> None:
        try:
            while datagrams.recv(1000):
                self.arrived.add(name)
        except OSError:
            return

    @staticmethod
    def _answer(guest: socket.socket) -> None:
        with guest:
            guest.settimeout(_TIMEOUT)
            try:
                guest.recv(65536)
                guest.sendall(_ANSWER)
            except OSError:
                return


def serve_names(name: str, arrived: set[str], door: str) -> None:
    """Answer name queries on port 53; a query for `name` is an arrival at `door`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 53))
        ready.set()
        while True:
            data, client = sock.recvfrom(65536)
            query = dns.message.from_wire(data)
            asked = query.question[0]
            if asked.name.to_text() == f"{name}.":
                arrived.add(door)
            response = dns.message.make_response(query)
            if asked.rdtype == dns.rdatatype.A:
                response.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "A", ADDRESS))
            sock.sendto(response.to_wire(), client)


ready = threading.Event()


def enter(folder: str) -> None:
    """Enter the machine."""
    namespaces.enter_user_namespace()
    namespaces.unshare_mounts()
    namespaces.unshare_network()
    with IPRoute() as route:
        route.link("set", index=1, state="up")
        route.addr("add", index=1, address=ADDRESS, prefixlen=32, scope=_SCOPE_LINK)
    report = resolver.install(folder, "127.0.0.1")
    assert not report.failed, report.failed


def main() -> None:
    wanted = json.loads(sys.stdin.read())
    with tempfile.TemporaryDirectory() as folder:
        enter(folder)
        doors = Doors(wanted["probes"])
        arguments = (wanted["name"], doors.arrived, wanted["name_door"])
        threading.Thread(target=serve_names, args=arguments, daemon=True).start()
        assert ready.wait(_TIMEOUT)
        ran = subprocess.run(
            wanted["command"],
            env={**os.environ, **wanted["env"], "DOORS": json.dumps(doors.places)},
            cwd=wanted["cwd"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        told = {"arrived": doors.look(), "status": ran.returncode, "output": ran.stdout}
        print(json.dumps({**told, "doors": doors.places}), flush=True)
        os._exit(0)  # threads wait at their doors


if __name__ == "__main__":
    main()
