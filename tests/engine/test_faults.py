"""Faults through a real engine: what clients see, and what is on the wire."""

import contextlib
import errno
import os
import re
import socket
import ssl
import struct
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import h2.connection
import pytest
from building import needs
from engine_lab import PLAIN, answer, in_sandbox, serving, settings

from pytest_netcapture import UsageError
from pytest_netcapture.capture import Netcapture

HOST = "api.nowhere.example"
URL = f"http://{HOST}/x"
PROGRAMS = Path(__file__).parent / "fault_programs"
BODY = b"0123456789" * 100


def faulty(function, wanted=PLAIN):
    """Run `function(netcapture, sandbox)` in a sandbox with `wanted` settings."""
    return in_sandbox(lambda sandbox: function(Netcapture(sandbox.scope), sandbox), wanted)


def python(url, timeout=20):
    """Return what urllib makes of it: status and body, or the errno or exception's name."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as reply:
            return f"{reply.status} {len(reply.read())}"
    except urllib.error.HTTPError as error:
        return str(error.code)
    except urllib.error.URLError as error:
        return _named(error.reason)
    except Exception as error:
        return _named(error)


def _named(error):
    number = getattr(error, "errno", None)
    if isinstance(error, socket.gaierror):
        return f"gaierror {number}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return errno.errorcode.get(number) or type(error).__name__


def curl(url, timeout=20):
    done = subprocess.run(
        ["curl", "-sS", "-f", "-m", str(timeout), "-w", "%{http_code} %{size_download}", url],
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    return f"({done.returncode}) {done.stderr.strip()}" if done.returncode else "good"


@pytest.fixture(scope="session")
def go(builder):
    environ = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOPROXY": "off"}
    if not os.access(os.path.expanduser("~"), os.W_OK):
        environ["GOCACHE"] = str(builder.directory / "go-cache")
    source = str(PROGRAMS / "get.go")
    path = builder.build("fault-go", [needs("go"), "build", "-o", "fault-go", source], environ)

    def get(url, timeout=20):
        done = subprocess.run(
            [path, url, f"{timeout}s"], capture_output=True, text=True, timeout=30
        )
        return done.stdout.strip()

    return get


S = "https"
RESET_OVER_TLS = "RemoteDisconnected|IncompleteRead"
"""Python's ssl takes a reset for an end (seen with a plain server, too); http tells."""
FAULTS = {
    # name: (fault, scheme, Python, curl's status and words, Go)
    "refuse": (lambda f: f().refuse(), S, "ECONNREFUSED", r"\(7\)", "connection refused"),
    "unreachable": (lambda f: f().unreachable(), S, "EHOSTUNREACH", r"\(7\)", "no route to host"),
    "blackhole": (lambda f: f().blackhole(), S, "TimeoutError", r"\(28\)", "i/o timeout|deadline"),
    "silent request": (
        lambda f: f(path="/x").blackhole(),
        S,
        "TimeoutError",
        r"\(28\)",
        "deadline exceeded",
    ),
    "reset": (
        lambda f: f().reset(),
        S,
        RESET_OVER_TLS,
        r"\(56\).*reset by peer",
        "connection reset by peer",
    ),
    "reset, plain": (
        lambda f: f().reset(),
        "http",
        "ECONNRESET",
        r"\(56\).*reset by peer",
        "connection reset by peer",
    ),
    "reset in the body": (
        lambda f: f().reset(after_bytes=100),
        S,
        RESET_OVER_TLS,
        r"\(56\).*reset by peer",
        "after 100: .*connection reset by peer",
    ),
    "reset in the body, plain": (
        lambda f: f().reset(after_bytes=100),
        "http",
        "ECONNRESET",
        r"\(56\).*reset by peer",
        "after 100: .*connection reset by peer",
    ),
    "truncate": (
        lambda f: f().truncate(after_bytes=100),
        S,
        "IncompleteRead",
        r"\((18|56)\)",
        "after 100: unexpected EOF",
    ),
    "status": (lambda f: f().status(503), S, "503", r"\(22\).*503", "503 0"),
    "expired": (
        lambda f: f().tls_error("expired"),
        S,
        "certificate has expired",
        r"\(60\).*expired",
        "certificate has expired",
    ),
    "wrong host": (
        lambda f: f().tls_error("wrong_host"),
        S,
        f"Hostname mismatch, certificate is not valid for '{HOST}'.",
        r"\(60\).*no alternative certificate subject name matches",
        "certificate is valid for wrong.host.invalid, not",
    ),
    "untrusted": (
        lambda f: f().tls_error("untrusted"),
        S,
        "unable to get local issuer certificate|self-signed",
        r"\(60\)",
        "signed by unknown authority",
    ),
    "nxdomain": (lambda f: f().dns_error("nxdomain"), S, "gaierror -2", r"\(6\)", "no such host"),
    "servfail": (
        lambda f: f().dns_error("servfail"),
        S,
        "gaierror -3",
        r"\(6\)",
        "server misbehaving",
    ),
}


@pytest.mark.parametrize("client", ["python", "curl", "go"])
@pytest.mark.parametrize("name", FAULTS)
def test_what_clients_see(name, client, request):
    """There is a mock behind each: it shows that the fault struck, and that it would have worked."""
    strike, scheme, *seen = FAULTS[name]
    get = request.getfixturevalue("go") if client == "go" else globals()[client]
    timeout = 1 if name in ("blackhole", "silent request") else 20

    def check(netcapture, sandbox):
        netcapture.mock("GET", host=HOST).respond(content=BODY)
        strike(lambda **criteria: netcapture.fault(host=HOST, **criteria))
        got = get(f"{scheme}://{HOST}/x", timeout)
        noted = sandbox.wait(lambda: [flow.fault for flow in netcapture.flows if flow.fault])
        return got, noted, [p.reason for p in sandbox.problems()]

    got, noted, problems = faulty(check)
    assert re.search(seen[("python", "curl", "go").index(client)], got), got
    assert noted
    assert problems == []


def test_a_question_without_an_answer_times_out():
    """resolv.conf's options bound how long libc asks."""

    def check(netcapture, _):
        netcapture.fault(host=HOST).dns_error("timeout")
        got = curl(URL, 1)
        return got, {(f.fault, f.error.kind) for f in netcapture.dns}

    got, noted = faulty(check)
    assert got.startswith("(28)")
    assert noted == {("dns_error timeout", "timeout")}


def test_one_look_up_of_both_families_is_one_chance():
    def check(netcapture, _):
        netcapture.mock(host=HOST)
        netcapture.fault(host=HOST).dns_error("nxdomain", times=1)
        return python(URL), python(URL)

    assert faulty(check) == ("gaierror -2", "200 0")


def served(function, **options):
    """Run `function(netcapture, sandbox)` where HOST is a live server that answers BODY."""
    with serving(answer(BODY)) as server:
        return faulty(function, settings(mappings=[f"{HOST}={server.at}"], **options))


@pytest.mark.parametrize("how", ["live", "played"])
def test_answers_are_spoilt_wherever_they_come_from(how, tmp_path):
    """Mocked ones are in the table above."""
    path = tmp_path / "a.cassette"

    def check(netcapture, sandbox):
        netcapture.fault(path="/x").truncate(after_bytes=100, times=1)
        netcapture.fault(path="/x").reset(after_bytes=200, times=1)
        seen = [python(URL), python(URL), python(URL)]
        return seen, [flow.fault for flow in netcapture.http], len(sandbox.problems())

    if how == "played":
        served(lambda *_: [python(URL) for _ in range(3)], cassette=path)
        got = faulty(check, settings(cassette=path, mode="none"))
    else:
        got = served(check)
    seen = ["IncompleteRead", "ECONNRESET", "200 1000"]
    assert got == (seen, ["truncate after 100 bytes", "reset after 200 bytes", ""], 0)


def test_what_a_fault_has_struck_is_not_recorded(tmp_path):
    path = tmp_path / "a.cassette"

    def check(netcapture, sandbox):
        netcapture.fault(path="/x").status(500)
        python(URL)
        return python(f"http://{HOST}/y"), sandbox.scope.cassette().recorded

    _, recorded = served(check, cassette=path)
    assert recorded
    assert b"/y" in path.read_bytes()
    assert b"/x" not in path.read_bytes()


@pytest.mark.parametrize("raw", [False, True])
def test_a_reset_is_a_packet_with_the_flag_set_and_comes_after_the_data(raw):
    """What AF_PACKET sees in the test's own namespace (packet(7))."""
    if os.geteuid():
        pytest.skip("needs real root to capture packets")

    def banner(conn):
        conn.sendall(BODY)
        conn.recv(1)

    def check(netcapture, _):
        netcapture.fault(host=HOST, port=80).reset(after_bytes=100)
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as tap:
            tap.setblocking(False)
            with socket.create_connection((HOST, 80), timeout=20) as sock:
                ours = sock.getsockname()[1]
                if not raw:
                    sock.sendall(f"GET /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
                received = b""
                with pytest.raises(ConnectionResetError):
                    while True:
                        received += sock.recv(100)
            return received.rpartition(b"\r\n\r\n")[2], packets(tap, ours)

    with serving(banner if raw else answer(BODY)) as server:
        received, seen = faulty(check, settings(mappings=[f"{HOST}={server.at}"]))
    assert received == BODY[:100]
    assert [flags for flags in seen if flags & (RST | FIN)] == [RST | ACK]
    assert seen[-1] & RST


FIN, RST, ACK = 1, 4, 16


def packets(tap, port):
    """Return the flags of the TCP segments to `port` that are waiting, in their order."""
    flags = []
    with contextlib.suppress(BlockingIOError):
        while True:
            packet, (_, _, kind, *_) = tap.recvfrom(1 << 16)
            if kind == socket.PACKET_OUTGOING:  # on lo each is seen twice
                continue
            start = 40 if packet[0] >> 4 == 6 else (packet[0] & 15) * 4
            if struct.unpack_from("!H", packet, start + 2) == (port,):
                flags.append(packet[start + 13])
    return flags


@pytest.mark.parametrize("order", [["/y", "/x"], ["/x", "/y"]])
def test_http2_answers_are_cut_off_too(order):
    """Whatever other streams do: the connection ends after the 100th byte of one."""

    def check(netcapture, _):
        netcapture.mock(path="/x").respond(content=BODY)
        netcapture.mock(path="/y").respond(content=b"other")
        netcapture.fault(path="/x").reset(after_bytes=100)
        client = h2.connection.H2Connection()
        client.initiate_connection()
        for stream, path in zip((1, 3), order, strict=True):
            head = {":method": "GET", ":scheme": "http", ":authority": HOST, ":path": path}
            client.send_headers(stream, list(head.items()), end_stream=True)
        received = b""
        with socket.create_connection((HOST, 80), timeout=20) as sock:
            sock.sendall(client.data_to_send())
            with pytest.raises(ConnectionResetError):
                while True:
                    received += sock.recv(1 << 16)
        return received

    received = faulty(check)
    assert (b"other" in received) is (order == ["/y", "/x"])
    assert received.endswith(BODY[:100])
    assert not received.endswith(BODY[:110])


def test_one_byte_is_inverted():
    def check(netcapture, _):
        netcapture.fault(path="/x").corrupt(after_bytes=7)
        with urllib.request.urlopen(URL, timeout=20) as reply:
            return reply.read()

    assert served(check) == BODY[:7] + bytes([BODY[7] ^ 0xFF]) + BODY[8:]


def test_latency_and_bandwidth_slow_down():
    """Lower bounds only: a busy machine makes everything slower."""

    def check(netcapture, _):
        netcapture.fault(path="/x").latency("300ms", jitter="100ms", seed=1)
        netcapture.fault(path="/y").bandwidth("2kB/s")
        took = []
        for path in ("/x", "/y"):
            before = time.monotonic()
            assert python(f"http://{HOST}{path}") == "200 1000"
            took.append(time.monotonic() - before)
        return took, [flow.fault for flow in netcapture.http]

    (late, slow), noted = served(check)
    assert late >= 0.2
    assert slow >= 0.4
    assert re.fullmatch(r"latency [23]\d\d ms", noted[0])
    assert noted[1] == "bandwidth 2000 B/s"


@pytest.mark.parametrize("where", ["live", "mocked", "mocked, HTTP/2"])
def test_a_large_answer_comes_slowly_and_whole(where):
    """More than is kept waiting on the way, so that its source has to wait."""
    large = os.urandom(1 << 20)

    def check(netcapture, _):
        netcapture.fault(path="/x").bandwidth("4MB/s")
        if where != "live":
            netcapture.mock(host=HOST).respond(content=large)
        flag = "--http2-prior-knowledge" if "2" in where else "--http1.1"
        command = ["curl", "-sS", flag, URL]
        before = time.monotonic()
        done = subprocess.run(command, capture_output=True, timeout=30)
        return done.stdout == large, time.monotonic() - before, done.stderr

    with serving(answer(large)) as server:
        whole, took, words = faulty(check, settings(mappings=[f"{HOST}={server.at}"]))
    assert (whole, words) == (True, b"")
    assert took >= 0.15


def test_times_after_and_order():
    def check(netcapture, _):
        netcapture.mock(host=HOST)
        netcapture.fault(path="/x").status(503, after=1, times=2, headers={"Retry-After": 1})
        netcapture.fault(path="/x").status(500, times=1)
        return [python(URL) for _ in range(5)], len(netcapture.http.filter(status=503))

    assert faulty(check) == (["500", "503", "503", "200 0", "200 0"], 2)


def test_the_same_seed_is_the_same_schedule():
    def check(seed):
        def run(netcapture, sandbox):
            netcapture.mock(host=HOST)
            netcapture.fault(path="/x").status(503, probability=0.5, seed=seed)
            seen = [python(URL) == "503" for _ in range(16)]
            return seen, sandbox.scope.schedule()

        return faulty(run)

    (first, told), again, other = check(7), check(7), check(8)
    assert (first, told) == again
    assert first != other[0]
    struck = ", ".join(str(n) for n, one in enumerate(first, 1) if one)
    (line,) = told
    assert line.startswith("status 503 on path='/x', made at test_faults.py:")
    assert line.endswith(f", probability 0.5, seed '7': struck at {struck} of 16")


@pytest.mark.parametrize("how", ["refuse", "blackhole"])
def test_datagrams_fail_like_connections(how):
    def check(netcapture, sandbox):
        getattr(netcapture.fault(host="203.0.113.7", port=5353), how)()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("203.0.113.7", 5353))
            sock.send(b"anybody?")
            sandbox.wait(lambda: [flow for flow in netcapture.udp if flow.fault])
            sock.settimeout(20 if how == "refuse" else 0)
            with pytest.raises(OSError) as caught:
                sock.recv(100)
        return caught.value.errno, netcapture.udp.one().fault, len(sandbox.problems())

    number = errno.ECONNREFUSED if how == "refuse" else errno.EAGAIN
    assert faulty(check) == (number, how, 0)


def test_faults_strike_where_the_network_is_blocked():
    """And a made-up name is no attempt that must fail the test."""

    def check(netcapture, sandbox):
        netcapture.fault(host=HOST, port=80).refuse(times=1)
        netcapture.fault(host=HOST).status(503)
        return python(URL), python(URL), len(sandbox.problems())

    assert faulty(check, settings(block=True)) == ("ECONNREFUSED", "503", 0)


MISTAKES = {
    "connect with a path": (lambda f: f(path="/x").refuse(), "tcp flows have no 'path'", "host"),
    "wrong criterion": (lambda f: f(hots="x"), "unknown criterion 'hots'", "'host'"),
    "wrong argument": (lambda f: f().reset(after_byte=1), "'after_byte'", "'after_bytes'"),
    "no such certificate": (lambda f: f().tls_error("expird"), "no 'expird'", "'expired'"),
    "no such answer": (lambda f: f().dns_error("refused"), "no 'refused'", "servfail"),
    "times": (lambda f: f().refuse(times=-1), "times=-1 is not a number of times", "1"),
    "after": (lambda f: f().refuse(after="1"), "after='1' is not", "after=1"),
    "probability": (lambda f: f().refuse(probability=2), "probability=2", "at most 1"),
    "bytes": (lambda f: f().reset(after_bytes=-1), "after_bytes=-1 is no number", "100"),
    "time": (lambda f: f().latency("long"), "'long' is not a time", "200ms"),
    "jitter": (lambda f: f().latency(1, jitter=2), "jitter is longer than 1", "shorter"),
    "rate": (lambda f: f().bandwidth("slow"), "'slow' is not a rate", "64kB/s"),
    "status": (lambda f: f().status(99), "99 is not a status", "200 to 599"),
    "callable": (lambda f: f(lambda flow: True), "no callable criteria", "text"),
    "loopback": (lambda f: f(host="127.0.0.1"), "loopback", "capture"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_errors_at_the_call(name):
    mistake, what, cure = MISTAKES[name]

    class Source:
        set_fault = staticmethod(lambda fault: None)
        settings = staticmethod(lambda: PLAIN)

    with pytest.raises(UsageError) as caught:
        mistake(Netcapture(Source()).fault)
    assert what in caught.value.message
    assert cure in caught.value.cure
