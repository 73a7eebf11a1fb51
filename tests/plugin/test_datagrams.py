"""Datagrams that nobody answers belong to the test that sent them, and are seen when it looks."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from plugin_lab import Project, receipt_of


@pytest.fixture
def mapped() -> Iterator[str]:
    """The option that leads 203.0.113.5 to a socket which takes everything and says nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        yield f"--netcapture-map-host=203.0.113.5=127.0.0.1:{sink.getsockname()[1]}"


PRELUDE = """
    def fire(port=8125):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"counter:1|c", ("203.0.113.5", port))
"""


def test_fire_and_forget_is_seen_at_once_and_by_whom(project: Project, mapped: str) -> None:
    project.test(
        PRELUDE
        + """
    @pytest.mark.parametrize("n", range(50))
    def test_fire(netcapture, n):
        fire()
        (flow,) = netcapture.udp
        assert (flow.process.pid, flow.datagrams_sent, flow.sent) == (os.getpid(), 1, 11)
    @pytest.mark.parametrize("n", range(5))
    def test_in_a_child(netcapture, n):
        code = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('203.0.113.5', 9))"
        subprocess.run([sys.executable, "-c", code], check=True)
        assert len(netcapture.udp) == 1
    @pytest.mark.parametrize("n", range(5))
    def test_connected(netcapture, n):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(("203.0.113.5", 9))
        for _ in range(3):
            sock.send(b"x")
        sock.close()
        (flow,) = netcapture.udp
        assert flow.datagrams_sent == 3
    port = 0
    @pytest.mark.parametrize("n", range(12))
    def test_a_port_that_an_earlier_test_had(netcapture, n):
        global port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("", port))
            port = sock.getsockname()[1]
            sock.sendto(b"x", ("203.0.113.5", 9))
            assert len(netcapture.udp) == 1
        """
    )
    project.run(mapped).assert_outcomes(passed=72)


def test_a_blocked_one_fails_the_call_that_sent_it(project: Project, mapped: str) -> None:
    project.test(
        PRELUDE
        + """
    @pytest.fixture
    def early():
        fire(1)
    @pytest.fixture
    def late():
        yield
        fire(2)
    @pytest.mark.parametrize("n", range(20))
    def test_call(n):
        fire()
    def test_setup(early): pass
    def test_teardown(late): pass
    def test_child():
        code = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('203.0.113.5', 9))"
        subprocess.run([sys.executable, "-c", code], check=True)
    def test_spawned():
        import multiprocessing
        process = multiprocessing.get_context("spawn").Process(target=fire)
        process.start()
        process.join()
    def test_rules_are_those_of_the_moment(netcapture):
        netcapture.allow("203.0.113.5")
        fire()
        netcapture.block("203.0.113.5")
    def test_none(): pass
        """
    )
    result = project.run(mapped, "--netcapture-block", "-ra")
    text = result.stdout.str()
    failed = {f"call[{n}]" for n in range(20)} | {"child"}
    for verdict, name in [
        *(("FAILED", one) for one in failed),
        ("ERROR", "setup"),
        ("ERROR", "teardown"),
        ("(FAILED|ERROR)", "spawned"),  # no audit event tells of it, but that there was a process
    ]:
        line = rf"^{verdict} test_it.py::test_{re.escape(name)} - Failed: blocked: UDP 203.0.113.5"
        assert re.search(line, text, re.MULTILINE), (name, text)
    assert receipt_of(result)["blocked"] == 24
    assert 'sock.sendto(b"counter:1|c", ("203.0.113.5", port))' in text
    assert "outside of any test" not in text


def test_a_socket_that_lives_on_is_each_tests_own(project: Project, mapped: str) -> None:
    project.test(
        """
        @pytest.fixture(scope="module")
        def metrics():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.connect(("203.0.113.5", 8125))
                yield sock
        @pytest.mark.parametrize("n", range(4))
        def test_send(metrics, netcapture, n):
            for _ in range(n):
                metrics.send(b"x")
            assert [flow.datagrams_sent for flow in netcapture.udp] == [n][:n]
        @pytest.mark.netcapture(block=True)
        def test_blocked(metrics):
            metrics.send(b"x")
        def test_after(metrics, netcapture):
            metrics.send(b"x")
            assert len(netcapture.udp) == 1
        """
    )
    result = project.run(mapped)
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["FAILED test_it.py::test_blocked - Failed: blocked: UDP*"])
