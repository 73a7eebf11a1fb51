"""Raw TCP through a real engine: recorded against a server, played without one."""

import contextlib
import os
import socket
import ssl
import threading

import msgspec
import pytest
from engine_lab import Authority, in_sandbox, reset, serving, settings

from pytest_netcapture.settings import CassetteUse, Filters, RecordMode, Repeat

NAME = "raw.example.com"
PORT = 7000


def record(function, server, path, mode="once", **options):
    mappings = [f"{NAME}={server.at}"]
    return in_sandbox(function, settings(mappings=mappings, cassette=path, mode=mode, **options))


def play(function, path, mode="none", **options):
    return in_sandbox(function, settings(cassette=path, mode=mode, **options))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.cassette"


def dial():
    return socket.create_connection((NAME, PORT), timeout=20)


def line(sock):
    data = b""
    while not data.endswith(b"\n"):
        piece = sock.recv(1)
        if not piece:
            return data + b"(end)"
        data += piece
    return data


def lines(answers=None, greeting=b""):
    """A server of a made-up protocol of lines: says `greeting`, then one answer to each line."""

    def handle(conn):
        conn.sendall(greeting)
        file = conn.makefile("rb")
        for asked in file:
            conn.sendall(answers(asked) if answers else b"re: " + asked)

    return handle


def ask(*questions, greeted=False):
    with dial() as sock:
        out = [line(sock)] if greeted else []
        for question in questions:
            sock.sendall(question)
            out.append(line(sock))
        sock.shutdown(socket.SHUT_WR)
        return [*out, sock.recv(10)]


def failing(*questions, **options):
    """Ask; return what came and the problems."""

    def attempt(sandbox):
        try:
            found = ask(*questions, **options)
        except OSError as error:
            found = type(error).__name__
        return found, [(p.kind, p.reason, p.differences) for p in sandbox.problems()]

    return attempt


def test_a_conversation_is_recorded_and_played(path):
    def talk(sandbox):
        answers = ask(b"one\n", b"two\n")
        (flow,) = sandbox.flows("tcp")
        sandbox.wait(lambda: sandbox.flows("tcp")[0].ended)
        (flow,) = sandbox.flows("tcp")
        said = [(m.sent, m.data) for m in flow.messages]
        return answers, said, flow.closed_by, flow.sent, flow.received, flow.origin.value

    with serving(lines()) as server:
        *recorded, origin = record(talk, server, path)
    assert origin == "live"
    assert recorded[0] == [b"re: one\n", b"re: two\n", b""]
    assert recorded[1:] == [
        [(True, b"one\n"), (False, b"re: one\n"), (True, b"two\n"), (False, b"re: two\n")],
        "client",
        8,
        16,
    ]
    *played, origin = play(talk, path)
    assert (played, origin) == (recorded, "played")


def test_segments_mean_nothing(path):
    with serving(lines()) as server:
        record(lambda _: ask(b"a longer line\n"), server, path)

    def in_pieces(sandbox):
        with dial() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b"a longer line\n":
                sock.sendall(bytes([byte]))
            return line(sock), sandbox.problems()

    assert play(in_pieces, path) == (b"re: a longer line\n", [])


def test_a_server_that_speaks_first(path):
    def talk(sandbox):
        return ask(b"hello\n", greeted=True), sandbox.problems()

    with serving(lines(greeting=b"hello there\n")) as server:
        recorded = record(talk, server, path)
    assert recorded == ([b"hello there\n", b"re: hello\n", b""], [])
    assert play(talk, path) == recorded


def test_another_byte_fails_with_both_sides(path):
    with serving(lines()) as server:
        record(lambda _: ask(b"SET colour blue\n"), server, path)
    found, ((kind, reason, differences),) = play(failing(b"SET colour bluE\n"), path)
    assert found in ("ConnectionResetError", [b"(end)", b""])
    assert (kind, reason) == (
        "unmatched",
        "byte 14 of what the client says is not the recorded one",
    )
    hexadecimal, text = differences
    assert hexadecimal.field == "hex from byte 6"
    assert hexadecimal.recorded == "6c 6f 75 72 20 62 6c 75 65 0a"
    assert hexadecimal.actual == "6c 6f 75 72 20 62 6c 75 45 0a"
    assert (text.recorded, text.actual) == ("lour blue.", "lour bluE.")


def test_one_message_more_one_fewer_another_order(path):
    with serving(lines()) as server:
        record(lambda _: ask(b"one\n", b"two\n"), server, path)
    _, ((_, reason, _),) = play(failing(b"one\n", b"two\n", b"three\n"), path)
    assert reason == "the client says more than the 8 bytes that it said when recorded"
    _, ((_, reason, _),) = play(failing(b"one\n"), path)
    assert reason == "the client ended after 4 of the 8 bytes that it said when recorded"
    _, ((_, reason, _),) = play(failing(b"two\n", b"one\n"), path)
    assert reason == "byte 0 of what the client says is not the recorded one"


def test_connections_are_told_apart_by_what_they_say(path):
    def numbers(asked):
        return b"%d\n" % (int(asked.split()[1]) * 2)

    with serving(lines(numbers, greeting=b"hi\n")) as server:
        record(lambda _: [ask(b"x %d\n" % n, greeted=True) for n in range(5)], server, path)

    def mixed(sandbox):
        socks = [dial() for _ in range(5)]
        out = [line(sock) for sock in socks]
        for number, sock in zip((3, 0, 4, 1, 2), socks, strict=True):
            sock.sendall(b"x %d\n" % number)
            out.append(line(sock))
        for sock in socks:
            sock.close()
        return out, sandbox.problems()

    assert play(mixed, path) == (
        [b"hi\n"] * 5 + [b"%d\n" % (2 * n) for n in (3, 0, 4, 1, 2)],
        [],
    )


def test_used_up(path):
    with serving(lines()) as server:
        record(lambda _: ask(b"one\n"), server, path)

    def twice(sandbox):
        ask(b"one\n")
        with contextlib.suppress(OSError):
            ask(b"one\n")
        return [p.reason for p in sandbox.problems()]

    assert play(twice, path) == ["used up: 1 of 1 recordings were played"]


def test_a_server_that_resets_in_the_middle(path):
    def handle(conn):
        conn.recv(100)
        conn.sendall(b"half")
        reset(conn)

    def talk(sandbox):
        with dial() as sock:
            sock.sendall(b"ask\n")
            data = b""
            try:
                while piece := sock.recv(100):
                    data += piece
            except ConnectionResetError:
                data += b"(reset)"
        sandbox.wait(lambda: sandbox.flows("tcp")[0].ended)
        (flow,) = sandbox.flows("tcp")
        return data, flow.error.kind, flow.error.after, flow.closed_by, sandbox.problems()

    with serving(handle) as server:
        recorded = record(talk, server, path)
    assert recorded == (b"half(reset)", "reset", 4, "server", [])
    assert play(talk, path) == recorded


def test_a_half_closed_side_is_kept(path):
    def upper(conn):
        data = b""
        while piece := conn.recv(100):
            data += piece
        conn.sendall(data.upper())

    def talk(sandbox):
        with dial() as sock:
            sock.sendall(b"all of it")
            sock.shutdown(socket.SHUT_WR)
            data = b""
            while piece := sock.recv(100):
                data += piece
        return data, sandbox.problems()

    with serving(upper) as server:
        recorded = record(talk, server, path)
    assert recorded == (b"ALL OF IT", [])
    assert play(talk, path) == recorded


def test_a_large_conversation(path):
    body = os.urandom(3 << 20)

    def handle(conn):
        size = 0
        while size < len(body):
            size += len(conn.recv(1 << 16))
        conn.sendall(body[::-1])

    def talk(sandbox):
        with dial() as sock:
            sock.sendall(body)
            data = b""
            while piece := sock.recv(1 << 16):
                data += piece
        sandbox.wait(lambda: sandbox.flows("tcp")[0].ended)
        (flow,) = sandbox.flows("tcp")
        return data == body[::-1], flow.sent_bytes == body, bool(flow.outgoing.path)

    with serving(handle) as server:
        assert record(talk, server, path) == (True, True, True)
    assert play(talk, path) == (True, True, True)


def test_a_connection_that_stays_open_is_recorded(path):
    def talk(sandbox):
        sandbox.kept = dial()
        sandbox.kept.sendall(b"one\n")
        answer = line(sandbox.kept)
        (flow,) = sandbox.flows("tcp")
        return answer, flow.sent_bytes, sandbox.problems()

    with serving(lines()) as server:
        recorded = record(talk, server, path)
    assert recorded == (b"re: one\n", b"one\n", [])
    assert play(talk, path) == recorded


def test_what_varies_is_learned_from_a_second_recording(path):
    def stamped(stamp):
        def talk(sandbox):
            return ask(b"time 17000%05d of day\n" % stamp), [p.reason for p in sandbox.problems()]

        return talk

    with serving(lines()) as server:
        record(stamped(1), server, path)
        (reason,) = play(lambda s: failing(b"time 1700000002 of day\n")(s)[1], path)
        assert reason[1] == "byte 14 of what the client says is not the recorded one"
        record(stamped(77), server, path, mode="all")
    assert play(stamped(12345), path) == ([b"re: time 1700012345 of day\n", b""], [])
    (reason,) = play(lambda s: failing(b"tame 1700000002 of day\n")(s)[1], path)
    assert reason[1] == "byte 1 of what the client says is not the recorded one"


def test_secrets_keep_their_length_and_are_not_compared(path, monkeypatch):
    monkeypatch.setenv("RAW_PASSWORD", "hunter2-hunter2")
    with serving(lines()) as server:
        record(lambda _: ask(b"login hunter2-hunter2 now\n"), server, path)
    assert b"hunter2" not in path.read_bytes()
    assert b"hunter2" not in (path.parent / "a.cassette.txt").read_bytes()
    monkeypatch.setenv("RAW_PASSWORD", "another-one-now")
    found = play(failing(b"login another-one-now now\n"), path)
    assert found[1] == []
    assert found[0][0].startswith(b"re: login scrubbed-")
    assert len(found[0][0]) == len(b"re: login hunter2-hunter2 now\n")


def test_new_episodes_goes_live_where_nothing_was_answered(path):
    with serving(lines()) as server:
        record(lambda _: ask(b"one\n"), server, path)
        talk = lambda s: (ask(b"one\n"), ask(b"once more\n"), s.problems())
        live = record(talk, server, path, mode="new_episodes")
        assert live == ([b"re: one\n", b""], [b"re: once more\n", b""], [])
        assert server.connections == 2
    assert play(talk, path) == live


def test_a_client_that_waits_in_the_middle_is_told(path):
    with serving(lines()) as server:
        record(lambda _: ask(b"a whole line\n"), server, path)

    def half(sandbox):
        with dial() as sock:
            sock.sendall(b"a whole")
            with pytest.raises(ConnectionResetError):
                sock.recv(10)
        return [p.reason for p in sandbox.problems()]

    assert play(half, path) == [
        "the client waits after 7 of the 13 bytes that it said when recorded"
    ]


def test_many_at_once(path):
    def many(sandbox):
        out = {}

        def one(number):
            out[number] = ask(b"n %d\n" % number, b"m %d\n" % number)

        threads = [threading.Thread(target=one, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(out.items()), sandbox.problems()

    with serving(lines()) as server:
        recorded = record(many, server, path)
    assert play(many, path) == recorded


def test_the_text_beside_it_reads_as_the_conversation(path):
    with serving(lines(lambda asked: b"\x00\x01" + asked, greeting=b"hello there\r\n")) as server:
        record(lambda _: ask(b"hello\n", greeted=True), server, path)
    text = (path.parent / "a.cassette.txt").read_text()
    assert text.partition(" TCP ")[2].splitlines()[1:] == [
        "  < [13 bytes]",
        "    hello there",
        "  > [6 bytes]",
        "    hello",
        "  < [8 bytes]",
        "    00 01 68 65 6c 6c 6f 0a                          ..hello.",
        "  > [fin]",
        "  < [fin]",
    ]


def test_a_server_that_resets_wherever_it_is(path):
    message = b"\x00\x0aten bytes."

    def handle(conn):
        (size,) = conn.recv(1)
        conn.sendall(message[:size])
        reset(conn)

    def each(sandbox):
        out = []
        for size in range(len(message) + 1):
            with dial() as sock:
                sock.sendall(bytes([size]))
                data = b""
                try:
                    while piece := sock.recv(100):
                        data += piece
                except ConnectionResetError:
                    data += b"(reset)"
                out.append(data)
        return out, sandbox.problems()

    with serving(handle) as server:
        recorded = record(each, server, path)
    # What the reset overtakes is lost, on any network; what came is what is played.
    assert all(each.endswith(b"(reset)") for each in recorded[0])
    assert play(each, path) == recorded


def test_a_client_that_resets(path):
    def talk(sandbox):
        sock = dial()
        sock.sendall(b"one\n")
        answer = line(sock)
        reset(sock)
        sandbox.wait(lambda: sandbox.flows("tcp")[0].ended)
        (flow,) = sandbox.flows("tcp")
        return answer, flow.closed_by, flow.turns[-1].end, sandbox.problems()

    with serving(lines()) as server:
        recorded = record(talk, server, path)
    assert recorded == (b"re: one\n", "client", "reset", [])
    assert play(talk, path) == recorded


@pytest.mark.parametrize("greeting", [b"", b"hello there\n"])
def test_what_tls_hides_is_taken_off(path, tmp_path, greeting):
    authority = Authority(tmp_path)

    def talk(sandbox):
        context = ssl.create_default_context()
        with context.wrap_socket(dial(), server_hostname=NAME) as tls:
            heard = line(tls) if greeting else b""
            tls.sendall(b"hello\n")
            heard += line(tls)
        sandbox.wait(lambda: sandbox.flows("tcp")[0].ended)
        return heard, sandbox.flows("tcp")[0].sent_bytes, sandbox.problems()

    with serving(lines(greeting=greeting), authority.context(NAME)) as server:
        recorded = record(talk, server, path, ca=[authority.file])
    assert recorded == (greeting + b"re: hello\n", b"hello\n", [])
    assert play(talk, path) == recorded


def test_a_place_that_is_known_by_address(path):
    def talk(sandbox):
        with socket.create_connection(("203.0.113.5", PORT), timeout=20) as sock:
            sock.sendall(b"hello\n")
            return line(sock), sandbox.problems()

    with serving(lines()) as server:
        wanted = settings(mappings=[f"203.0.113.5={server.at}"], cassette=path)
        recorded = in_sandbox(talk, wanted)
    assert play(talk, path) == recorded == (b"re: hello\n", [])


def test_repeats(path):
    with serving(lines()) as server:
        record(lambda _: [ask(b"one\n"), ask(b"two\n")], server, path)
    use = CassetteUse(str(path), RecordMode.NONE, Repeat.ANY)
    wanted = msgspec.structs.replace(settings(), cassette=use)
    found = in_sandbox(lambda s: ([ask(b"two\n") for _ in range(3)], s.problems()), wanted)
    assert found == ([[b"re: two\n", b""]] * 3, [])


def test_masks_that_are_given(path):
    with serving(lines()) as server:
        record(lambda _: ask(b"session=0123abcd now\n"), server, path)
    use = CassetteUse(str(path), RecordMode.NONE, filters=Filters(masks=(r"session=(\w{8})",)))
    wanted = msgspec.structs.replace(settings(), cassette=use)
    found = in_sandbox(failing(b"session=ffff7777 now\n"), wanted)
    assert found == ([b"re: session=0123abcd now\n", b""], [])


def test_tls_that_is_passed_through_says_so(path, tmp_path):
    authority = Authority(tmp_path)

    def talk(sandbox):
        context = ssl.create_default_context(cafile=authority.file)
        try:
            with context.wrap_socket(dial(), server_hostname=NAME) as tls:
                tls.sendall(b"hello\n")
                heard = line(tls)
        except OSError as error:
            heard = type(error).__name__
        return heard, [p.reason for p in sandbox.problems()]

    with serving(lines(), authority.context(NAME)) as server:
        assert record(talk, server, path, passthrough=[NAME]) == (b"re: hello\n", [])
    assert play(talk, path, passthrough=[NAME])[1] == [f"passthrough ({NAME})"]


def test_what_was_used_up_goes_live_where_it_may(path):
    """A server that speaks first is dialled before the client has said a word."""
    with serving(lines(greeting=b"hi\n")) as server:
        record(lambda _: ask(b"one\n", greeted=True), server, path)
        talk = lambda s: ([ask(b"one\n", greeted=True) for _ in range(2)], s.problems())
        live = record(talk, server, path, mode="new_episodes")
        assert live == ([[b"hi\n", b"re: one\n", b""]] * 2, [])
        assert server.connections == 2
    assert play(talk, path) == live


@pytest.mark.parametrize("greeting", [b"", b"welcome\n"])
def test_what_follows_an_upgrade(path, greeting):
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: lines\r\n\r\n"

    def handle(conn):
        conn.recv(1000)
        conn.sendall(switch)
        lines(greeting=greeting)(conn)

    def talk(sandbox):
        with dial() as sock:
            sock.sendall(
                b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: lines\r\n\r\n"
            )
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += sock.recv(1)
            heard = line(sock) if greeting else b""
            sock.sendall(b"hello\n")
            return head, heard, line(sock), sandbox.problems()

    with serving(handle) as server:
        recorded = record(talk, server, path)
    assert recorded == (switch, greeting, b"re: hello\n", [])
    assert play(talk, path) == recorded


@pytest.mark.parametrize("first", [b"P", b"\x00", b"\x16", b"GET"])
def test_a_few_bytes_that_may_begin_anything(path, first):
    """They are what a protocol that we know begins with, and the client waits for an answer."""

    def handle(conn):
        assert conn.recv(100) == first
        conn.sendall(b"?")

    def talk(sandbox):
        with dial() as sock:
            sock.sendall(first)
            return sock.recv(10), sandbox.problems()

    with serving(handle) as server:
        recorded = record(talk, server, path)
    assert recorded == (b"?", [])
    assert play(talk, path) == recorded
