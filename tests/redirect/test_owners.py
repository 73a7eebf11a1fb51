"""Owners and find_process, live."""

import os
import socket
import subprocess
import sys

import pytest
from redirect_lab import isolated, tcp, udp

from pytest_netcapture.flows import Process
from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect.base import Verdict
from pytest_netcapture.redirect.processes import find_process

pytestmark = pytest.mark.live
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP


def inode_of(conn):
    return os.fstat(conn.fileno()).st_ino


def start(script, *arguments, **options):
    """Run Python code that says a line when it is ready, then waits for its standard input."""
    return subprocess.Popen(
        [sys.executable, "-c", f"import socket, sys, os\n{script}\nprint('ready', flush=True)\nsys.stdin.read()", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


@pytest.mark.parametrize("server", [("8.8.8.8", 443), ("2606:4700::1111", 443), ("127.0.0.1", 1)])
@isolated
def test_tcp_while_connecting_and_after(lab, server):
    lab.needs_gate()
    lab.verdict = None
    client = socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET)
    client.setblocking(False)
    client.connect_ex(server)
    syn = lab.syn()
    ask = lambda: lab.redirector.owners.inode(lab.space.id, TCP, syn.client, syn.original_dst)
    assert ask() == inode_of(client)
    lab.call(syn.answer, Verdict.ACCEPT)
    lab.stream()
    assert ask() == inode_of(client)
    client.close()
    assert ask() == 0


@isolated
def test_tcp_over_a_mapped_address(lab):
    client = socket.socket(socket.AF_INET6)
    client.connect(("::ffff:8.8.8.8", 443))
    stream = lab.stream()
    owners = lab.redirector.owners
    assert owners.inode(1, TCP, stream.client, stream.original_dst) == inode_of(client)


@pytest.mark.parametrize("server", [("8.8.8.8", 53), ("2606:4700::1111", 53), ("127.0.0.53", 53)])
@pytest.mark.parametrize("connected", [True, False])
@isolated
def test_udp(lab, server, connected):
    client = udp(socket.AF_INET6 if ":" in server[0] else socket.AF_INET)
    if connected:
        client.connect(server)
        client.send(b"x")
    else:
        client.sendto(b"x", server)
    flow = lab.flow()
    owners = lab.redirector.owners
    assert owners.inode(1, UDP, flow.client, flow.original_dst) == inode_of(client)


@isolated
def test_what_is_not_there_is_nought(lab):
    owners = lab.redirector.owners
    for protocol in (TCP, UDP):
        assert owners.inode(1, protocol, ("192.0.2.1", 1), ("8.8.8.8", 2)) == 0
        assert owners.inode(99, protocol, ("192.0.2.1", 1), ("8.8.8.8", 2)) == 0
    assert owners.sockets_left(99) == 0


@isolated
def test_counts_what_is_left(lab):
    left = lambda: lab.redirector.owners.sockets_left(lab.space.id)
    assert left() == 0
    client = tcp(("8.8.8.8", 443))
    stream = lab.stream()
    assert left() == 1
    client.close()
    assert left() == 0
    stream.socket.close()
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert left() == 1
        with tcp(server.getsockname()):
            server.accept()[0].close()
    assert left() == 0
    with udp() as asker:
        asker.sendto(b"?", ("8.8.8.8", 53))
        lab.flow()
        assert left() == 1
    assert left() == 0


@isolated
def test_the_engines_dials_are_not_left(lab):
    def dial():
        conn = socket.socket()
        conn.setsockopt(socket.SOL_SOCKET, k.SO_MARK, k.ENGINE_MARK)
        conn.connect(server.getsockname())
        return conn

    with socket.create_server(("127.0.0.1", 0)) as server, lab.space.run(dial):
        assert lab.redirector.owners.sockets_left(lab.space.id) == 1


@isolated
def test_finds_this_process(lab):
    client = tcp(("8.8.8.8", 443))
    process = find_process(inode_of(client), [], os.getpid())
    assert process.pid == os.getpid()
    with open("/proc/self/cmdline") as file:
        assert "\0".join(process.command) == file.read().rstrip("\0")


@isolated
def test_finds_a_child(lab):
    child = start("conn = socket.create_connection(('8.8.8.8', 443))", "an argument")
    stream = lab.stream()
    inode = lab.redirector.owners.inode(1, TCP, stream.client, stream.original_dst)
    for hints in ([], [os.getpid()], [child.pid], [0, 1 << 22]):
        process = lab.redirector.owners.find_process(inode, hints, os.getpid())
        assert process.pid == child.pid
        assert process.name == os.path.basename(sys.executable)
        assert process.command[0] == sys.executable
        assert process.command[-1] == "an argument"
    child.communicate()


@isolated
def test_finds_a_grandchild_and_one_whose_parent_is_gone(lab):
    script = """
conn = socket.create_connection(('8.8.8.8', 443))
if sys.argv[1] == 'orphan':
    parent = os.pidfd_open(os.getpid())
    if os.fork(): os._exit(0)
    select.select([parent], [], [])
"""
    for kind in ("child", "orphan"):
        command = [
            sys.executable,
            "-c",
            f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', sys.argv[1], {kind!r}])",
        ]
        code = f"import select, socket, sys, os\n{script}\nprint(os.getpid(), flush=True)\nsys.stdin.read()"
        with subprocess.Popen([*command, code], stdin=-1, stdout=-1, text=True) as middle:
            stream = lab.stream()
            pid = int(middle.stdout.readline())
            inode = lab.redirector.owners.inode(1, TCP, stream.client, stream.original_dst)
            assert find_process(inode, [], os.getpid()).pid == pid
            middle.stdin.close()


@isolated
def test_of_those_that_share_a_socket_the_maker_is_named(lab):
    client = tcp(("8.8.8.8", 443))
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    for hints in ([], [child], [os.getpid()]):
        assert find_process(inode_of(client), hints, os.getpid()).pid == os.getpid()
    inode = inode_of(client)
    client.close()
    assert find_process(inode, [], os.getpid()).pid == child
    os.close(writer)
    os.waitpid(child, 0)
    assert find_process(inode, [child], os.getpid()) == Process()


def test_nobody():
    assert find_process(0, [], os.getpid()) == Process()
    assert find_process(1 << 40, [], os.getpid()) == Process()
