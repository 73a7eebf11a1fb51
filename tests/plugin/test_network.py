"""The network as code finds it inside: what it looks like, what can be bound, what is refused."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator

import pytest
from plugin_lab import REDIRECTOR, Project


def test_interfaces_and_addresses(project: Project) -> None:
    project.test(
        """
        import psutil
        def test_psutil():
            addresses, stats = psutil.net_if_addrs(), psutil.net_if_stats()
            assert {"lo", "eth0"} <= set(addresses)
            families = {a.family for a in addresses["eth0"]}
            assert {socket.AF_INET, socket.AF_INET6} <= families
            assert stats["eth0"].isup and stats["lo"].isup
            assert stats["eth0"].mtu == 1500
            assert "eth0" in psutil.net_io_counters(pernic=True)
        def test_names():
            assert {"lo", "eth0"} <= {name for _, name in socket.if_nameindex()}
        @pytest.mark.parametrize("literal", ["203.0.113.7", "2001:db8:1::7"])
        def test_both_families(literal):
            assert socket.getaddrinfo(literal, 80, flags=socket.AI_ADDRCONFIG)
            found = socket.getaddrinfo("api.example.com", 443, flags=socket.AI_ADDRCONFIG)
            assert {entry[0] for entry in found} == {socket.AF_INET, socket.AF_INET6}
        def test_an_own_address_is_found_the_usual_ways():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect(("203.0.113.7", 9))
                found = {probe.getsockname()[0], socket.gethostbyname(socket.gethostname())}
            for address in found:
                with socket.create_server((address, 0)) as listener:
                    socket.create_connection(listener.getsockname(), 20).close()
        """
    )
    project.run("--netcapture-block", "--netcapture-allow=api.example.com").assert_outcomes(
        passed=5
    )


def may_bind_low_ports() -> bool:
    """Tell whether whoever runs this may outside, be it root or let by a container."""
    try:
        socket.create_server(("127.255.1.2", 1)).close()
    except PermissionError:
        return False
    return True


def test_ports_and_servers(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    if not may_bind_low_ports():
        monkeypatch.setenv("forbidden", "1")
    project.test(
        """
        import os
        GET = "import socket, sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 20).recv(9))"
        @pytest.mark.parametrize("port", [80, 443, 53, 0])
        @pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "::", "::1"])
        def test_served_to_a_child(host, port):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            if port and "forbidden" in os.environ:
                with pytest.raises(PermissionError):
                    socket.create_server((host, port), family=family)
                return
            with socket.create_server((host, port), family=family) as listener:
                port = listener.getsockname()[1]
                near = "::1" if ":" in host else "localhost"
                child = subprocess.Popen([sys.executable, "-c", GET, near, str(port)], stdout=-1, text=True)
                listener.settimeout(20)
                with listener.accept()[0] as conn:
                    conn.sendall(b"hello")
                assert child.communicate()[0] == "b'hello'\\n"
        @pytest.mark.parametrize("address", ["203.0.113.7", "192.0.2.99", "2001:db8::99"])
        def test_an_address_that_is_not_ours(address):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with pytest.raises(OSError) as caught:
                socket.create_server((address, 0), family=family)
            import errno
            assert caught.value.errno == errno.EADDRNOTAVAIL
        """
    )
    project.run().assert_outcomes(passed=19)


@pytest.mark.skipif(
    REDIRECTOR == ["--netcapture-redirector=tun"], reason="not in CI: tun answers both"
)
def test_what_is_refused_is_refused_at_once(project: Project) -> None:
    project.test(
        """
        @pytest.mark.timeout(20)
        @pytest.mark.parametrize("host", ["203.0.113.7", "2001:db8:1::7", "api.example.com"])
        def test_ping(host):
            told = subprocess.run(["ping", "-c1", "-W60", host], capture_output=True, text=True)
            assert told.returncode == 1
            assert "nreachable" in told.stdout
            assert subprocess.run(["ping", "-c1", "localhost"], capture_output=True).returncode == 0
        @pytest.mark.timeout(20)
        def test_bound_to_an_interface():
            done = subprocess.run(["curl", "-sS", "--interface", "eth0", URL], capture_output=True)
            assert done.returncode == 7, done.stderr
        """
    )
    if shutil.which("ping") is None:
        pytest.skip("ping is not installed")
    project.run(use="timeout").assert_outcomes(passed=4)


def test_chromium_thinks_that_it_is_online(project: Project) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("not in CI: no Chromium")
    page = project.write(
        "page.html", "<script>document.write('online=' + navigator.onLine)</script>"
    )
    project.test(
        f"""
        import tempfile
        def test_online():
            command = [{browser!r}, "--headless", "--no-sandbox", "--disable-gpu"]
            with tempfile.TemporaryDirectory(dir="/tmp") as home:  # a short path: sockets are in it
                command += [f"--user-data-dir={{home}}", "--dump-dom", "file://{page}"]
                environ = {{**os.environ, "TMPDIR": home}}
                done = subprocess.run(command, capture_output=True, text=True, timeout=50, env=environ)
            assert "online=true" in done.stdout, done.stderr
        """
    )
    project.run().assert_outcomes(passed=1)


@pytest.fixture
def reported() -> Iterator[tuple[int, list[str]]]:
    """A server on the host's loopback that keeps the lines it is sent: (port, lines)."""
    lines: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as conn, conn.makefile() as file:
                lines.extend(file)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], lines
        thread.join(20)


def test_a_plugin_that_reports_over_a_connection_of_its_own(
    project: Project, reported: tuple[int, list[str]]
) -> None:
    """As those of editors do: made at start, used within tests, blocked or not."""
    port, lines = reported
    project.write(
        "conftest.py",
        f"""
        import socket
        def pytest_configure(config):
            config.editor = socket.create_connection(("127.0.0.1", {port}), 20)
        def pytest_runtest_logstart(nodeid): pass
        def pytest_runtest_call(item):
            item.config.editor.sendall((item.name + "\\n").encode())
        def pytest_unconfigure(config):
            config.editor.close()
        """,
    )
    project.test(
        """
        @pytest.mark.parametrize("n", range(3))
        def test_it(netcapture, n):
            netcapture.assert_no_traffic()
        """
    )
    result = project.run("--netcapture-block")
    result.assert_outcomes(passed=3)
    assert "outside of any test" not in result.stdout.str()
    assert lines == [f"test_it[{n}]\n" for n in range(3)]


def test_a_debugger_started_within_a_test(project: Project) -> None:
    project.test(
        r"""
        import debugpy
        def test_debugpy(netcapture):
            debugpy.configure(subProcess=False)
            host, port = debugpy.listen(("127.0.0.1", 0))
            with socket.create_connection((host, port), 20) as client:
                body = b'{"seq": 1, "type": "request", "command": "initialize", "arguments": {"adapterID": "x"}}'
                client.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
                told = b""
                while b'"command": "initialize"' not in told.replace(b'":"', b'": "'):
                    data = client.recv(65536)
                    assert data, told
                    told += data
        def test_after():
            get("/after")
        """
    )
    args = ("--netcapture-block", "--netcapture-allow=api.example.com")
    project.run(*args).assert_outcomes(passed=2)


def test_unix_sockets(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with a path are files, and as reachable as files; abstract ones stay in their namespace."""
    abstract = f"netcapture-test-{id(project)}"
    path = str(project.path / "s")
    with socket.socket(socket.AF_UNIX) as by_name, socket.socket(socket.AF_UNIX) as by_path:
        by_name.bind("\0" + abstract)
        by_path.bind(path)
        for listener in (by_name, by_path):
            listener.listen()
        monkeypatch.setenv("ABSTRACT", abstract)
        monkeypatch.setenv("SOCKET_PATH", path)
        project.test(
            """
            def connect(address):
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(address)
            def test_a_path_of_the_host():
                connect(os.environ["SOCKET_PATH"])
            def test_an_abstract_name_of_the_host():
                with pytest.raises(ConnectionRefusedError):
                    connect("\\0" + os.environ["ABSTRACT"])
            @pytest.mark.parametrize("n", range(2))
            def test_an_abstract_name_of_the_test(n):
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind("\\0" + os.environ["ABSTRACT"])
                    listener.listen()
                    code = "import os, socket; socket.socket(socket.AF_UNIX).connect(chr(0) + os.environ['ABSTRACT'])"
                    subprocess.run([sys.executable, "-c", code], check=True)
            """
        )
        project.run().assert_outcomes(passed=4)
