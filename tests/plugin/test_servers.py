"""Servers of fixtures and of the host, reached from tests; ports that open later."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest
from plugin_lab import TIMEOUT, Project, receipt_of


def test_servers_of_wider_fixtures_are_reached(project: Project) -> None:
    """Session, package, module, class; in a thread and in a process; both address families."""
    project.test(
        """
        import http.server
        CODE = "\\n".join([
            "import http.server",
            "class H(http.server.BaseHTTPRequestHandler):",
            "    def do_GET(self):",
            "        self.send_response(200)",
            "        self.send_header('Content-Length', '5')",
            "        self.end_headers()",
            "        self.wfile.write(b'child')",
            "s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), H)",
            "print(s.server_port, flush=True)",
            "s.serve_forever()",
        ])
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *a): pass
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", "6")
                self.end_headers()
                self.wfile.write(b"thread")
        class V6(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6
        def serve(kind, host):
            server = kind((host, 0), Handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            return server
        @pytest.fixture(scope="session")
        def in_thread():
            server = serve(http.server.ThreadingHTTPServer, "127.0.0.1")
            port = server.server_port
            assert read(f"http://127.0.0.1:{port}") == "thread"  # from the fixture itself
            yield port
            assert read(f"http://127.0.0.1:{port}") == "thread"  # and at its end
            server.shutdown()
            server.server_close()
        @pytest.fixture(scope="module")
        def on_v6():
            server = serve(V6, "::1")
            yield server.server_port
            server.shutdown()
            server.server_close()
        @pytest.fixture(scope="class")
        def in_child(in_thread):
            child = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True)
            yield int(child.stdout.readline())
            child.kill()
            child.wait()
            child.stdout.close()
        @pytest.fixture
        def of_the_test():
            server = serve(http.server.ThreadingHTTPServer, "127.0.0.1")
            yield server.server_port
            server.shutdown()
            server.server_close()
        def read(url):
            with urllib.request.urlopen(url, timeout=20) as answer:
                return answer.read().decode()
        class TestIt:
            def test_thread(self, in_thread, netcapture):
                assert read(f"http://127.0.0.1:{in_thread}") == "thread"
                assert read(f"http://localhost:{in_thread}") == "thread"
                netcapture.assert_connected("127.0.0.1", in_thread)
            def test_v6(self, on_v6):
                assert read(f"http://[::1]:{on_v6}") == "thread"
            def test_child(self, in_child, in_thread):
                assert read(f"http://127.0.0.1:{in_child}") == "child"
            def test_curl(self, in_child):
                out = subprocess.run(["curl", "-sS", f"http://127.0.0.1:{in_child}"], capture_output=True)
                assert out.stdout == b"child"
        def test_own(of_the_test, in_thread):
            assert read(f"http://127.0.0.1:{of_the_test}") == "thread"
            assert read(f"http://127.0.0.1:{in_thread}") == "thread"
        def test_again(in_thread):
            assert read(f"http://127.0.0.1:{in_thread}") == "thread"
        """
    )
    result = project.run("--netcapture-block")
    result.assert_outcomes(passed=6)
    assert receipt_of(result)["left"] == 0
    project.run("-n", "2", use="xdist").assert_outcomes(passed=6)


def test_wait_for_port_is_refused_refused_connected(project: Project) -> None:
    project.test(
        """
        def free_port():
            with socket.create_server(("127.0.0.1", 0)) as listener:
                return listener.getsockname()[1]
        def wait_for(port, opens):
            refused = 0
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 5).close()
                except ConnectionRefusedError:
                    refused += 1
                    if refused == 2:
                        opens()
                else:
                    return refused
        def test_opened_by_a_thread():
            port, opened = free_port(), []
            def opens():
                thread = threading.Thread(target=lambda: opened.append(socket.create_server(("127.0.0.1", port))))
                thread.start()
                thread.join()
            assert wait_for(port, opens) == 2
            opened[0].close()
        def test_opened_by_a_child():
            port, children = free_port(), []
            def opens():
                code = "import socket, sys; s = socket.create_server(('127.0.0.1', %d)); print(1, flush=True); sys.stdin.read()"
                child = subprocess.Popen([sys.executable, "-c", code % port], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                child.stdout.readline()
                children.append(child)
            assert wait_for(port, opens) == 2
            children[0].communicate()
        def test_opened_on_the_host():
            with open(os.environ["DOOR_OUT"]) as out:
                port = int(out.readline())
                def opens():
                    with open(os.environ["DOOR_IN"], "w") as ask:
                        ask.write("open\\n")
                    out.readline()
                assert wait_for(port, opens) == 2
        """
    )
    inward, outward = project.path / "in", project.path / "out"
    os.mkfifo(inward)
    os.mkfifo(outward)
    door = project.write(
        "door.py",
        f"""
        import socket
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with open({str(outward)!r}, "w") as out:
            print(port, file=out, flush=True)
            with open({str(inward)!r}) as ask:
                ask.readline()
            server = socket.create_server(("127.0.0.1", port))
            print("open", file=out, flush=True)
            server.accept()
        """,
    )
    project.pytester._monkeypatch.setenv("DOOR_IN", str(inward))
    project.pytester._monkeypatch.setenv("DOOR_OUT", str(outward))
    import sys

    with subprocess.Popen([sys.executable, str(door)]) as keeper:
        try:
            project.run().assert_outcomes(passed=3)
        finally:
            keeper.kill()


@pytest.fixture
def redis(project: Project) -> Iterator[int]:
    """A Redis server on the host's loopback; its port."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with subprocess.Popen(
        [
            program,
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(project.path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if "eady to accept" in line:
                break
        yield port
        server.terminate()
        server.wait(TIMEOUT)


def test_redis_on_the_hosts_loopback(
    project: Project, redis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS", str(redis))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("CLOSED", str(listener.getsockname()[1]))
    project.test(
        """
        def ask(*words):
            with socket.create_connection(("127.0.0.1", int(os.environ["REDIS"])), 20) as s:
                s.sendall(b"*%d\\r\\n" % len(words) + b"".join(b"$%d\\r\\n%s\\r\\n" % (len(w), w) for w in words))
                return s.recv(100)
        def test_set(netcapture):
            assert ask(b"SET", b"k", b"v") == b"+OK\\r\\n"
            netcapture.assert_connected("127.0.0.1", int(os.environ["REDIS"]))
        @pytest.mark.cassette(record_mode="none")
        @pytest.mark.netcapture(block=True)
        def test_get_though_blocked_and_on_replay():
            assert ask(b"GET", b"k") == b"$1\\r\\nv\\r\\n"
        def test_closed():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", int(os.environ["CLOSED"])), 20)
        """
    )
    project.run().assert_outcomes(passed=3)
