"""TCP under the filter: clients see what they would see without it, the engine gets their sockets."""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
from seccomp_lab import HOME, OUTSIDE, WAIT, Lab

from pytest_netcapture.redirect.base import Verdict

pytestmark = pytest.mark.live

OUTSIDE_V6 = ("2001:db8:1::7", 8080)


@pytest.fixture(params=["duplicated", "made", "replaced"])
def lab(request):
    """How the engine gets at sockets: clients cannot tell."""
    made = Lab(duplicates=request.param == "duplicated", makes_sockets=request.param == "made")
    yield made
    made.close()


def _needs_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no ::1")


def exchange(address=OUTSIDE, family=socket.AF_INET):
    """Connect, send, receive; return what came and both names."""
    with socket.socket(family) as sock:
        sock.connect(address)
        sock.sendall(b"question")
        return sock.recv(100), sock.getpeername()[:2], sock.getsockname()[:2]


def serve(lab, answer=b"answer"):
    stream = lab.stream()
    assert stream.socket.recv(100) == b"question"
    stream.socket.sendall(answer)
    stream.socket.close()
    return stream


@pytest.mark.parametrize(
    ("family", "address", "seen"),
    [
        (socket.AF_INET, OUTSIDE, OUTSIDE),
        (socket.AF_INET6, OUTSIDE_V6, OUTSIDE_V6),
        (socket.AF_INET6, ("::ffff:198.51.100.7", 8080), OUTSIDE),
    ],
)
def test_a_connection_reaches_the_engine(lab, family, address, seen):
    if family == socket.AF_INET6:
        _needs_ipv6()
    program = lab.start(lambda: exchange(address, family))
    stream = serve(lab)
    answer, peer, name = program.result()
    assert answer == b"answer"
    assert peer == address
    assert stream.original_dst == seen
    assert stream.namespace == HOME
    assert stream.client[1] == name[1]


def test_its_process_is_known(lab):
    program = lab.start(exchange)
    stream = serve(lab)
    program.result()
    inode, process = lab.redirectors[0].owner(socket.IPPROTO_TCP, stream.client)
    assert process == program.pid
    assert inode


def test_a_child_and_a_thread_are_captured_too(lab):
    def function():
        found = []
        thread = threading.Thread(target=lambda: found.append(exchange()[0]))
        thread.start()
        thread.join()
        code = f"import socket; s = socket.create_connection({OUTSIDE!r}); s.sendall(b'question'); print(s.recv(9).decode())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return found, done.stdout

    program = lab.start(function)
    first, second = serve(lab), serve(lab)
    assert program.result() == ([b"answer"], "answer\n")
    owners = [lab.redirectors[0].owner(socket.IPPROTO_TCP, s.client)[1] for s in (first, second)]
    assert owners[0] == program.pid != owners[1]


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize(
    ("verdict", "number"),
    [
        (Verdict.REFUSE, errno.ECONNREFUSED),
        (Verdict.UNREACHABLE, errno.EHOSTUNREACH),
    ],
)
def test_a_refusal_is_exact(lab, verdict, number, blocking):
    lab.verdict = verdict

    def function():
        with socket.socket() as sock:
            sock.setblocking(blocking)
            return sock.connect_ex(OUTSIDE)

    assert lab.run(function) == number


def test_after_a_refusal_the_same_socket_may_connect(lab):
    verdicts = iter([Verdict.REFUSE, Verdict.ACCEPT])
    lab.verdict = lambda _: next(verdicts)

    def function():
        with socket.socket() as sock:
            first = sock.connect_ex(OUTSIDE)
            second = sock.connect_ex(OUTSIDE)
            sock.sendall(b"question")
            return first, second, sock.recv(10), sock.connect_ex(OUTSIDE)

    program = lab.start(function)
    serve(lab)
    assert program.result() == (errno.ECONNREFUSED, 0, b"answer", errno.EISCONN)


def _poll(sock, events, milliseconds=WAIT * 1000):
    poll = select.poll()
    poll.register(sock, events)
    return [event for _, event in poll.poll(milliseconds)]


def test_a_connect_that_may_not_wait_is_under_way_and_then_writable(lab):
    lab.verdict = None

    def function():
        with socket.socket() as sock:
            sock.setblocking(False)
            first = sock.connect_ex(OUTSIDE)
            before = _poll(sock, select.POLLOUT, 0)
            second = sock.connect_ex(OUTSIDE)
            with pytest.raises(OSError, match="not connected"):
                sock.getpeername()
            os.write(asked, b"x")
            after = _poll(sock, select.POLLOUT)
            state = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            sock.setblocking(True)
            sock.sendall(b"question")
            return first, before, second, after, state, sock.recv(10), sock.getpeername()

    reader, asked = os.pipe()
    program = lab.start(function)
    syn = lab.syn()
    os.read(reader, 1)
    lab.answer(syn, Verdict.ACCEPT)
    serve(lab)
    assert program.result() == (
        errno.EINPROGRESS,
        [],
        errno.EALREADY,
        [select.POLLOUT],
        0,
        b"answer",
        OUTSIDE,
    )


def test_a_parked_connection_is_completed_at_once(lab):
    """Not with the next SYN, a second later."""
    lab.verdict = None

    def function():
        with socket.socket() as sock:
            sock.connect(OUTSIDE)
            return time.monotonic()

    program = lab.start(function)
    syn = lab.syn()
    lab.call(lambda: None)
    time_answered = time.monotonic()
    lab.answer(syn, Verdict.ACCEPT)
    lab.stream().socket.close()
    assert program.result() - time_answered < 0.9


def test_a_late_refusal_arrives(lab):
    """When the call is no longer held: with the next SYN, and as what it is."""
    lab.verdict = None

    def function():
        with socket.socket() as sock:
            sock.setblocking(False)
            first = sock.connect_ex(OUTSIDE)
            os.write(asked, b"x")
            _poll(sock, select.POLLOUT)
            return first, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    reader, asked = os.pipe()
    program = lab.start(function)
    syn = lab.syn()
    os.read(reader, 1)
    lab.answer(syn, Verdict.REFUSE)
    assert program.result() == (errno.EINPROGRESS, errno.ECONNREFUSED)


def test_a_refusal_while_a_blocking_call_is_held_is_not_late(lab):
    lab.verdict = None

    def function():
        with socket.socket() as sock:
            number = sock.connect_ex(OUTSIDE)
            return number, time.monotonic()

    program = lab.start(function)
    lab.answer(lab.syn(), Verdict.REFUSE)
    answered = time.monotonic()
    number, at = program.result()
    assert number == errno.ECONNREFUSED
    assert at - answered < 0.9


def test_silence_is_silence(lab):
    lab.verdict = Verdict.DROP

    def function():
        with socket.socket() as sock:
            sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                sock.connect(OUTSIDE)
            return True

    assert lab.run(function)


def test_a_send_timeout_ends_a_blocking_connect():
    lab = Lab()
    lab.verdict = Verdict.DROP

    def function():
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 200_000))
            return sock.connect_ex(OUTSIDE)

    assert lab.run(function) == errno.EINPROGRESS
    lab.close()


def test_a_signal_interrupts_a_connect(lab):
    """And the connection goes on by itself, as connect(2) says of EINTR."""
    lab.verdict = None

    class Rang(Exception):
        pass

    def ring(*_):
        raise Rang

    def function():
        signal.signal(signal.SIGUSR1, ring)
        with socket.socket() as sock:
            with pytest.raises(Rang):
                sock.connect(OUTSIDE)
            os.write(rang, b"x")
            writable = _poll(sock, select.POLLOUT)
            sock.sendall(b"question")
            return writable, sock.recv(10)

    reader, rang = os.pipe()
    program = lab.start(function)
    syn = lab.syn()
    os.kill(program.pid, signal.SIGUSR1)
    os.read(reader, 1)
    lab.answer(syn, Verdict.ACCEPT)
    serve(lab)
    assert program.result() == ([select.POLLOUT], b"answer")


def test_a_restarted_connect_goes_on(lab):
    """A handler with SA_RESTART, as Go's scheduler has: the call comes again, and succeeds."""
    lab.verdict = None

    def function():
        signal.signal(signal.SIGUSR1, lambda *_: os.write(rang, b"x"))
        signal.siginterrupt(signal.SIGUSR1, False)
        return exchange()[0]

    reader, rang = os.pipe()
    program = lab.start(function)
    syn = lab.syn()
    os.kill(program.pid, signal.SIGUSR1)
    # Python's handler runs when the call has returned: what matters is that it came again.
    lab.answer(syn, Verdict.ACCEPT)
    serve(lab)
    assert program.result() == b"answer"
    assert os.read(reader, 1)


def test_a_program_that_gave_up_leaves_a_closed_connection(lab):
    lab.verdict = None

    def function():
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.connect_ex(OUTSIDE)
        return True

    program = lab.start(function)
    syn = lab.syn()
    assert program.result()
    lab.answer(syn, Verdict.ACCEPT)
    assert lab.stream().socket.recv(1) == b""


def test_an_end_passes_both_ways(lab):
    def function():
        with socket.socket() as sock:
            sock.connect(OUTSIDE)
            sock.sendall(b"question")
            sock.shutdown(socket.SHUT_WR)
            return sock.recv(10), sock.recv(10)

    program = lab.start(function)
    stream = lab.stream()
    assert stream.socket.recv(100) == b"question"
    assert stream.socket.recv(100) == b""
    stream.socket.sendall(b"answer")
    stream.socket.close()
    assert program.result() == (b"answer", b"")


def test_a_closed_client_is_seen_at_once(lab):
    """No duplicate of ours keeps its connection open."""

    def function():
        with socket.socket() as sock:
            sock.connect(OUTSIDE)
        os.read(reader, 1)  # the process stays
        return True

    reader, writer = os.pipe()
    program = lab.start(function)
    assert lab.stream().socket.recv(1) == b""
    os.write(writer, b"x")
    assert program.result()


def test_file_flags_stay(lab):
    def function():
        with socket.socket() as sock:
            sock.set_inheritable(True)
            sock.setblocking(False)
            sock.connect_ex(OUTSIDE)
            return os.get_inheritable(sock.fileno()), os.get_blocking(sock.fileno())

    program = lab.start(function)
    lab.stream().socket.close()
    assert program.result() == (True, False)


@pytest.mark.parametrize("made", [False, True])
def test_options_stay_and_so_does_the_place_in_an_epoll_set(made):
    lab = Lab(duplicates=not made, makes_sockets=made)

    def function():
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            epoll = select.epoll()
            epoll.register(sock, select.EPOLLOUT | select.EPOLLET)
            sock.setblocking(False)
            sock.connect_ex(OUTSIDE)
            epoll.poll(WAIT)
            return sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), sock.getpeername()

    program = lab.start(function)
    lab.stream().socket.close()
    assert program.result() == (1, OUTSIDE)
    lab.close()


def test_a_bound_socket_keeps_its_port():
    lab = Lab()

    def function():
        with socket.socket() as sock:
            sock.bind(("0.0.0.0", 0))
            bound = sock.getsockname()[1]
            sock.connect(OUTSIDE)
            return bound, sock.getsockname()[1]

    program = lab.start(function)
    stream = lab.stream()
    bound, connected = program.result()
    assert bound == connected == stream.client[1]
    lab.close()


def test_loopback_is_left_alone(lab):
    """A server of the program's own: the kernel connects, and a closed port refuses."""

    def function():
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            client.connect(server.getsockname())
            accepted, peer = server.accept()
            names = client.getpeername(), client.getsockname() == peer
            accepted.close()
            server.close()
            with socket.socket() as other:
                return names, other.connect_ex(names[0])

    (peer, same), number = lab.run(function)
    assert peer[0] == "127.0.0.1"
    assert same
    assert number == errno.ECONNREFUSED
    assert [lab.left.get(timeout=WAIT).original_dst for _ in range(2)] == [peer, peer]
    lab.nothing_more()


def test_loopback_is_captured_when_the_engine_wants_it(lab):
    lab.alone = False
    program = lab.start(lambda: exchange(("127.0.0.1", 4)))
    assert serve(lab).original_dst == ("127.0.0.1", 4)
    assert program.result()[1] == ("127.0.0.1", 4)


def test_a_name_server_is_never_left_alone(lab):
    lab.redirectors.clear()
    local = Lab(name_servers=("127.0.0.53",))
    program = local.start(lambda: exchange(("127.0.0.53", 53)))
    assert serve(local).original_dst == ("127.0.0.53", 53)
    program.result()
    local.close()


def test_unix_sockets_are_left_alone(lab, tmp_path):
    path = str(tmp_path / "socket")

    def function():
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind(path)
            server.listen()
            client.connect(path)
            return server.accept()[0].getsockname()

    assert lab.run(function) == path
    lab.nothing_more()


def test_who_tells_names_without_a_packet_is_refused(lab):
    def function():
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex("/run/systemd/resolve/io.systemd.Resolve")

    assert lab.run(function) == errno.ECONNREFUSED


def test_ways_past_connect_are_shut(lab):
    def function():
        with socket.socket() as sock, pytest.raises(OSError) as fast:
            sock.sendto(b"x", socket.MSG_FASTOPEN, OUTSIDE)
        libc = __import__("ctypes").CDLL(None, use_errno=True)
        ring = libc.syscall(425, 1, bytes(120)), __import__("ctypes").get_errno()
        return fast.value.errno, ring

    assert lab.run(function) == (errno.EOPNOTSUPP, (-1, errno.ENOSYS))
    lab.nothing_more()


def test_other_protocols_do_not_leave(lab):
    def function():
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        except PermissionError:
            try:
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
            except PermissionError:
                pytest.skip("not in CI: nobody may send pings here")
        with sock, pytest.raises(PermissionError):
            sock.sendto(b"\x08\x00\xf7\xff\x00\x00\x00\x00", ("198.51.100.7", 0))
        return True

    assert lab.run(function)


def test_a_bad_address_is_the_kernels_to_refuse(lab):
    def function():
        ctypes = __import__("ctypes")
        libc = ctypes.CDLL(None, use_errno=True)
        with socket.socket() as sock:
            libc.connect(sock.fileno(), ctypes.c_void_p(1), 16)
            fault = ctypes.get_errno()
            address = socket.AF_INET.to_bytes(2, "little") + bytes(14)
            libc.connect(sock.fileno(), address, 4)
            short = ctypes.get_errno()
        libc.connect(999, address, 16)
        return fault, short, ctypes.get_errno()

    assert lab.run(function) == (errno.EFAULT, errno.EINVAL, errno.EBADF)
    lab.nothing_more()


def test_the_wrong_family_is_the_kernels_to_refuse(lab):
    _needs_ipv6()

    def function():
        ctypes = __import__("ctypes")
        libc = ctypes.CDLL(None, use_errno=True)
        address = struct.pack("=H2s4s8x", socket.AF_INET, b"\0\x50", b"\xc6\x33\x64\x07")
        with socket.socket(socket.AF_INET6) as sock:
            libc.connect(sock.fileno(), address.ljust(28, b"\0"), 28)
            return ctypes.get_errno()

    assert lab.run(function) == errno.EAFNOSUPPORT
    lab.nothing_more()


def test_many_at_the_same_time(lab):
    count = 60

    def function():
        socks = [socket.socket() for _ in range(count)]
        for sock in socks:
            sock.setblocking(False)
            sock.connect_ex(OUTSIDE)
        for sock in socks:
            _poll(sock, select.POLLOUT)
            sock.setblocking(True)
            sock.sendall(sock.getsockname()[1].to_bytes(2, "big"))
        answers = [sock.recv(2) for sock in socks]
        names = [sock.getsockname()[1].to_bytes(2, "big") for sock in socks]
        return answers == names

    lab.verdict = None
    program = lab.start(function)
    for syn in [lab.syn() for _ in range(count)]:
        lab.answer(syn, Verdict.ACCEPT)
    for _ in range(count):
        stream = lab.stream()
        data = stream.socket.recv(2)
        assert int.from_bytes(data, "big") == stream.client[1]
        stream.socket.sendall(data)
    assert program.result()


def test_who_cannot_be_looked_into_is_refused_and_told():
    class Forbidden:
        def read(self, *_):
            raise PermissionError(errno.EPERM, "no")

        write = duplicate = read

    lab = Lab(memory=Forbidden())

    def function():
        with socket.socket() as sock, socket.socket(socket.AF_UNIX) as other:
            return sock.connect_ex(OUTSIDE), other.connect_ex("/nobody/is/here")

    program = lab.start(function)
    assert program.result() == (errno.EACCES, errno.ENOENT)
    assert lab.unreadable_ones.get(timeout=WAIT) == (HOME, program.pid)
    lab.close()


def test_an_undumpable_program_is_refused_and_told(lab):
    if os.geteuid() == 0:
        pytest.skip("not in CI: root looks into everything")

    def function():
        __import__("ctypes").CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE
        with socket.socket() as sock:
            return sock.connect_ex(OUTSIDE)

    program = lab.start(function)
    assert program.result() == errno.EACCES
    assert lab.unreadable_ones.get(timeout=WAIT)[1] == program.pid


def test_a_dead_supervisor_means_enosys(lab):
    def function():
        with socket.socket() as sock:
            os.write(ready, b"x")
            os.read(reader, 1)
            return sock.connect_ex(OUTSIDE)

    told, ready = os.pipe()
    reader, writer = os.pipe()
    program = lab.start(function)
    os.read(told, 1)
    lab.call(lab.redirectors[0].stop)
    os.write(writer, b"x")
    assert program.result() == errno.ENOSYS


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not here")
def test_curl(lab):
    def function():
        command = ["curl", "-sS", "--max-time", "9", f"http://{OUTSIDE[0]}:{OUTSIDE[1]}/"]
        command += ["-w", "%{remote_ip}:%{remote_port} %{local_ip}"]
        return subprocess.run(command, capture_output=True, text=True).stdout

    program = lab.start(function)
    stream = lab.stream()
    assert stream.socket.recv(1000).startswith(b"GET / HTTP/1.1\r\n")
    stream.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi ")
    told = program.result()
    assert told.startswith("hi 198.51.100.7:8080 ")


@pytest.fixture(scope="session")
def go_client(tmp_path_factory):
    if not shutil.which("go"):
        pytest.skip("go is not installed")
    folder = tmp_path_factory.mktemp("go")
    (folder / "main.go").write_text(_GO)
    cache = os.path.expanduser("~/.cache/go-build")
    writable = os.access(os.path.expanduser("~"), os.W_OK)
    environment = os.environ | {
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=mod",
        "GOCACHE": cache if writable else str(folder / "cache"),
    }
    command = ["go", "build", "-o", str(folder / "client"), str(folder / "main.go")]
    subprocess.run(command, env=environment, cwd=folder, check=True)
    return str(folder / "client")


def test_a_static_go_binary(lab, go_client):
    lab.verdict = None

    def function():
        command = [go_client, f"{OUTSIDE[0]}:{OUTSIDE[1]}"]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout + done.stderr

    running = lab.start(function)
    lab.answer(lab.syn(), Verdict.ACCEPT)
    serve(lab)
    assert running.result() == "198.51.100.7:8080 answer"


_GO = """
package main

import (
	"fmt"
	"net"
	"os"
)

func main() {
	conn, err := net.Dial("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	conn.Write([]byte("question"))
	buffer := make([]byte, 100)
	n, err := conn.Read(buffer)
	if err != nil {
		panic(err)
	}
	fmt.Print(conn.RemoteAddr(), " ", string(buffer[:n]))
}
"""
