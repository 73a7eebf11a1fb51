"""The `netcapture` fixture, live: tests/test_capture.py proves its claims on made-up flows."""

from __future__ import annotations

from plugin_lab import Project


def test_views_claims_and_waiting(project: Project) -> None:
    project.test(
        """
        def test_views(netcapture):
            get("/a?x=1", headers={"X-Id": "7"})
            get("/b", method="POST", data=b'{"n": 1, "m": 2}')
            assert [f.request.path for f in netcapture.http] == ["/a", "/b"]
            assert netcapture.http.first.request.headers["x-id"] == "7"
            assert netcapture.http.last.response.status == 200
            assert netcapture.http.one(path="/b").request.method == "POST"
            assert len(netcapture.http.filter(method="GET")) == 1
            assert netcapture.dns.names == {"api.example.com"}
            assert netcapture.http.one(path="/a").process.pid == os.getpid()
            assert len(netcapture.blocked) == len(netcapture.tls_failures) == 0
            netcapture.assert_requested("POST", URL + "/b", json={"n": 1}, times=1)
            netcapture.assert_not_requested(path="/c")
            netcapture.assert_connected("api.example.com", 443)
            netcapture.assert_resolved("api.example.com")
            netcapture.assert_order({"path": "/a"}, {"path": "/b"})
            assert netcapture.cassette is None
        def test_flow_is_there_when_the_client_returns(netcapture):
            for n in range(30):
                get(f"/{n}")
                assert len(netcapture.http) == n + 1
        def test_wait_for_a_thread(netcapture):
            go = threading.Event()
            def later():
                go.wait()
                get("/later")
            thread = threading.Thread(target=later)
            thread.start()
            go.set()
            flow = netcapture.wait_for(path="/later", timeout=20)
            assert flow.response.status == 200
            thread.join()
        def test_wait_for_curl(netcapture):
            with subprocess.Popen(["curl", "-sS", URL + "/curl"], stdout=subprocess.DEVNULL) as child:
                assert netcapture.wait_for("GET", URL + "/curl", timeout=20).process.pid == child.pid
        def test_no_traffic(netcapture):
            netcapture.assert_no_traffic()
        """
    )
    project.run().assert_outcomes(passed=5)


def test_claims_that_do_not_hold_say_what_there_was(project: Project) -> None:
    project.test(
        """
        def test_requested(netcapture):
            get("/a?x=1")
            netcapture.assert_requested("GET", URL + "/a", query={"x": "2"})
        def test_not_requested(netcapture):
            get("/a")
            netcapture.assert_not_requested(host="api.example.com")
        def test_no_traffic(netcapture):
            get("/a")
            netcapture.assert_no_traffic()
        def test_wait(netcapture):
            netcapture.wait_for(path="/never", timeout=0.01)
        def test_one(netcapture):
            get("/a"), get("/a")
            netcapture.http.one(path="/a")
        def test_misused(netcapture):
            netcapture.assert_requested(pth="/a")
        """
    )
    result = project.run()
    result.assert_outcomes(failed=6)
    result.stdout.fnmatch_lines(
        [
            "*query*- 2",
            "*+ 1",
            "*GET https://api.example.com/a*",
            "*test_one*",
            "*pth*",
            "*did you mean*'path'*",
        ]
    )
    assert "capture.py" not in result.stdout.str()


def test_changes_hold_for_the_rest_of_the_test_only(project: Project) -> None:
    project.test(
        f"""
        def test_map_host(netcapture):
            netcapture.map_host({{"elsewhere.example.com": "127.0.0.1:{project.server.http}"}})
            urllib.request.urlopen("http://elsewhere.example.com/x", timeout=20).close()
            netcapture.assert_requested(host="elsewhere.example.com")
        def test_not_mapped():
            with pytest.raises(OSError):
                urllib.request.urlopen("http://elsewhere.example.com/x", timeout=20)
        @pytest.mark.netcapture(map_host={{"marked.example.com": "127.0.0.1:{project.server.http}"}})
        def test_marked():
            urllib.request.urlopen("http://marked.example.com/x", timeout=20).close()
        def test_passthrough(netcapture):
            netcapture.passthrough("api.example.com")
            import ssl
            context = ssl.create_default_context(cafile={project.server.ca!r})
            urllib.request.urlopen(URL + "/x", timeout=20, context=context).close()
            assert len(netcapture.http) == 0
            netcapture.assert_connected("api.example.com", 443)
        def test_no_passthrough(netcapture):
            get("/x")
            assert len(netcapture.http) == 1
        """
    )
    project.run().assert_outcomes(passed=5)


def test_without_capture_the_fixture_says_so(project: Project) -> None:
    project.test("def test_x(netcapture): pass\n")
    result = project.run(netcapture=False)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*test_x uses the netcapture fixture, but capture is off",
            "*cure: run pytest --netcapture*",
        ]
    )
    assert "def netcapture" not in result.stdout.str()


def test_the_config_fixture(project: Project) -> None:
    project.write(
        "conftest.py",
        """
        import os, pytest
        @pytest.fixture(scope="session")
        def netcapture_config():
            return eval(os.environ["GIVEN"])
        """,
    )
    project.test("def test_x(): swallow('/x')\n")
    given = {
        "{'block': True}": ("failed", "*blocked*"),
        "{'block': True, 'allow': ['*.example.com']}": ("passed", "*1 passed*"),
        "{'block': 'yes'}": ("errors", "*netcapture_config fixture, block must be True or False*"),
        "{'blok': True}": ("errors", "*did you mean 'block'*"),
        "[1]": ("errors", "*must return a dict*"),
    }
    for value, (outcome, line) in given.items():
        project.pytester._monkeypatch.setenv("GIVEN", value)
        result = project.run()
        result.assert_outcomes(**{outcome: 1})
        result.stdout.fnmatch_lines([line])
