"""What targets see when they are diverted: what they would see without; and what is left alone."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
from ebpf_lab import (
    ATTACHED,
    HOME,
    OUTSIDE,
    OUTSIDE_V6,
    WAIT,
    Group,
    Lab,
    Program,
    Real,
    needs_ebpf,
)

from pytest_netcapture.redirect.base import Verdict
from pytest_netcapture.redirect.ebpf_programs import Programs

pytestmark = pytest.mark.live


@pytest.fixture(scope="module", autouse=True)
def _needs_ebpf():
    needs_ebpf()


@pytest.fixture
def lab():
    made = Lab()
    yield made
    made.close()


def exchange(address=OUTSIDE, family=socket.AF_INET):
    """Connect, send, receive; return what came and both names."""
    with socket.socket(family) as sock:
        sock.settimeout(WAIT)
        sock.connect(address)
        sock.sendall(b"question")
        return sock.recv(100), sock.getpeername()[:2], sock.getsockname()[:2]


def serve(lab, answer=b"answer"):
    stream = lab.stream()
    assert stream.socket.recv(100) == b"question"
    stream.socket.sendall(answer)
    stream.socket.close()
    return stream


def attempt(address, family=socket.AF_INET):
    with socket.socket(family) as sock:
        sock.settimeout(WAIT)
        return sock.connect_ex(address)


FAMILIES = [
    (socket.AF_INET, OUTSIDE, OUTSIDE),
    (socket.AF_INET6, OUTSIDE_V6, OUTSIDE_V6),
    (socket.AF_INET6, ("::ffff:198.51.100.7", 8080), OUTSIDE),
]


@pytest.mark.parametrize(("family", "address", "seen"), FAMILIES)
def test_a_connection_reaches_the_engine(lab, family, address, seen):
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
    _, process = lab.redirector.owner(socket.IPPROTO_TCP, stream.client)
    assert process == program.pid
    program.result()


@pytest.mark.parametrize(("family", "address", "seen"), FAMILIES)
@pytest.mark.parametrize(
    ("verdict", "number"),
    [(Verdict.REFUSE, errno.ECONNREFUSED), (Verdict.UNREACHABLE, errno.EHOSTUNREACH)],
)
def test_the_engine_decides_what_a_connect_gets(lab, verdict, number, family, address, seen):
    lab.verdict = verdict
    assert lab.run(lambda: attempt(address, family)) == number
    assert lab.syn().original_dst == seen


def test_a_connect_waits_for_the_engine_as_for_a_server(lab):
    lab.verdict = None

    def client():
        sock = socket.socket()
        sock.setblocking(False)
        first = sock.connect_ex(OUTSIDE)
        again = sock.connect_ex(OUTSIDE)
        _, writable, _ = select.select([], [sock], [], 0.05)
        os.write(writer, b"x")
        _, later, _ = select.select([], [sock], [], WAIT)
        return first, again, bool(writable), bool(later), sock.connect_ex(OUTSIDE)

    reader, writer = os.pipe()
    program = lab.start(client)
    syn = lab.syn()
    os.read(reader, 1)
    lab.answer(syn, Verdict.ACCEPT)
    assert program.result() == (errno.EINPROGRESS, errno.EALREADY, False, True, 0)
    os.close(reader)
    os.close(writer)


def test_silence_is_a_time_out_and_one_question(lab):
    lab.verdict = Verdict.DROP

    def client():
        with socket.socket() as sock:
            sock.settimeout(1.5)  # the kernel has asked twice
            try:
                sock.connect(OUTSIDE)
            except TimeoutError as error:
                return str(error)

    assert lab.run(client) == "timed out"
    lab.syn()
    lab.nothing_more()


def test_who_gives_up_while_the_engine_decides_leaves_an_ended_connection(lab):
    lab.verdict = None

    def client():
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.connect_ex(OUTSIDE)

    lab.run(client)
    lab.answer(lab.syn(), Verdict.ACCEPT)
    assert lab.stream().socket.recv(1) == b""


def test_whoever_dials_the_listener_itself_is_turned_away(lab):
    address = lab.redirector._streams.address(socket.AF_INET)
    with socket.create_connection(address, timeout=WAIT) as conn:
        assert conn.recv(1) == b""
    lab.nothing_more()


def test_who_is_outside_of_the_group_is_untouched():
    lab = Lab(capture_loopback=True)
    try:
        with Real() as real:
            assert lab.run(real.ask, outside=True) == b"real"
        lab.nothing_more()
    finally:
        lab.close()


def test_the_engine_is_no_target():
    """Here it is in the group that it captures, as it is when that is the machine's."""
    code = """
from ebpf_lab import Lab, Real
lab = Lab(capture_loopback=True)
lab.group.enter()
with Real() as real:
    assert real.ask() == b"real"
lab.nothing_more()
lab.call(lab.redirector.stop)
print("well", lab.group.path)
"""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert done.stdout.startswith("well"), done.stderr
    os.rmdir(done.stdout.split()[1])


def test_loopback_is_left_alone(lab):
    def client():
        server = socket.create_server(("127.0.0.1", 0))
        with server, socket.create_connection(server.getsockname()) as conn:
            accepted, peer = server.accept()
            accepted.close()
            return conn.getsockname() == peer, conn.getpeername() == server.getsockname()

    assert lab.run(client) == (True, True)
    lab.nothing_more()


def test_loopback_is_captured_when_asked_for():
    lab = Lab(capture_loopback=True)
    try:
        program = lab.start(lambda: exchange(("127.0.0.1", 9)))
        assert serve(lab).original_dst == ("127.0.0.1", 9)
        assert program.result()[:2] == (b"answer", ("127.0.0.1", 9))
    finally:
        lab.close()


def test_a_targets_server_is_reached_from_outside_of_the_group(lab):
    reader, writer = os.pipe()

    def serving():
        with socket.create_server(("127.0.0.1", 0)) as server:
            os.write(writer, str(server.getsockname()[1]).encode())
            conn, _ = server.accept()
            with conn:
                conn.sendall(conn.recv(10))

    program = lab.start(serving)
    with socket.create_connection(("127.0.0.1", int(os.read(reader, 10))), timeout=WAIT) as conn:
        conn.sendall(b"hello")
        assert conn.recv(10) == b"hello"
    program.result()
    os.close(reader)
    os.close(writer)
    lab.nothing_more()


def test_event_loops_are_served(lab):
    async def talk():
        reader, writer = await asyncio.open_connection(*OUTSIDE)
        writer.write(b"question")
        data = await reader.read(10)
        name = writer.get_extra_info("peername")
        writer.close()
        return data, name

    program = lab.start(lambda: asyncio.run(talk()))
    serve(lab)
    assert program.result() == (b"answer", OUTSIDE)


def test_many_at_once(lab):
    def client():
        found = []

        def one():
            found.append(exchange()[0])

        threads = [threading.Thread(target=one) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    program = lab.start(client)
    for _ in range(100):
        serve(lab)
    assert program.result() == [b"answer"] * 100


def test_the_machines_address_is_shown_where_it_has_one(lab):
    """Programs connect a UDP socket, which sends nothing, to learn which address they have."""

    def own():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("192.0.2.1", 9))
            return sock.getsockname()[0]

    try:
        expected = own()
    except OSError:
        expected = "127.0.0.1"  # no default route
    assert lab.run(own) == expected


# ── whom ─────────────────────────────────────────────────────────────────────────────────────────────────


def spawn(address):
    """Connect from a program of its own; return what it was told."""
    code = f"""
import socket
sock = socket.socket()
sock.settimeout({WAIT})
sock.connect({address!r})
sock.sendall(b"question")
print(sock.recv(100).decode())
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True).stdout.strip()


PYTHON = os.path.basename(os.path.realpath(sys.executable))


@pytest.fixture
def real():
    with Real() as made:
        yield made


@pytest.fixture
def ruled():
    made = []

    def make(rules):
        made.append(Lab(rules, capture_loopback=True))
        return made[-1]

    yield make
    for lab in made:
        lab.close()


@pytest.mark.parametrize(
    "rules",
    ["", PYTHON, f"nobody,{PYTHON}", "!nobody", f"!{PYTHON},{PYTHON}", "!nobody , ", "1"],
)
def test_who_is_named_is_captured(ruled, real, rules):
    lab = ruled(rules)
    program = lab.start(lambda: spawn(real.address))
    serve(lab)
    assert program.result() == b"answer"


@pytest.mark.parametrize(
    "rules", [f"!{PYTHON}", "nobody", f"{PYTHON},!{PYTHON}", PYTHON[:-1], "!1"]
)
def test_who_is_not_named_is_left_alone(ruled, real, rules):
    lab = ruled(rules)
    assert lab.run(lambda: spawn(real.address)) == b"real"
    lab.nothing_more()


def test_a_name_may_be_longer_than_the_kernels_own(ruled, real, tmp_path):
    long = tmp_path / "a-program-with-quite-a-long-name"
    other = tmp_path / "a-program-with-quite-another-name"
    for path in (long, other):
        shutil.copy(shutil.which("bash"), path)
    host, port = real.address
    talk = f"exec 3<>/dev/tcp/{host}/{port}; printf question >&3; read -r told <&3; echo $told"

    def ask(path):
        return subprocess.run([path, "-c", talk], capture_output=True).stdout.strip()

    lab = ruled(long.name)
    program = lab.start(lambda: ask(long))
    serve(lab, b"answer\n")
    assert program.result() == b"answer"
    assert lab.run(lambda: ask(other)) == b"real"
    lab.nothing_more()


def test_a_thread_that_has_another_name_belongs_to_its_process(ruled, real):
    code = f"""
import ctypes, socket, threading
def body():
    ctypes.CDLL(None).prctl(15, b"worker-7", 0, 0, 0)
    with socket.create_connection({real.address!r}) as sock:
        sock.sendall(b"question")
        print(sock.recv(100).decode())
thread = threading.Thread(target=body)
thread.start()
thread.join()
"""
    lab = ruled(PYTHON)
    program = lab.start(
        lambda: subprocess.run([sys.executable, "-c", code], capture_output=True).stdout
    )
    serve(lab)
    assert program.result() == b"answer\n"


def test_what_a_named_program_starts_is_captured_and_an_excluded_child_is_not(ruled, real):
    """Whatever names a process itself counts more than what names its parents."""
    host, port = real.address
    talk = f"exec 3<>/dev/tcp/{host}/{port}; printf question >&3; read -r told <&3; echo $told"

    def from_python():
        started = [sys.executable, "-c", f"import os; os.system('bash -c \\'{talk}\\'')"]
        return subprocess.run(started, capture_output=True).stdout.strip()

    lab = ruled(PYTHON)
    program = lab.start(from_python)
    serve(lab, b"answer\n")
    assert program.result() == b"answer"
    lab = ruled(f"!bash,{PYTHON}")
    assert lab.run(from_python) == b"real"
    lab.nothing_more()


class Held:
    """A program in a group that begins when it is let."""

    def __init__(self, body, group):
        self._reader, self._writer = os.pipe()

        def wait():
            os.read(self._reader, 1)
            return body()

        self.program = Program(wait, group)

    def go(self):
        os.write(self._writer, b"x")
        os.close(self._reader)
        os.close(self._writer)
        return self.program


def test_a_running_process_is_named_by_its_number(ruled, real):
    group = Group()
    try:
        held, other = (Held(lambda: spawn(real.address), group) for _ in range(2))
        lab = ruled(str(held.program.pid))
        lab.call(lab.redirector._programs.attach, group.path)
        program = held.go()
        serve(lab)
        assert program.result() == b"answer"
        assert other.go().result() == b"real"
        lab.nothing_more()
    finally:
        group.close()


def test_a_daemon_of_a_named_process_is_followed(ruled, real):
    """Its parents have ended, so that nothing but our notes leads to it."""
    group = Group()
    (hears, says), (waits, goes) = os.pipe(), os.pipe()

    def daemon():
        if os.fork():
            return os.wait()[1]
        os.setsid()
        first = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == first:
            os.sched_yield()
        os.write(says, b"%d" % os.getpid())
        os.read(waits, 1)
        exchange(real.address)
        os._exit(0)

    try:
        held = Held(daemon, group)
        lab = ruled(str(held.program.pid))
        lab.call(lab.redirector._programs.attach, group.path)
        program = held.go()
        number = int(os.read(hears, 20))
        members = lab.redirector._programs.maps["members"]
        while number not in {int.from_bytes(key, sys.byteorder) for key, _ in members.items()}:
            os.sched_yield()  # we note it a moment later than it is forked
        os.write(goes, b"!")
        serve(lab)
        assert program.result() == 0
    finally:
        group.close()
        for descriptor in (hears, says, waits, goes):
            os.close(descriptor)


def test_a_number_means_nothing_when_its_process_has_ended(ruled):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lab = ruled(str(child.pid))
    members = lab.redirector._programs.maps["members"]
    assert dict(members.items())
    child.communicate(b"\n", timeout=WAIT)
    for _ in range(1000):
        lab.call(lab.redirector._following._read)
        if not dict(members.items()):
            return
        select.select([], [], [], 0.01)
    pytest.fail("the number is still there")


# ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_stays_attached_when_the_engine_is_killed():
    group = Group()
    reader, writer = os.pipe()
    try:
        pid = os.fork()
        if not pid:
            programs = Programs.load()
            programs.attach(group.path)
            os.write(writer, b"x")
            signal.pause()
            os._exit(0)
        os.read(reader, 1)
        assert group.attached() == ATTACHED
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert group.attached() == 0
    finally:
        os.close(reader)
        os.close(writer)
        group.close()


def test_stopping_detaches_at_once(lab):
    assert lab.group.attached() == ATTACHED
    lab.call(lab.redirector.stop)
    assert lab.group.attached() == 0
