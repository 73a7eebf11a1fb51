"""Plugins that run tests in another way: spread, forked, again."""

from __future__ import annotations

import pytest
from plugin_lab import Project, receipt_of

TESTS = """
    def fetch(path):
        return json.loads(get(path))["path"]
    class TestA:
        @pytest.mark.parametrize("n", range(3))
        def test_it(self, netcapture, n):
            assert fetch(f"/a/{n}") == f"/a/{n}"
            netcapture.assert_requested(path=f"/a/{n}", times=1)
            assert len(netcapture.http) == 1
    class TestB:
        @pytest.mark.cassette
        @pytest.mark.parametrize("n", range(3))
        def test_it(self, netcapture, n):
            assert fetch(f"/b/{n}") == f"/b/{n}"
            netcapture.assert_requested(path=f"/b/{n}", times=1)
    @pytest.fixture(scope="session")
    def once():
        return fetch("/once")
    @pytest.mark.parametrize("n", range(2))
    def test_fixture(once, n):
        assert once == "/once"
"""


@pytest.mark.parametrize(
    ("options", "times"),
    [
        (["-n2", "--dist=load"], 1),
        (["-n2", "--dist=loadscope"], 1),
        (["--tx=2*popen", "--dist=each"], 2),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_xdist(project: Project, options: list[str], times: int) -> None:
    project.test(TESTS)
    result = project.run(*options, use="xdist")
    result.assert_outcomes(passed=8 * times)
    assert receipt_of(result)["flows"] >= 14 * times
    assert len(project.cassettes()) == 3
    replayed = project.run("--netcapture-record-mode=none", *options, use="xdist")
    replayed.assert_outcomes(passed=8 * times)
    assert receipt_of(replayed)["played"] >= 3 * times
    assert project.left_behind() == []


FORKED = """
    import pytest_forked
    def serializable(rep, serialize=pytest_forked.serialize_report):
        told = serialize(rep)
        told.pop("_id", None)  # pytest 9.2 has it, and pytest-forked 1.7.5 cannot pass it on
        return {**told, "nodeid": rep.nodeid}
    pytest_forked.serialize_report = serializable
"""


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=["alone", "xdist"])
def test_pytest_forked(project: Project, options: list[str]) -> None:
    project.write("conftest.py", FORKED)
    project.test(TESTS)
    use = "pytest_forked xdist"
    result = project.run("--forked", *options, use=use)
    result.assert_outcomes(passed=8)
    assert receipt_of(result)["flows"] >= 14
    assert len(project.cassettes()) == 3
    replayed = project.run("--netcapture-record-mode=none", "--forked", *options, use=use)
    replayed.assert_outcomes(passed=8)
    assert receipt_of(replayed)["played"] >= 3
    assert project.left_behind() == []


def test_forked_ones_among_others(project: Project) -> None:
    """One that crashes and one that is blocked do not disturb what comes after."""
    project.write("conftest.py", FORKED)
    project.test(
        """
        def test_before(netcapture):
            get("/1")
            assert len(netcapture.http) == 1
        @pytest.mark.forked
        def test_forked(netcapture):
            get("/2")
            assert len(netcapture.http) == 1
        @pytest.mark.forked
        @pytest.mark.cassette
        def test_crash():
            get("/3")
            os._exit(13)
        @pytest.mark.forked
        @pytest.mark.netcapture(block=True)
        def test_blocked():
            swallow("/4")
        @pytest.mark.forked
        def test_killed(netcapture):
            os.kill(os.getpid(), 9)
        @pytest.mark.parametrize("n", range(5))
        def test_after(netcapture, n):
            get("/5")
            assert len(netcapture.http) == 1
        """
    )
    result = project.run(use="pytest_forked")
    result.assert_outcomes(passed=7, failed=3)
    result.stdout.fnmatch_lines(["*running the test EXITED with status 13*", "*blocked: DNS*"])
    assert project.cassettes() == []
    assert project.left_behind() == []


def test_rerunfailures(project: Project) -> None:
    """Each try is a test of its own: its flows and its problems, and one cassette in the end."""
    project.test(
        """
        tries = []
        @pytest.mark.flaky(reruns=3)
        def test_flows(netcapture):
            tries.append(1)
            get(f"/{len(tries)}")
            assert len(netcapture.http) == 1
            netcapture.assert_requested(path=f"/{len(tries)}")
            assert len(tries) == 3
        @pytest.mark.flaky(reruns=3)
        def test_blocked_at_first(netcapture):
            tries.append(1)
            if len(tries) == 4:
                netcapture.block()
            get("/x")
        @pytest.mark.flaky(reruns=2)
        @pytest.mark.cassette
        def test_cassette(netcapture):
            get("/same")
            tries.append(1)
            assert len(tries) == 7
        def test_after(netcapture):
            assert len(netcapture.flows) == 0
        """
    )
    result = project.run("-ra", use="rerunfailures")
    result.assert_outcomes(passed=4)
    assert result.parseoutcomes()["rerun"] == 4
    assert len(project.cassettes()) == 1
    project.run("-k", "after").assert_outcomes(passed=1, deselected=3)


def test_rerunfailures_talks_to_its_workers(project: Project) -> None:
    """With xdist it has a server in the controller, on the host's loopback: a plugin's own traffic."""
    project.test(
        """
        import pathlib
        @pytest.mark.flaky(reruns=2)
        @pytest.mark.parametrize("n", range(4))
        def test_crashes_once(request, n):
            mark = pathlib.Path(f"crashed-{n}")
            if not mark.exists():
                mark.touch()
                # The server says nothing to what it is told: once it answers it has heard that.
                assert request.config.failures_db.get_test_reruns(request.node.nodeid) == 2
                os._exit(1)
            get("/x")
        """
    )
    args = ("-n2", "--netcapture-block", "--netcapture-allow=api.example.com")
    result = project.run(*args, use="rerunfailures xdist")
    assert result.parseoutcomes()["passed"] == 4, result.stdout.str()
