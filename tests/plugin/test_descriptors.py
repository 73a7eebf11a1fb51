"""Tests that close all descriptors, or leave none: what can go on does, what cannot says why."""

from __future__ import annotations

from plugin_lab import Project

EXHAUST = """
    import resource
    def exhaust(limit=150):
        "Open files until there is no descriptor left; return them, and the limit as it was."
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        held = []
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return held, (soft, hard)
    def relax(held, limits):
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
"""


def test_none_left_within_a_test(project: Project) -> None:
    project.test(
        EXHAUST
        + """
    @pytest.mark.parametrize("n", range(3))
    def test_it(netcapture, n):
        get("/before")
        held, limits = exhaust()
        try:
            with pytest.raises(OSError):
                get("/none")
            netcapture.assert_requested(path="/before", times=1)
            netcapture.assert_not_requested(path="/none")
            netcapture.block("other.example.com")
        finally:
            relax(held, limits)
        get("/after")
        assert [flow.response.status for flow in netcapture.http] == [200, 200]
        """
    )
    project.run().assert_outcomes(passed=3)


def test_none_left_for_tests_to_come(project: Project) -> None:
    """A namespace that is not known yet takes a descriptor: only a test that needs one is refused."""
    project.test(
        EXHAUST
        + """
    kept = []
    @pytest.fixture(scope="module", autouse=True)
    def tidy():
        yield
        for held, limits in kept:
            relax(held, limits)
    def test_takes_all():
        kept.append(exhaust())
    @pytest.mark.parametrize("n", range(6))
    def test_needs_none(netcapture, n):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        assert len(netcapture.flows) == 0
    def test_gives_back():
        relax(*kept.pop())
        """
    )
    result = project.run("-ra")
    told = result.parseoutcomes()
    assert told.get("errors", 0) >= 1, "threads that stay keep a namespace, so a new one is needed"
    assert told["passed"] + told["errors"] == 8
    assert "no descriptor left for the test's network namespace" in result.stdout.str()
    assert "cure: close what tests before this one have opened" in result.stdout.str()


def test_the_channel_closed_and_its_number_given_to_another(project: Project) -> None:
    """Nothing of ours is written to what has the number now; the run ends and says why."""
    project.test(
        """
        def test_it(tmp_path):
            path = tmp_path / "theirs"
            opened = []
            for name in os.listdir("/proc/self/fd"):
                try:
                    if not os.readlink("/proc/self/fd/" + name).startswith("socket:"):
                        continue
                except OSError:
                    continue
                os.close(int(name))
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
                assert descriptor == int(name) or os.dup2(descriptor, int(name))
                opened.append(path)
            assert opened
            with open("path", "w") as told:
                told.write(str(path))
        def test_after(): pass
        """
    )
    result = project.run()
    assert result.ret == 3, result.stdout.str()
    assert "a test has closed its descriptor" in result.stdout.str() + result.stderr.str()
    with open((project.path / "path").read_text()) as theirs:
        assert theirs.read() == ""
