"""A redirector in a process of its own, a captured client, and servers that the engine's side plays.

1. `run` calls a function where it is captured and returns what it returned. Each connection that the
   redirector delivers is given to `serve` in a thread, each datagram flow to `answer` on the loop's.
2. The labs of tests/redirect do the rest: a namespace for those that need one, the filter for seccomp, a
   control group for ebpf.
3. `outlived` runs a client whose engine is killed on the way.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "redirect"))  # for the labs

import ebpf_lab
import redirect_lab
import seccomp_lab

from pytest_netcapture.redirect import ebpf_probing, plumbing, seccomp_probing, tproxy
from pytest_netcapture.redirect.base import Verdict
from pytest_netcapture.redirect.tproxy import TproxyRedirector
from pytest_netcapture.sandbox import capabilities, kernel

REDIRECTORS = ("tproxy", "tun", "seccomp", "ebpf")
PLACED = ("seccomp", "ebpf")
"""Those that need no namespace."""

LIMIT = 30
WAIT = redirect_lab.WAIT


def probe(name):
    """Return what the redirector says about this machine."""
    from pytest_netcapture.redirect import tun_probing

    probing = {
        "tproxy": tproxy,
        "tun": tun_probing,
        "seccomp": seccomp_probing,
        "ebpf": ebpf_probing,
    }
    return probing[name].probe()


def echo(stream):
    """Send back what comes, end when the client does."""
    while data := stream.socket.recv(65536):
        stream.socket.sendall(data)
    stream.socket.close()


def echo_datagrams(flow):
    flow.reply(flow.first)
    flow.listen(flow.reply)


class _Serving:
    """The sink's half that is the same for all: mixed into a lab."""

    def prepare(self):
        self.serve, self.answer = echo, echo_datagrams
        self.asked, self.opened, self.failures = [], [], []

    def connecting(self, syn):
        self.asked.append(syn)
        verdict = self.verdict(syn) if callable(self.verdict) else self.verdict
        if verdict is not None:
            syn.answer(verdict)

    def stream_opened(self, stream):
        stream.socket.settimeout(WAIT)
        self.opened.append(stream)
        threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream):
        try:
            self.serve(stream)
        except OSError as error:
            self.failures.append(error)

    def datagram_flow(self, flow):
        self.answer(flow)


class _Namespace(_Serving, redirect_lab.Lab):
    """tproxy and tun: the main thread is the client."""

    def __init__(self, kind):
        self.prepare()
        super().__init__(kind=kind)

    def run(self, client):
        return client()

    def start(self, client, keep=()):
        if os.fork():
            return
        for number in map(int, os.listdir("/proc/self/fd")):  # what dies with the engine
            if number > 2 and number not in keep:
                with contextlib.suppress(OSError):
                    os.close(number)
        client()
        os._exit(0)

    def owner(self, protocol, client, server):
        inode = self.redirector.owners.inode(self.space.id, protocol, client, server)
        return self.redirector.owners.find_process(inode, [os.getpid()], os.getpid()).pid

    def elsewhere(self, client):
        """Run a client in another place."""
        redirect_lab.unshare(redirect_lab.k.CLONE_NEWNET)
        space = redirect_lab.Space(2)
        self.redirector.attach(space)
        self.call(self.redirector.watch, space)
        return client()

    @property
    def where(self):
        return self.space

    def stop(self):
        self.call(self.redirector.stop)


class _Filter(_Serving, seccomp_lab.Lab):
    """seccomp: the client is a child."""

    def __init__(self):
        self.prepare()
        super().__init__()

    def run(self, client):
        return super().run(client)

    elsewhere = run

    def start(self, client, keep=()):
        del keep
        return super().start(client)

    def owner(self, protocol, client, server):
        del server
        return self.redirectors[0].owner(protocol, client)[1]

    def stop(self):
        self.call(lambda: [redirector.stop() for redirector in self.redirectors])


class _Group(_Serving, ebpf_lab.Lab):
    """ebpf: the client is a child in a control group, which whoever forked us has made.

    Client and engine are in a network of their own, where a server is at every address: it is what clients
    get when they are not captured.
    """

    group_of_all = None

    def __init__(self):
        self.prepare()
        redirect_lab.unshare(redirect_lab.k.CLONE_NEWNET)
        plumbing.lay((), plumbing.LINKS, plumbing.first_unprivileged_port())
        self._real = socket.create_server(("", 8443)), socket.socket(type=socket.SOCK_DGRAM)
        self._real[1].bind(("", 53))
        super().__init__(group=_Group.group_of_all)

    def run(self, client):
        return self.start(client).result()

    elsewhere = run

    def start(self, client, keep=()):
        del keep
        return super().start(client)

    def owner(self, protocol, client, server):
        del server
        return self.redirector.owner(protocol, client)[1]

    def left_alone(self, syn):
        return False

    def stop(self):
        self.call(self.redirector.stop)


def make(name):
    """Return a lab for the redirector of that name, in this process."""
    if name == "ebpf":
        return _Group()
    if name == "seccomp":
        return _Filter()
    if name == "tproxy":
        return _Namespace(TproxyRedirector)
    from pytest_netcapture.redirect.tun import TunRedirector

    return _Namespace(TunRedirector)


def attempt(name, behaviour):
    """Try a behaviour in a process of its own; return "" or what went wrong."""
    reader, writer = os.pipe()
    _Group.group_of_all = ebpf_lab.Group() if name == "ebpf" else None
    pid = os.fork()
    if not pid:
        os.close(reader)
        os.setsid()
        _child(name, behaviour, writer)
    os.close(writer)
    told = _read(reader)
    _end(pid)
    if _Group.group_of_all is not None:
        _Group.group_of_all.close()
    return pickle.loads(told) if told else f"no word after {LIMIT} s"


def _child(name, behaviour, writer):
    told = ""
    try:
        if os.getuid() and name not in PLACED:
            redirect_lab.enter_user_namespace()
            capabilities.raise_ambient((kernel.CAP_NET_ADMIN,))
        if behaviour.alone:
            behaviour.body(name)
        else:
            behaviour.body(make(name))
    except BaseException:
        told = traceback.format_exc()
    os.write(writer, pickle.dumps(told))
    os._exit(0)


def _read(reader):
    poll = select.poll()
    poll.register(reader, select.POLLIN | select.POLLHUP)
    data = b""
    while poll.poll(LIMIT * 1000):
        piece = os.read(reader, 1 << 16)
        data += piece
        try:
            pickle.loads(data)
        except (pickle.UnpicklingError, EOFError):
            if piece:
                continue
        break
    os.close(reader)
    return data


def _end(pid):
    """End the whole session of a child: a client may be left waiting."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def outlived(name, client):
    """Return what `client(until_dead)` returns; the engine dies while it waits in that."""
    (told, tell), (ready, say), (go, let) = os.pipe(), os.pipe(), os.pipe()
    engine = os.fork()
    if not engine:
        lab = make(name)

        def until_dead():
            os.write(say, b"r")
            os.read(go, 1)

        def body():
            signal.alarm(LIMIT)
            try:
                result = client(until_dead)
            except BaseException:
                result = traceback.format_exc()
            os.write(tell, pickle.dumps(result))
            os._exit(0)

        lab.start(body, keep=(tell, say, go))
        signal.pause()
    assert os.read(ready, 1) == b"r"
    os.kill(engine, signal.SIGKILL)
    os.waitpid(engine, 0)
    os.write(let, b"g")
    return pickle.loads(os.read(told, 1 << 16))


def tcp(address, timeout=WAIT):
    conn = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    conn.settimeout(timeout)
    conn.connect(address)
    return conn


def udp(address, timeout=WAIT):
    conn = socket.socket(
        socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM
    )
    conn.settimeout(timeout)
    conn.connect(address)
    return conn


def outcome(act):
    """Return 0, or the errno of what `act` raises."""
    try:
        act()
    except TimeoutError as error:
        return error.errno or -1
    except OSError as error:
        return error.errno
    return 0


__all__ = [
    "REDIRECTORS",
    "Verdict",
    "attempt",
    "echo",
    "make",
    "outcome",
    "outlived",
    "probe",
    "tcp",
    "udp",
]
