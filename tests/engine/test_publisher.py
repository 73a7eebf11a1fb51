"""Ports of the host that lead into a sandbox, tried from the host: by a courier that is told where."""

import contextlib
import socket
import subprocess
import sys
import threading

import pytest
from engine_lab import in_sandbox, serving, settings

from pytest_netcapture.capture import Netcapture
from pytest_netcapture.errors import UsageError
from pytest_netcapture.redirect.kernel import OWN_V4


def courier(conn):
    """Connect, on the host, to the port that it is told; pass on bytes and what went wrong."""
    port = int(conn.makefile().readline())
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as inside:
            inside.sendall(b"knock knock")
            with contextlib.suppress(OSError):  # reset already, which reading tells
                inside.shutdown(socket.SHUT_WR)
            while data := inside.recv(65536):
                conn.sendall(data)
    except OSError as error:
        conn.sendall(type(error).__name__.encode())


def ask(couriers, port):
    """Send the courier to `port` and return what it brings back."""
    with socket.create_connection(("127.0.0.1", couriers.port), timeout=10) as conn:
        conn.sendall(b"%d\n" % port)
        return b"".join(iter(lambda: conn.recv(65536), b""))


@contextlib.contextmanager
def welcoming(host="127.0.0.1", answer=b"who is there?"):
    """Serve one guest at a time in the namespace of the calling thread; yield the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                with listener.accept()[0] as guest:
                    heard = b"".join(iter(lambda guest=guest: guest.recv(100), b""))
                    guest.sendall(heard + b": " + answer)

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::", OWN_V4])
def test_the_host_reaches_a_server_of_the_test(host):
    with serving(courier) as couriers:

        def client(sandbox):
            with welcoming(host) as port:
                outside = Netcapture(sandbox.scope).publish(port)
                told = [ask(couriers, outside) for _ in range(3)]
            return told, {flow.port for flow in sandbox.flows()}

        told, seen = in_sandbox(client, settings(block=True))
    assert told == [b"knock knock: who is there?"] * 3
    assert seen == {couriers.port}, "what the outside does is not the test's traffic"


def test_a_server_of_the_session_and_of_a_program():
    code = """if True:
        import socket, sys
        listener = socket.create_server(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)
        guest = listener.accept()[0]
        guest.recv(100)
        guest.sendall(b"program")
    """
    with serving(courier) as couriers:

        def client(sandbox):
            netcapture = Netcapture(sandbox.scope)
            sandbox.session.enter_home()
            with welcoming(answer=b"session") as port:
                sandbox.session.leave_home()
                told = [ask(couriers, netcapture.publish(port))]
            program = netcapture.popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
            told.append(ask(couriers, netcapture.publish(int(program.stdout.readline()))))
            program.wait(10)
            return told

        assert in_sandbox(client) == [b"knock knock: session", b"program"]


def test_the_port_may_be_chosen_and_published_before_anybody_listens():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = socket.create_server(("127.0.0.1", 0))
        chosen = free.getsockname()[1]
        free.close()
        with serving(courier) as couriers:

            def client(sandbox):
                netcapture = Netcapture(sandbox.scope)
                with welcoming() as port:
                    pass
                outside = netcapture.publish(port, host_port=chosen)
                early = ask(couriers, outside)
                with pytest.raises(UsageError) as refused:
                    netcapture.publish(port, host_port=taken.getsockname()[1])
                listener = socket.create_server(("127.0.0.1", port))
                listener.close()
                return outside, early, str(refused.value)

            outside, early, refused = in_sandbox(client)
    assert outside == chosen
    assert early == b"ConnectionResetError"
    assert "somebody listens there already" in refused


def test_it_ends_with_the_test():
    with serving(courier) as couriers:

        def client(sandbox):
            outside = Netcapture(sandbox.scope).publish(80)
            sandbox.session.end(sandbox.scope)
            sandbox.scope = sandbox.session.begin("second", settings())
            return ask(couriers, outside)

        assert in_sandbox(client) == b"ConnectionRefusedError"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"port": 0}, "port"),
        ({"port": "80"}, "port"),
        ({"port": 80, "host_port": 70000}, "host_port"),
    ],
)
def test_what_is_no_port_is_named(given, named):
    with pytest.raises(UsageError, match=rf"netcapture.publish: {named}: .* is not a port"):
        Netcapture(None).publish(given.pop("port"), **given)
