"""What a test must not do fails it, whoever swallowed the error, and the report says who did it."""

from __future__ import annotations

import re

from plugin_lab import PRELUDE_LINES, Project, receipt_of


def test_a_swallowed_unmatched_request_fails_with_who_where_and_the_nearest(
    project: Project,
) -> None:
    project.test(
        """
        pytestmark = pytest.mark.cassette("shared")
        MORE = os.path.exists("more")
        def test_python():
            get("/item?id=1&sort=up")
            if MORE:
                swallow("/item?id=2&sort=up")
        def test_curl():
            subprocess.run(["curl", "-sS", URL + "/thing", "-d", "a=1"], check=True)
            if MORE:
                subprocess.run(["curl", "-sS", URL + "/thing", "-d", "a=2"])
        """
    )
    project.run("--netcapture-record-mode=new_episodes").assert_outcomes(passed=2)
    project.write("more", "")
    result = project.run()
    result.assert_outcomes(failed=2)
    text = result.stdout.str()
    line = PRELUDE_LINES + 7
    result.stdout.fnmatch_lines(
        [
            "unmatched: GET https://api.example.com/item?id=2&sort=up",
            "  made by  python* (pid *)",
            f"*test_it.py:{line} in test_python",
            '*swallow("/item?id=2&sort=up")',
            "  nearest  GET https://api.example.com/item?id=1&sort=up*",
            "*id*- 1*",
            "*+ 2*",
        ]
    )
    result.stdout.fnmatch_lines(
        [
            "unmatched: POST https://api.example.com/thing",
            "  made by  curl (pid *)",
            "*curl -sS*",
            "*- *1*",
            "*+ *2*",
        ]
    )
    assert receipt_of(result)["unmatched"] == 2
    assert "netcapture/active.py" not in text
    # One that the code does not swallow keeps its own error, and gets a section.
    project.test(
        """
        @pytest.mark.cassette("shared")
        def test_loud():
            get("/item?id=2&sort=up")
            get("/item?id=3")
        """
    )
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E *RemoteDisconnected*", "*Captured netcapture call*", "unmatched: GET *id=2*"]
    )


def test_a_blocked_connection_fails_with_host_port_process_and_line(project: Project) -> None:
    project.test(
        """
        def test_option():
            swallow("/x")
        def test_curl():
            subprocess.run(["curl", "-sS", URL + "/x"])
        def test_by_address():
            with pytest.raises(OSError):
                socket.create_connection(("203.0.113.9", 8080), 5)
        def test_datagram(netcapture):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.sendto(b"x", ("203.0.113.9", 514))
                netcapture.wait_for(port=514, timeout=20)
        """,
        "test_blocked.py",
    )
    result = project.run("--netcapture-block")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "blocked: * api.example.com*",
            "  made by  python* (pid *)",
            f"*test_blocked.py:{PRELUDE_LINES + 3} in test_option",
            "  do * --netcapture-allow=*api.example.com*",
            "blocked: *api.example.com*",
            "  made by  curl (pid *)",
            "blocked: TCP 203.0.113.9:8080",
            "  made by  python* (pid *)",
            f"*test_blocked.py:{PRELUDE_LINES + 8} in test_by_address",
            "blocked: UDP 203.0.113.9:514",
        ]
    )
    curl = result.outlines[
        result.outlines.index(next(x for x in result.outlines if "_ test_curl _" in x)) :
    ]
    assert "test_option" not in "".join(
        curl[: curl.index(next(x for x in curl if "_by_address _" in x))]
    )
    assert receipt_of(result)["blocked"] >= 4
    assert receipt_of(result)["left"] == 0


def test_block_by_marker_fixture_and_pattern(project: Project) -> None:
    project.test(
        """
        @pytest.mark.netcapture(block=True)
        class TestMarked:
            def test_fails(self):
                swallow("/x")
            @pytest.mark.netcapture(block=False)
            def test_nearest_wins(self):
                get("/x")
            @pytest.mark.netcapture(allow="api.example.com")
            def test_allowed_host(self):
                get("/x")
            @pytest.mark.netcapture(allow=["*.example.com"])
            def test_allowed_glob(self):
                get("/x")
            @pytest.mark.netcapture(allow=["api.example.com:443"])
            def test_allowed_port(self):
                get("/x")
            @pytest.mark.netcapture(allow=["api.example.com:80"])
            def test_other_port_fails(self):
                swallow("/x")
            def test_loopback_is_left_alone(self):
                with socket.create_server(("127.0.0.1", 0)) as listener:
                    socket.create_connection(listener.getsockname(), 5).close()
        def test_fixture_fails(netcapture):
            get("/x")
            netcapture.block()
            swallow("/x")
            assert len(netcapture.blocked) >= 1
        def test_fixture_pattern_fails(netcapture):
            netcapture.block("api.example.com")
            swallow("/x")
        def test_fixture_allow(netcapture):
            netcapture.block()
            netcapture.allow("api.example.com")
            get("/x")
        def test_only_for_the_rest_of_the_test():
            get("/x")
        @pytest.mark.netcapture(block=True, allow=["203.0.113.0/24"], map_host={"203.0.113.7:80": os.environ["PLAIN"]})
        def test_cidr():
            urllib.request.urlopen("http://203.0.113.7/x", timeout=20).close()
        @pytest.mark.netcapture(block=True, loopback="capture", allow="loopback")
        def test_allowed_loopback():
            urllib.request.urlopen("http://" + os.environ["PLAIN"] + "/x", timeout=20).close()
        @pytest.mark.netcapture(block=True, loopback="capture")
        def test_captured_loopback_fails():
            try:
                urllib.request.urlopen("http://" + os.environ["PLAIN"] + "/x", timeout=20).close()
            except OSError:
                pass
        """
    )
    project.pytester._monkeypatch.setenv("PLAIN", f"127.0.0.1:{project.server.http}")
    result = project.run("-rA")
    text = result.stdout.str()
    failed = set(re.findall(r"^FAILED \S+::(\w+)", text, re.MULTILINE))
    passed = set(re.findall(r"^PASSED \S+::(\w+)", text, re.MULTILINE))
    assert all(name.endswith("fails") for name in failed), text
    assert not any(name.endswith("fails") for name in passed), text
    assert len(failed) == 5
    assert len(passed) == 9


def test_setup_teardown_and_outcomes(project: Project) -> None:
    project.test(
        """
        pytestmark = pytest.mark.netcapture(block=True)
        @pytest.fixture
        def bad_setup():
            swallow("/setup")
        @pytest.fixture
        def bad_teardown():
            yield
            swallow("/teardown")
        def test_setup(bad_setup):
            raise AssertionError("must not run")
        def test_teardown(bad_teardown):
            pass
        def test_own_failure():
            swallow("/own")
            assert 1 == 2, "mine"
        @pytest.mark.xfail
        def test_xfail():
            swallow("/x")
        @pytest.mark.xfail(strict=True)
        def test_xfail_strict():
            swallow("/x")
        @pytest.mark.skip
        def test_skipped():
            swallow("/x")
        def test_skips_itself():
            pytest.skip("no")
        def test_skips_itself_after_traffic():
            swallow("/x")
            pytest.skip("no")
        def test_exits_in_a_thread():
            thread = threading.Thread(target=swallow, args=("/x",))
            thread.start()
            thread.join()
        def test_good():
            pass
        """
    )
    result = project.run("-rA")
    result.assert_outcomes(passed=2, failed=2, errors=2, skipped=3, xfailed=2)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_setup*",
            "blocked: *api.example.com*",
            "*ERROR at teardown of test_teardown*",
            "blocked: *api.example.com*",
            "*test_own_failure*",
            "E * mine",
            "*Captured netcapture call*",
            "blocked: *api.example.com*",
        ]
    )
    assert "must not run" not in [line.strip() for line in result.outlines if line.startswith("E ")]


def test_wider_fixtures_and_import_fail_the_run(project: Project) -> None:
    project.test(
        """
        @pytest.fixture(scope="session")
        def wide():
            swallow("/wide")
            yield 1
            swallow("/wide-teardown")
        def test_uses(wide):
            pass
        def test_uses_again(wide):
            pass
        """
    )
    result = project.run("--netcapture-block")
    assert result.ret == 1
    result.assert_outcomes(passed=1, errors=2)
    text = result.stdout.str()
    assert text.count("blocked: ") >= 2
    # At import: no test's, so the run's.
    project.test("swallow('/at-import')\ndef test_it(): pass\n")
    for args in ((), ("-n", "1"), ("--collect-only",)):
        result = project.run("--netcapture-block", *args, use="xdist")
        assert result.ret == 1, result.stdout.str()
        result.stdout.fnmatch_lines(
            ["*netcapture: outside of any test*", "blocked: *api.example.com*"]
        )
