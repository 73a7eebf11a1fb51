"""Other plugins, ways to run code, and tests that do what tests should not."""

from __future__ import annotations

import pytest
from plugin_lab import Project, receipt_of


def test_asyncio_and_anyio(project: Project) -> None:
    project.write("pytest.ini", "[pytest]\nasyncio_default_fixture_loop_scope = session\n")
    project.test(
        """
        import asyncio, aiohttp, httpx, pytest_asyncio
        pytestmark = pytest.mark.cassette
        async def fetch(path):
            async with aiohttp.ClientSession() as session:
                async with session.get(URL + path) as answer:
                    return (await answer.json())["path"]
        @pytest_asyncio.fixture(scope="session", loop_scope="session")
        async def client():
            async with aiohttp.ClientSession() as session:
                yield session
        @pytest.mark.asyncio
        async def test_function_loop(netcapture):
            assert await fetch("/f") == "/f"
            netcapture.assert_requested(path="/f")
        @pytest.mark.asyncio
        async def test_many_at_once():
            assert await asyncio.gather(*(fetch(f"/{n}") for n in range(10))) == [f"/{n}" for n in range(10)]
        @pytest.mark.asyncio(loop_scope="module")
        class TestModule:
            async def test_one(self):
                assert await fetch("/m1") == "/m1"
            async def test_two(self):
                assert await fetch("/m2") == "/m2"
        @pytest.mark.asyncio(loop_scope="session")
        @pytest.mark.parametrize("n", range(3))
        async def test_pooled_connection(client, netcapture, n):
            async with client.get(f"{URL}/s{n}") as answer:
                assert (await answer.json())["path"] == f"/s{n}"
            netcapture.assert_requested(path=f"/s{n}", times=1)
        @pytest.mark.anyio
        async def test_anyio(anyio_backend):
            async with httpx.AsyncClient() as client:
                assert (await client.get(URL + "/any")).json()["path"] == "/any"
        @pytest.fixture
        def anyio_backend():
            return "asyncio"
        def test_raw_loop():
            async def main():
                reader, writer = await asyncio.open_connection("api.example.com", 443, ssl=True)
                writer.write(b"GET /raw HTTP/1.1\\r\\nHost: api.example.com\\r\\nConnection: close\\r\\n\\r\\n")
                data = await reader.read()
                writer.close()
                return data
            assert b"/raw" in asyncio.run(main())
        """
    )
    project.run(use="asyncio anyio").assert_outcomes(passed=9)
    project.run("--netcapture-record-mode=none", use="asyncio anyio").assert_outcomes(passed=9)
    project.run(
        "--netcapture-record-mode=none", "-n", "2", use="asyncio anyio xdist"
    ).assert_outcomes(passed=9)


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_timeout(project: Project, method: str) -> None:
    project.test(
        """
        def test_good():
            get("/a")
        @pytest.mark.timeout(0.5)
        def test_hangs():
            get("/hang")
        @pytest.mark.timeout(0.5)
        def test_waits(netcapture):
            netcapture.wait_for(path="/never", timeout=50)
        def test_after(netcapture):
            get("/b")
            netcapture.assert_requested(path="/b", times=1)
            assert len(netcapture.http) == 1
        """
    )
    result = project.run(f"--timeout-method={method}", "--timeout=30", use="timeout")
    if method == "signal":
        result.assert_outcomes(passed=2, failed=2)
        assert receipt_of(result)["flows"] >= 6
        assert "wait_change" not in result.stdout.str() or "Timeout" in result.stdout.str()
    else:  # it ends the process: nothing may be left of it
        assert result.ret == 1
        assert "Timeout" in result.stdout.str() + result.stderr.str()


def test_coverage_random_order_and_unittest(project: Project) -> None:
    project.test(
        """
        import http.server, unittest
        pytestmark = pytest.mark.cassette
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *a): pass
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")
        class TestUnit(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                cls.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
                threading.Thread(target=cls.server.serve_forever, daemon=True).start()
            @classmethod
            def tearDownClass(cls):
                cls.server.shutdown()
                cls.server.server_close()
            def setUp(self):
                get("/setup")
            def test_server(self):
                url = f"http://127.0.0.1:{self.server.server_port}/"
                with urllib.request.urlopen(url, timeout=20) as answer:
                    self.assertEqual(answer.read(), b"ok")
            def test_remote(self):
                self.assertIn("/u", get("/u"))
            @unittest.skip("no")
            def test_skipped(self): pass
        class TestAsync(unittest.IsolatedAsyncioTestCase):
            async def test_it(self):
                import asyncio
                text = await asyncio.to_thread(get, "/async")
                self.assertIn("/async", text)
        @pytest.mark.usefixtures("netcapture")
        class TestWithFixture(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _fixture(self, netcapture):
                self.netcapture = netcapture
            def test_it(self):
                get("/fixture")
                self.netcapture.assert_requested(path="/fixture")
        @pytest.mark.parametrize("n", range(3))
        def test_param(n):
            get(f"/{n}")
        """
    )
    args = ("--cov=test_it", "--cov-report=term", "-p", "randomly")
    result = project.run(*args, use="cov randomly")
    result.assert_outcomes(passed=7, skipped=1)
    result.stdout.fnmatch_lines(["test_it.py * 9?%"])
    project.run("--netcapture-record-mode=none", "-p", "randomly", use="randomly").assert_outcomes(
        passed=7, skipped=1
    )


def test_threads_forks_and_children(project: Project) -> None:
    project.test(
        """
        import multiprocessing, concurrent.futures
        pytestmark = pytest.mark.cassette
        def test_wait_for_any_child_meets_nobody_else():
            with pytest.raises(ChildProcessError):
                os.wait()
            pid = os.fork()
            if not pid:
                os._exit(7)
            assert os.wait() == (pid, 7 << 8)
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
        def fetch(n):
            return json.loads(get(f"/{n}"))["path"]
        def test_threads():
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                assert list(pool.map(fetch, range(16))) == [f"/{n}" for n in range(16)]
        @pytest.mark.parametrize("method", ["fork", "spawn"])
        def test_processes(netcapture, method):
            with multiprocessing.get_context(method).Pool(2) as pool:
                assert pool.map(fetch, range(4)) == [f"/{n}" for n in range(4)]
            assert len(netcapture.http) == 4
            assert os.getpid() not in {flow.process.pid for flow in netcapture.http}
        def test_child_of_a_child(netcapture):
            code = "import subprocess; subprocess.run(['curl', '-sS', '%s/deep'], check=True)" % URL
            subprocess.run([sys.executable, "-c", code], check=True)
            assert netcapture.http.one(path="/deep").process.name == "curl"
        def test_fork_without_exec_may_use_nothing_of_ours(netcapture):
            pid = os.fork()
            if not pid:
                try:
                    netcapture.flows.first
                except BaseException as error:
                    os._exit(3 if "forked child" in str(error) else 4)
                os._exit(5)
            assert os.waitpid(pid, 0)[1] == 3 << 8
            get("/x")
            assert len(netcapture.http) == 1
        """
    )
    project.run().assert_outcomes(passed=6)
    project.run("--netcapture-record-mode=none").assert_outcomes(passed=6)


def test_tests_that_patch_and_change_what_we_stand_on(project: Project) -> None:
    project.test(
        """
        @pytest.mark.cassette
        def test_chdir(tmp_path, monkeypatch):
            monkeypatch.chdir(tmp_path)
            get("/chdir")
        @pytest.mark.cassette
        def test_patched_socket(monkeypatch, netcapture):
            get("/before")
            def no(*args, **kwargs):
                raise RuntimeError("patched")
            for name in ("socket", "create_connection", "socketpair"):
                monkeypatch.setattr(socket, name, no)
            netcapture.assert_requested(path="/before")
        @pytest.mark.cassette
        def test_frozen_time(monkeypatch, netcapture):
            for name in ("time", "monotonic", "time_ns", "monotonic_ns", "perf_counter", "sleep"):
                monkeypatch.setattr(time, name, lambda *a: 0)
            get("/frozen")
            netcapture.wait_for(path="/frozen", timeout=5)
        @pytest.mark.cassette
        def test_patched_os(monkeypatch, netcapture):
            get("/os")
            def no(*args, **kwargs):
                raise RuntimeError("patched")
            with monkeypatch.context() as patch:
                for name in ("open", "stat", "fstat", "read", "write", "close", "getpid"):
                    patch.setattr(os, name, no)
                netcapture.assert_requested(path="/os")
        def test_environment(monkeypatch):
            for name in list(os.environ):
                monkeypatch.delenv(name)
            subprocess.run(["/usr/bin/curl", "-sS", "-o", "/dev/null", URL + "/env"], check=True)
        @pytest.mark.cassette
        def test_odd_environment(monkeypatch):
            monkeypatch.setitem(os.environb, b"ODD", b"\\xff\\xfe")
            monkeypatch.setitem(os.environb, b"ODD_TOKEN", b"abcdefgh\\xff\\xfe")
            get("/odd")
        def test_signals():
            import signal
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            get("/sig")
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        @pytest.mark.cassette
        def test_after():
            get("/after")
        """
    )
    project.run().assert_outcomes(passed=8)
    project.run("--netcapture-record-mode=none").assert_outcomes(passed=8)
    assert all(name.startswith("cassettes/") for name in project.cassettes())


def test_an_odd_environment_from_the_start(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setitem(os.environb, b"ODD_SECRET", b"abcdefgh\xff\xfe")
    project.test("@pytest.mark.cassette\ndef test_x(): get('/x')\n")
    project.run().assert_outcomes(passed=1)


def test_closed_descriptors_end_the_run_with_a_reason(project: Project) -> None:
    project.test(
        """
        def test_closes():
            for name in os.listdir("/proc/self/fd"):
                try:
                    target = os.readlink("/proc/self/fd/" + name)
                except OSError:
                    continue
                if target.startswith(("socket:", "net:", "/memfd:netcapture")) or "/netcapture-" in target:
                    os.close(int(name))
        def test_after():
            pass
        """
    )
    result = project.run()
    text = result.stdout.str() + result.stderr.str()
    assert result.ret == 3, text
    assert "descriptor" in text


def test_options_and_markers_of_neighbours_are_theirs(project: Project) -> None:
    """pytest-recording's, pytest-socket's and cassetter's names, registered by a stand-in."""
    project.write(
        "neighbour.py",
        """
        def pytest_addoption(parser):
            group = parser.getgroup("neighbour")
            for name in ("--record-mode", "--block-network", "--allowed-hosts", "--disable-recording",
                         "--disable-socket", "--force-enable-socket", "--allow-hosts", "--allow-unix-socket",
                         "--cassette-dir", "--netcap"):
                group.addoption(name, action="store_true")
            parser.addini("record_mode", "theirs")
        def pytest_configure(config):
            for name in ("vcr", "block_network", "default_cassette", "allow_hosts", "disable_socket"):
                config.addinivalue_line("markers", name)
        """,
    )
    project.pytester._monkeypatch.setenv("PYTHONPATH", str(project.path), prepend=":")
    project.test("@pytest.mark.cassette\n@pytest.mark.vcr\ndef test_x(netcapture): get('/x')\n")
    args = ("-p", "neighbour", "--strict-markers", "--block-network", "--record-mode")
    result = project.run(*args)
    result.assert_outcomes(passed=1)
    assert receipt_of(result)["recorded"] > 0
