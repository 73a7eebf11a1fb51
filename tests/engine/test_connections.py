"""Connections through the engine, from a real sandbox to real servers on the host's loopback."""

import errno
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from engine_lab import REDIRECTOR, answer, in_sandbox, reset, serving, settings

NAME = "api.example.com"
GET = b"GET /x HTTP/1.1\r\nHost: api.example.com\r\n\r\n"


def connect(name=NAME, port=80):
    return socket.create_connection((name, port), timeout=10)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def error_of(function):
    with pytest.raises(OSError) as caught:
        function()
    return caught.value.errno


def test_the_hosts_loopback_is_reached_and_left_alone():
    with serving(answer()) as server:

        def client(sandbox):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
                listed = [(str(f), f.reason) for f in sandbox.flows()]
                sock.sendall(GET)
                return sock.recv(1000), listed

        data, listed = in_sandbox(client)
    assert data.endswith(b"hello")
    assert listed == [(f"TCP 127.0.0.1:{server.port} (loopback)", "loopback")]


def test_loopback_is_captured_when_asked():
    with serving(answer()) as server:

        def client(sandbox):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
                sock.sendall(GET.replace(b"api.example.com", server.at.encode()))
                sock.recv(1000)
            return [str(f) for f in sandbox.flows("http")]

        assert in_sandbox(client, settings(capture_loopback=True)) == [
            f"GET http://{server.at}/x → 200"
        ]


def test_a_closed_loopback_port_is_refused():
    port = free_port()

    def client(sandbox):
        return error_of(lambda: connect("127.0.0.1", port)), [f.error.kind for f in sandbox.flows()]

    assert in_sandbox(client) == (errno.ECONNREFUSED, ["refused"])


def test_a_server_in_the_test_wins_over_the_hosts():
    with serving(answer(b"host")) as server:

        def client(sandbox):
            with (
                socket.create_server(("127.0.0.1", server.port)) as mine,
                connect("127.0.0.1", server.port),
            ):
                mine.settimeout(10)
                mine.accept()[0].close()
            return sandbox.flows()

        assert in_sandbox(client) == []
    assert server.connections == 0


def test_a_server_of_the_session_is_reached_from_the_test():
    def client(sandbox):
        sandbox.session.enter_home()
        listener = socket.create_server(("127.0.0.1", 0))
        sandbox.session.leave_home()
        listener.settimeout(10)
        with connect("127.0.0.1", listener.getsockname()[1]) as sock:
            accepted, _ = listener.accept()
            accepted.sendall(b"from the session")
            return sock.recv(100)

    assert in_sandbox(client) == b"from the session"


def test_a_server_of_the_test_is_reached_from_the_session():
    def client(sandbox):
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(10)
        sandbox.session.enter_home()
        sock = connect("127.0.0.1", listener.getsockname()[1])
        sandbox.session.leave_home()
        accepted, _ = listener.accept()
        accepted.sendall(b"from the test")
        return sock.recv(100)

    assert in_sandbox(client) == b"from the test"


def test_ipv6_loopback_falls_outward_too():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]

        def serve():
            with listener.accept()[0] as conn:
                conn.sendall(b"six")

        threading.Thread(target=serve, daemon=True).start()

        def client(_):
            with socket.create_connection(("::1", port), timeout=10) as sock:
                return sock.recv(10)

        assert in_sandbox(client) == b"six"


def test_no_address_but_loopback_is_dialled_here():
    def client(sandbox):
        return error_of(lambda: connect("203.0.113.9", 80)), [f.error.kind for f in sandbox.flows()]

    assert in_sandbox(client) == (errno.EHOSTUNREACH, ["unreachable"])


def test_a_mapped_address_and_port():
    with serving(answer(b"mapped")) as server:

        def client(sandbox):
            with connect("203.0.113.9", 8080) as sock:
                assert sock.getpeername() == ("203.0.113.9", 8080)
                sock.sendall(GET)
                return sock.recv(1000)

        assert in_sandbox(client, settings(mappings=[f"203.0.113.9:8080={server.at}"])).endswith(
            b"mapped"
        )


def test_both_families_of_a_mapped_name():
    with serving(answer()) as server:

        def client(_):
            found = socket.getaddrinfo(NAME, 80, type=socket.SOCK_STREAM)
            for family, kind, proto, _, address in found:
                with socket.socket(family, kind, proto) as sock:
                    sock.settimeout(10)
                    sock.connect(address)
            return sorted({family.name for family, *_ in found})

        assert in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"])) == [
            "AF_INET",
            "AF_INET6",
        ]


def test_a_flow_is_complete_when_the_client_has_its_answer():
    with serving(answer()) as server:

        def client(sandbox):
            with connect() as sock:
                seen = []
                for number in range(50):
                    sock.sendall(GET)
                    sock.recv(1000)
                    flows = sandbox.flows("http")
                    seen.append(
                        len(flows) == number + 1
                        and flows[-1].response is not None
                        and flows[-1].ended > 0
                    )
                return all(seen)

        assert in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"]))


def test_a_connection_is_listed_as_soon_as_connect_returns():
    with serving(answer()) as server:

        def client(sandbox):
            counts = []
            for number in range(30):
                with connect("127.0.0.1", server.port):
                    counts.append(len(sandbox.flows()) == number + 1)
            return all(counts)

        assert in_sandbox(client)


def test_a_reset_arrives_as_a_reset():
    with serving(lambda conn: (conn.recv(1000), reset(conn))) as server:

        def client(sandbox):
            with connect() as sock:
                sock.sendall(GET)
                number = error_of(lambda: sock.recv(1000))
            (flow,) = sandbox.wait(lambda: [f for f in sandbox.flows("http") if f.ended])
            return number, flow.error.kind

        assert in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"])) == (
            errno.ECONNRESET,
            "reset",
        )


def test_a_clients_reset_reaches_the_server():
    seen = []
    done = threading.Event()

    def handle(conn):
        try:
            while conn.recv(1000):
                pass
            seen.append("end")
        except ConnectionResetError:
            seen.append("reset")
        done.set()

    with serving(handle) as server:

        def client(sandbox):
            sock = connect("127.0.0.1", server.port)
            sock.sendall(b"x")
            reset(sock)
            sandbox.wait(lambda: sandbox.flows()[0].ended)

        in_sandbox(client)
        assert done.wait(10)
    assert seen == ["reset"]


def test_half_close_lets_the_answer_through():
    def handle(conn):
        data = b""
        while piece := conn.recv(1000):
            data += piece
        conn.sendall(b"got " + data)

    with serving(handle) as server:

        def client(_):
            with connect("127.0.0.1", server.port) as sock:
                sock.sendall(b"all")
                sock.shutdown(socket.SHUT_WR)
                return sock.recv(100), sock.recv(100)

        assert in_sandbox(client) == (b"got all", b"")


def test_a_server_that_speaks_first_is_relayed():
    with serving(
        lambda conn: (conn.sendall(b"+OK hi\r\n"), conn.sendall(conn.recv(100)))
    ) as server:

        def client(sandbox):
            with connect(port=25) as sock:
                greeting = sock.recv(100)
                sock.sendall(b"NOOP\r\n")
                echoed = sock.recv(100)
            (flow,) = sandbox.wait(lambda: [f for f in sandbox.flows("tcp") if f.ended])
            return greeting, echoed, flow.reason, flow.sent, flow.received

        found = in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"]))
    assert found == (b"+OK hi\r\n", b"NOOP\r\n", "the server spoke first", 6, 14)


def test_malformed_http_is_relayed_and_named():
    with serving(lambda conn: conn.sendall(b"I got " + conn.recv(100))) as server:

        def client(sandbox):
            with connect() as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
                data = sock.recv(100)
            return data, sandbox.wait(
                lambda: (
                    [f.error.kind for f in sandbox.flows("http") if f.error]
                    or [f.reason for f in sandbox.flows("tcp") if f.ended]
                )
            )

        data, said = in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"]))
    assert data.startswith(b"I got GET / HTTP/1.1")
    assert said


def test_a_slow_reader_gets_everything_and_memory_stays_bounded():
    size = 64 << 20
    piece = os.urandom(1 << 20)

    def handle(conn):
        conn.recv(1000)
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            conn.sendall(piece)

    with serving(handle) as server:

        def client(sandbox):
            with connect() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                sock.sendall(GET)
                received = 0
                while received < size:
                    data = sock.recv(1 << 16)
                    assert data
                    received += len(data)
            (flow,) = sandbox.flows("http")
            return flow.response.body.size, bool(flow.response.body.path)

        assert in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"])) == (size, True)


def test_a_blocked_connection_is_refused_and_a_problem():
    def client(sandbox):
        number = error_of(lambda: connect("203.0.113.9", 443))
        (problem,) = sandbox.problems()
        return number, problem.kind, str(problem.flow), problem.flow.process.pid == os.getpid()

    number, kind, flow, mine = in_sandbox(client, settings(block=True))
    assert (number, kind, mine) == (errno.ECONNREFUSED, "blocked", True)
    assert flow.startswith("TCP 203.0.113.9:443")


def test_a_child_process_is_named():
    with serving(answer()) as server:
        code = f"import urllib.request; urllib.request.urlopen('http://{NAME}/child').read()"

        def client(sandbox):
            child = subprocess.Popen([sys.executable, "-c", code])
            assert child.wait(20) == 0
            (flow,) = sandbox.flows("http")
            return flow.process.pid == child.pid, flow.process.command[1] == "-c"

        assert in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"])) == (True, True)


def test_a_pooled_connection_serves_the_test_that_runs():
    with serving(answer()) as server:
        wanted = settings(mappings=[f"{NAME}={server.at}"])

        def client(sandbox):
            sock = connect()
            sock.sendall(GET)
            sock.recv(1000)
            first = sandbox.scope
            sandbox.session.end(first)
            second = sandbox.session.begin("second", wanted)
            sandbox.scope = second
            sock.sendall(GET)
            sock.recv(1000)
            return [str(f) for f in second.flows()], second.flows()[0].late

        flows, late = in_sandbox(client, wanted)
    assert flows == ["GET http://api.example.com/x → 200"]
    assert not late


def test_a_child_that_outlives_its_test_is_late_and_not_the_next_tests():
    with serving(answer()) as server:
        wanted = settings(mappings=[f"{NAME}={server.at}"])
        code = f"""
import socket, sys
sys.stdin.read(1)
s = socket.create_connection(({NAME!r}, 80)); s.sendall({GET!r}); s.recv(1000)
"""

        def client(sandbox):
            child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
            first = sandbox.scope
            sandbox.session.end(first)
            second = sandbox.session.begin("second", wanted)
            child.communicate(b"x", timeout=20)
            late = [(str(f), f.late) for f in first.flows() if f.protocol == "http"]
            sandbox.scope = second
            return late, [str(f) for f in second.flows()]

        late, others = in_sandbox(client, wanted)
    assert late == [("GET http://api.example.com/x → 200", True)]
    assert others == []


def test_fifty_connections_at_once():
    with serving(answer()) as server:

        def client(sandbox):
            socks = [connect() for _ in range(50)]
            for sock in socks:
                sock.sendall(GET)
            answers = [sock.recv(1000) for sock in socks]
            return len([a for a in answers if a.endswith(b"hello")]), len(sandbox.flows("http"))

        assert in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"])) == (50, 50)


def test_a_port_that_opens_later_is_refused_until_then():
    def client(_):
        port = free_port()
        refused = [error_of(lambda: connect("127.0.0.1", port)) for _ in range(3)]
        with socket.create_server(("127.0.0.1", port)), connect("127.0.0.1", port):
            return refused

    assert in_sandbox(client) == [errno.ECONNREFUSED] * 3


def test_the_engine_killed_mid_test_stops_the_session_and_hangs_nothing():
    from pytest_netcapture.errors import EngineGone

    with serving(answer()) as server:

        def client(sandbox):
            sock = connect("127.0.0.1", server.port)
            os.kill(sandbox.session.engine_pid, 9)
            sock.settimeout(10)
            try:
                ended = sock.recv(10)
            except (ConnectionResetError, ConnectionAbortedError):
                ended = b""
            started = time.monotonic()
            number = error_of(lambda: connect("203.0.113.9", 80))
            quick = time.monotonic() - started < 5
            with pytest.raises(EngineGone) as caught:
                sandbox.scope.flows()
            os.write(2, b"")
            sandbox.session.end = lambda scope: None
            sandbox.session._runtime.remove()
            return ended, number, quick, "engine ended" in str(caught.value)

        gone = (
            errno.ENETUNREACH if REDIRECTOR == "tun" else errno.ECONNREFUSED
        )  # docs/redirectors.md
        assert in_sandbox(client) == (b"", gone, True, True)
