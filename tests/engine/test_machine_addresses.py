"""The machine's own addresses are there in a sandbox: to bind, and to reach its servers by."""

import contextlib
import errno
import socket

import pytest
from engine_lab import in_sandbox, settings

from pytest_netcapture.redirect.addresses import own_addresses

FAMILIES = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
both = pytest.mark.parametrize("family", FAMILIES)


def machine(family):
    found = [a for a in own_addresses() if (":" in a) == (family == socket.AF_INET6)]
    if not found:
        pytest.skip("not in CI: this machine has no address of that family but loopback")
    return found[0]


@contextlib.contextmanager
def serving(family, host):
    with socket.create_server((host, 0), family=family) as listener:
        listener.settimeout(10)
        yield listener, listener.getsockname()[1]


def talk(listener, address):
    with socket.create_connection(address, timeout=10) as client:
        with listener.accept()[0] as accepted:
            accepted.sendall(b"hello")
        return client.recv(10)


@both
def test_a_server_on_every_address_is_reached_by_the_machines(family):
    address = machine(family)

    def client(sandbox):
        with serving(family, FAMILIES[family]) as (listener, port):
            return talk(listener, (address, port)), [f.reason for f in sandbox.flows()]

    assert in_sandbox(client, settings(block=True)) == (b"hello", ["loopback"])


@both
def test_so_is_one_of_the_session(family):
    address = machine(family)

    def client(sandbox):
        sandbox.session.enter_home()
        with serving(family, FAMILIES[family]) as (listener, port):
            sandbox.session.leave_home()
            return talk(listener, (address, port))

    assert in_sandbox(client) == b"hello"


@both
def test_a_server_on_that_very_address_needs_no_engine(family):
    address = machine(family)

    def client(sandbox):
        with serving(family, address) as (listener, port):
            return talk(listener, (address, port)), sandbox.flows()

    assert in_sandbox(client) == (b"hello", [])


@both
def test_a_datagram_finds_it_too(family):
    address = machine(family)

    def client(_):
        with (
            socket.socket(family, socket.SOCK_DGRAM) as server,
            socket.socket(family, socket.SOCK_DGRAM) as asker,
        ):
            server.bind((FAMILIES[family], 0))
            asker.connect((address, server.getsockname()[1]))
            for one in (server, asker):
                one.settimeout(10)
            asker.send(b"question")
            data, sender = server.recvfrom(100)
            server.sendto(b"answer to " + data, sender)
            return asker.recv(100)

    assert in_sandbox(client) == b"answer to question"


@both
def test_with_nobody_there_it_is_blocked_as_any_host(family):
    address = machine(family)

    def client(sandbox):
        with pytest.raises(OSError) as caught:
            socket.create_connection((address, 1), timeout=10)
        return caught.value.errno, [p.kind for p in sandbox.problems()]

    assert in_sandbox(client, settings(block=True)) == (errno.ECONNREFUSED, ["blocked"])
