"""Threads that are older or live longer than the test that uses them."""

from __future__ import annotations

from plugin_lab import Project

PRELUDE = """
    import concurrent.futures
    def paths(netcapture):
        return sorted("/" + flow.url.split("/", 3)[3] for flow in netcapture.http)
"""


def test_a_thread_of_a_wider_fixture_works_for_the_running_test(project: Project) -> None:
    project.test(
        PRELUDE
        + """
    @pytest.fixture(scope="session")
    def background():
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(get, "/warm").result()
            yield lambda path: pool.submit(get, path).result()
    @pytest.mark.parametrize("n", range(3))
    def test_it(background, netcapture, n):
        background(f"/{n}")
        assert paths(netcapture) == [f"/{n}"] if n else ["/0", "/warm"]
        assert {flow.process.pid for flow in netcapture.http} == {os.getpid()}
        """
    )
    project.run().assert_outcomes(passed=3)


def test_a_pool_whose_threads_an_earlier_test_started(project: Project) -> None:
    """They stay in the namespace of that test; what they do is the running test's all the same."""
    project.test(
        PRELUDE
        + """
    POOL = concurrent.futures.ThreadPoolExecutor(2)
    @pytest.mark.parametrize("n", range(4))
    def test_requests(netcapture, n):
        wanted = [f"/{n}/{i}" for i in range(4)]
        assert [json.loads(text)["path"] for text in POOL.map(get, wanted)] == wanted
        assert paths(netcapture) == wanted
        assert not any(flow.late for flow in netcapture.flows)
    @pytest.mark.parametrize("family, host", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
    def test_a_server_of_this_test_is_reached(family, host):
        with socket.create_server((host, 0), family=family) as listener:
            address = listener.getsockname()[:2]
            asked = POOL.submit(lambda: socket.create_connection(address, 20).recv(10))
            listener.settimeout(20)
            with listener.accept()[0] as conn:
                conn.sendall(b"hello")
            assert asked.result() == b"hello"
    def test_a_server_of_such_a_thread_is_reached(netcapture):
        def serve():
            with socket.create_server(("127.0.0.1", 0)) as listener:
                told.append(listener.getsockname())
                ready.set()
                listener.settimeout(20)
                with listener.accept()[0] as conn:
                    conn.sendall(b"hello")
        told, ready = [], threading.Event()
        served = POOL.submit(serve)
        assert ready.wait(20)
        with socket.create_connection(told[0], 20) as conn:
            assert conn.recv(10) == b"hello"
        served.result()
    @pytest.mark.netcapture(block=True)
    def test_blocked():
        POOL.submit(swallow, "/x").result()
    def test_after(): pass
        """
    )
    result = project.run()
    result.assert_outcomes(passed=8, failed=1)
    result.stdout.fnmatch_lines(["FAILED test_it.py::test_blocked - Failed: blocked:*"])


def test_what_a_thread_does_after_its_test_is_the_next_ones(project: Project) -> None:
    project.test(
        PRELUDE
        + """
    go, done = threading.Event(), threading.Event()
    def later():
        assert go.wait(20)
        get("/late")
        done.set()
    def test_starts(netcapture):
        threading.Thread(target=later, daemon=True).start()
        assert len(netcapture.http) == 0
    def test_next(netcapture):
        go.set()
        assert done.wait(20)
        assert paths(netcapture) == ["/late"]
    def test_after(netcapture):
        assert len(netcapture.flows) == 0
        """
    )
    project.run().assert_outcomes(passed=3)


def test_a_live_servers_own_requests_are_the_running_tests(project: Project) -> None:
    project.test(
        PRELUDE
        + """
    import http.server
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *a): pass
        def do_GET(self):
            body = get("/upstream" + self.path).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
    @pytest.fixture(scope="session")
    def live_server():
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        server.server_close()
    @pytest.mark.cassette
    @pytest.mark.parametrize("n", range(3))
    def test_it(live_server, netcapture, n):
        with urllib.request.urlopen(f"{live_server}/{n}", timeout=20) as answer:
            assert json.loads(answer.read())["path"] == f"/upstream/{n}"
        netcapture.assert_requested("GET", URL + f"/upstream/{n}", times=1)
        assert len(netcapture.http) == 1
        """
    )
    project.run().assert_outcomes(passed=3)
    project.run("--netcapture-record-mode=none").assert_outcomes(passed=3)
