"""Protocols that nobody decodes: recorded once, then played with no server, by any worker."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from plugin_lab import Project, receipt_of

TCP, UDP = "gauge.example.com", "clock.example.com"


class Gauge:
    """A made-up binary protocol: the server greets; each frame is a length, a kind and a text."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._clock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._clock.bind(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._serve), threading.Thread(target=self._tell)]
        for thread in self._threads:
            thread.start()

    def options(self) -> list[str]:
        port, clock = self._listener.getsockname()[1], self._clock.getsockname()[1]
        return [
            f"--netcapture-map-host={TCP}=127.0.0.1:{port}",
            f"--netcapture-map-host={UDP}=127.0.0.1:{clock}",
        ]

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._clock.sendto(b"", self._clock.getsockname())
        for thread in self._threads:
            thread.join()
        self._listener.close()
        self._clock.close()

    def _serve(self) -> None:
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(conn,)).start()

    def _one(self, conn: socket.socket) -> None:
        with conn:
            conn.sendall(b"\x00\x05\x00gauge")
            while head := conn.recv(3, socket.MSG_WAITALL):
                size, kind = struct.unpack("!HB", head)
                text = conn.recv(size, socket.MSG_WAITALL)
                conn.sendall(struct.pack("!HB", size, kind | 0x80) + text.upper())

    def _tell(self) -> None:
        while True:
            data, peer = self._clock.recvfrom(100)
            if not data:
                return
            self._clock.sendto(b"\x24" + bytes(23) + data[40:48] + bytes(16), peer)


@pytest.fixture
def gauge() -> Iterator[Gauge]:
    server = Gauge()
    try:
        yield server
    finally:
        server.stop()


SUITE = f"""
    import struct
    def frames(*asked):
        with socket.create_connection(("{TCP}", 9), 20) as sock:
            read = sock.makefile("rb").read
            out = [read(8)]
            for kind, text in asked:
                sock.sendall(struct.pack("!HB", len(text), kind) + text)
                out.append(read(3 + len(text)))
            return out
    def ntp(stamp):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(20)
            sock.sendto(b"\\x23" + bytes(39) + stamp, (socket.gethostbyname("{UDP}"), 123))
            return sock.recv(100)[24:32]
    pytestmark = pytest.mark.cassette
    @pytest.mark.parametrize("n", range(4))
    def test_frames(netcapture, n):
        assert frames((1, b"level %d" % n), (2, b"rate"))[1:] == [
            b"\\0\\x07\\x81LEVEL %d" % n, b"\\0\\x04\\x82RATE"]
        flow = netcapture.tcp.one(host="{TCP}")
        assert flow.sent_bytes.endswith(b"rate") and flow.received_bytes.startswith(b"\\0\\x05\\0gauge")
    def test_a_pool():
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(5) as pool:
            found = list(pool.map(lambda n: frames((3, b"pool %d" % n))[1], range(15)))
        assert found == [b"\\0" + bytes([len("pool %d" % n)]) + b"\\x83POOL %d" % n for n in range(15)]
    def test_clock(netcapture):
        # Both words differ from run to run, though two runs may begin in the same second.
        stamp = struct.pack("!II", *(time.monotonic_ns() * n % 2**32 for n in (7_919, 104_729)))
        assert ntp(stamp) == stamp
        assert netcapture.udp.one(port=123).received == 48
"""


def test_recorded_twice_and_played_by_workers(project: Project, gauge: Gauge) -> None:
    project.test(SUITE)
    on = gauge.options()
    project.run(*on).assert_outcomes(passed=6)
    project.run(*on, "-k", "clock", "--netcapture-record-mode=all").assert_outcomes(passed=1)
    again = project.run("--netcapture-record-mode=none", "-n", "2", use="xdist")
    again.assert_outcomes(passed=6)
    receipt = receipt_of(again)
    assert (receipt["unmatched"], receipt["unused"], receipt["left"]) == (0, 0, 0)


def test_one_byte_changed_is_shown(project: Project, gauge: Gauge) -> None:
    project.test(SUITE)
    project.run(*gauge.options(), "-k", "frames and 2").assert_outcomes(passed=1)
    project.test(SUITE.replace('b"rate"))[1:]', 'b"ratf"))[1:]'))
    result = project.run("--netcapture-record-mode=none", "-k", "frames and 2")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            f"unmatched: TCP {TCP}:9",
            "  why * byte 16 of what the client says is not the recorded one",
            "* test_it.py:* in frames",
            "* hex from byte 10 * - 00 04 02 72 61 74 65",
            "* + 00 04 02 72 61 74 66",
            "* the same as text * - ...rate",
            "* + ...ratf",
        ]
    )


def test_a_connection_that_outlives_its_test(project: Project, gauge: Gauge) -> None:
    project.test(
        f"""
        import struct
        pytestmark = pytest.mark.cassette
        pool = []
        def ask(text):
            if not pool:
                pool.append(socket.create_connection(("{TCP}", 9), 20))
                pool.append(pool[0].makefile("rb").read)
                assert pool[1](8) == b"\\0\\x05\\0gauge"
            pool[0].sendall(struct.pack("!HB", len(text), 1) + text)
            return pool[1](3 + len(text))[3:]
        def test_first(netcapture):
            assert ask(b"one") == b"ONE"
            assert netcapture.tcp.one().sent_bytes == b"\\0\\x03\\x01one"
        @pytest.mark.parametrize("n", range(2))
        def test_next(netcapture, n):
            assert ask(b"two%d" % n) == b"TWO%d" % n
            assert ask(b"three") == b"THREE"
            assert netcapture.tcp.one().received_bytes == b"\\0\\4\\x81TWO%d\\0\\5\\x81THREE" % n
        def test_last():
            assert ask(b"bye") == b"BYE"
            pool[0].close()
        """
    )
    project.run(*gauge.options()).assert_outcomes(passed=4)
    again = project.run("--netcapture-record-mode=none")
    again.assert_outcomes(passed=4)
    assert receipt_of(again)["unused"] == 0
