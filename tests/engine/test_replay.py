"""Recording and replay through a real engine, without pytest around it."""

import errno
import gzip
import os
import socket
import subprocess
import sys

import pytest
from engine_lab import answer, in_sandbox, reset, serving, settings

NAME = "api.example.com"
GET = b"GET /x HTTP/1.1\r\nHost: api.example.com\r\n\r\n"


def talk(data=GET, *, name=NAME, port=80, until_close=False):
    with socket.create_connection((name, port), timeout=10) as sock:
        sock.sendall(data)
        received = sock.recv(1 << 16)
        while until_close and (more := sock.recv(1 << 16)):
            received += more
        return received


def record(function, server, path, **options):
    return in_sandbox(
        function, settings(mappings=[f"{NAME}={server.at}"], cassette=path, **options)
    )


def play(function, path, **options):
    return in_sandbox(function, settings(cassette=path, mode="none", **options))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.cassette"


def test_what_was_recorded_is_played_without_a_server(path):
    with serving(answer()) as server:
        recorded = record(lambda _: talk(), server, path)
    played, origins = play(lambda s: (talk(), [f.origin.value for f in s.flows("http")]), path)
    assert played == recorded
    assert origins == ["played"]


def test_a_recording_is_played_once(path):
    with serving(answer()) as server:
        record(lambda _: talk(), server, path)

    def twice(sandbox):
        talk()
        with pytest.raises(ConnectionResetError):
            talk()
        (problem,) = sandbox.problems()
        return problem.kind, problem.reason

    assert play(twice, path) == ("unmatched", "used up: 1 of 1 recordings were played")


def test_a_refused_connection_is_refused_on_replay(path):
    def refused(_):
        with pytest.raises(OSError) as caught:
            talk(port=81)
        return caught.value.errno

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{closed.getsockname()[1]}"
    recorded = in_sandbox(refused, settings(mappings=[f"{NAME}={at}"], cassette=path))
    played, problems = play(lambda s: (refused(s), len(s.problems())), path)
    assert (recorded, played, problems) == (errno.ECONNREFUSED, errno.ECONNREFUSED, 0)


def test_a_reset_in_the_middle_of_a_body_is_played_as_one(path):
    def cut(conn):
        conn.recv(1000)
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        reset(conn)

    def half(_):
        with socket.create_connection((NAME, 80), timeout=10) as sock:
            sock.sendall(GET)
            data = sock.recv(1000)
            while not data.endswith(b"half"):
                data += sock.recv(1000)
            try:
                sock.recv(10)
            except ConnectionResetError:
                return data, "reset"
            return data, "end"

    with serving(cut) as server:
        recorded = record(half, server, path)
    assert recorded[1] == "reset"
    assert play(half, path) == recorded


def test_a_large_body_is_recorded_and_played_from_disk(path):
    body = os.urandom(3 << 20)

    def fetch(sandbox):
        data = talk(
            b"GET /big HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n",
            until_close=True,
        )
        (flow,) = sandbox.flows("http")
        return data.endswith(body), bool(flow.response.body.path)

    def handle(conn):
        conn.recv(1000)
        conn.sendall(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )

    with serving(handle) as server:
        assert record(fetch, server, path) == (True, True)
    assert play(fetch, path) == (True, True)


def test_a_coded_body_is_stored_plain_and_played_coded(path):
    plain = b"the same again. " * 100
    coded = gzip.compress(plain)

    def fetch(_):
        data = talk(
            b"GET /z HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n",
            until_close=True,
        )
        head, _, body = data.partition(b"\r\n\r\n")
        return b"gzip" in head, gzip.decompress(body)

    def handle(conn):
        conn.recv(1000)
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        conn.sendall(head % len(coded) + coded)

    with serving(handle) as server:
        assert record(fetch, server, path) == (True, plain)
    assert plain in path.read_bytes()
    assert play(fetch, path) == (True, plain)


def test_chunks_and_trailers_are_played_as_they_came(path):
    reply = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nConnection: close\r\n\r\n"
        b"5\r\nhello\r\n7\r\n, world\r\n0\r\nX-Sum: 12\r\n\r\n"
    )

    def handle(conn):
        conn.recv(1000)
        conn.sendall(reply)

    with serving(handle) as server:
        assert record(lambda _: talk(until_close=True), server, path) == reply
    assert play(lambda _: talk(until_close=True), path) == reply


def test_a_request_body_is_part_of_the_match(path):
    def post(body):
        return b"POST /p HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: %d\r\n\r\n%s" % (
            len(body),
            body,
        )

    def echo(conn):
        data = conn.recv(1000)
        while not data.partition(b"\r\n\r\n")[2]:
            data += conn.recv(1000)
        body = data.partition(b"\r\n\r\n")[2]
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    with serving(echo) as server:
        record(lambda _: (talk(post(b"one")), talk(post(b"two"))), server, path)
    second, first = play(lambda _: (talk(post(b"two")), talk(post(b"one"))), path)
    assert second.endswith(b"two")
    assert first.endswith(b"one")


def test_expect_100_continue_is_answered_on_replay(path):
    head = b"PUT /e HTTP/1.1\r\nHost: api.example.com\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"

    def upload(_):
        with socket.create_connection((NAME, 80), timeout=10) as sock:
            sock.sendall(head)
            interim = sock.recv(1000)
            sock.sendall(b"body")
            return interim, sock.recv(1000)

    def handle(conn):
        conn.recv(1000)
        conn.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        conn.recv(1000)
        conn.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with serving(handle) as server:
        recorded = record(upload, server, path)
    assert recorded == (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n")
    assert play(upload, path) == recorded


def test_a_client_that_waits_for_a_server_on_replay_is_told_in_time(path):
    with serving(answer()) as server:
        record(lambda _: talk(), server, path)

    def wait(sandbox):
        sock = socket.create_connection((NAME, 25), timeout=10)
        with sock, pytest.raises(ConnectionResetError):
            sock.recv(100)
        (problem,) = sandbox.problems()
        return problem.reason

    assert "waits for the server to speak first" in play(wait, path)


def test_what_is_not_http_is_unmatched_on_replay(path):
    with serving(answer()) as server:
        record(lambda _: talk(), server, path)

    def other(sandbox):
        with pytest.raises(ConnectionResetError):
            talk(b"PING\r\n", port=6379)
        return [p.kind for p in sandbox.problems()]

    assert play(other, path) == ["unmatched"]


def test_new_episodes_plays_what_it_knows_and_records_the_rest(path):
    with serving(answer(b"first")) as server:
        record(lambda _: talk(), server, path)

    def both(sandbox):
        known, new = talk(), talk(GET.replace(b"/x", b"/y"))
        return known[-5:], new[-6:], [f.origin.value for f in sandbox.flows("http")]

    with serving(answer(b"second")) as server:
        assert record(both, server, path, mode="new_episodes") == (
            b"first",
            b"second",
            ["played", "live"],
        )
    known, new, _ = play(both, path)
    assert (known, new) == (b"first", b"second")


def test_a_secret_set_while_the_test_runs_is_not_stored(path):
    def leak(_):
        os.environ["SOME_API_TOKEN"] = "zq81-plain-secret"
        return talk(b"GET /zq81-plain-secret HTTP/1.1\r\nHost: api.example.com\r\n\r\n")

    with serving(answer(b"you said zq81-plain-secret")) as server:
        assert record(leak, server, path).endswith(b"zq81-plain-secret")
    assert b"zq81" not in path.read_bytes()
    assert "zq81" not in (path.parent / "a.cassette.txt").read_text()
    assert b"HTTP/1.1 200 OK" in play(leak, path)


def test_a_child_that_outlives_a_replaying_test_does_not_reach_the_network(path):
    with serving(answer()) as server:
        record(lambda _: talk(), server, path)
        code = """
import socket, sys
sys.stdin.read(1)
try:
    socket.create_connection(("203.0.113.9", 80), timeout=10)
except ConnectionRefusedError:
    print("refused")
"""

        def client(sandbox):
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            child = subprocess.Popen([sys.executable, "-c", code], **pipes)
            sandbox.session.end(sandbox.scope)
            sandbox.scope = sandbox.session.begin("second", settings())
            said = child.communicate(b"x", timeout=20)[0]
            return said, [p.reason for p in sandbox.session.close().problems]

        wanted = settings(mappings=[f"203.0.113.9={server.at}"], cassette=path, mode="none")
        said, reasons = in_sandbox(client, wanted)
    assert said == b"refused\n"
    assert reasons == ["a test has ended, and it was on replay"]


def test_its_datagrams_do_not_either(path):
    with (
        serving(answer()) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
    ):
        sink.bind(("127.0.0.1", 0))
        sink.setblocking(False)
        record(lambda _: talk(), server, path)
        code = """
import socket, sys
sys.stdin.read(1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.sendto(b"after", ("203.0.113.9", 5000))
"""

        def client(sandbox):
            child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
            sandbox.session.end(sandbox.scope)
            sandbox.scope = sandbox.session.begin("second", settings())
            child.communicate(b"x", timeout=20)
            return [p.reason for p in sandbox.session.close().problems]

        at = f"127.0.0.1:{sink.getsockname()[1]}"
        wanted = settings(mappings=[f"203.0.113.9={at}"], cassette=path, mode="none")
        reasons = in_sandbox(client, wanted)
        with pytest.raises(BlockingIOError):
            sink.recv(100)
    assert reasons == ["a test has ended, and it was on replay"]


def test_two_runs_of_the_same_traffic_write_the_same_bytes(tmp_path):
    with serving(answer()) as server:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            record(
                lambda _: (talk(), talk(GET.replace(b"/x", b"/y"))),
                server,
                tmp_path / name / "a.cassette",
            )
    assert (tmp_path / "one/a.cassette").read_bytes() == (tmp_path / "two/a.cassette").read_bytes()


def test_a_look_whether_a_recorded_port_is_open_is_no_problem_on_replay(path):
    with serving(answer()) as server:
        record(lambda _: talk(), server, path)

    def look(sandbox):
        socket.create_connection((NAME, 80), timeout=10).close()
        talk()
        return len(sandbox.problems())

    assert play(look, path) == 0
