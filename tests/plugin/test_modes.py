"""Record modes end to end, and who decides which one holds."""

from __future__ import annotations

import pytest
from plugin_lab import Project, Server, receipt_of

TWO = """
    @pytest.mark.cassette
    def test_two():
        get("/one")
        if os.path.exists("more"):
            get("/two")
"""


def run(project: Project, mode: str = "", *, passes: bool = True) -> dict[str, int]:
    args = [f"--netcapture-record-mode={mode}"] if mode else []
    result = project.run(*args)
    result.assert_outcomes(**({"passed": 1} if passes else {"failed": 1}))
    return receipt_of(result)


def http(numbers: dict[str, int]) -> dict[str, int]:
    return {name: numbers[name] for name in ("played", "recorded", "unmatched")}


def test_once_plays_what_it_has_and_records_no_more(project: Project) -> None:
    project.test(TWO)
    assert run(project)["recorded"] > 0
    before = (project.path / project.cassettes()[0]).read_bytes()
    numbers = run(project)
    assert numbers["recorded"] == 0
    assert numbers["played"] > 0
    project.write("more", "")
    numbers = run(project, passes=False)
    assert numbers["unmatched"] == 1
    assert numbers["recorded"] == 0
    assert (project.path / project.cassettes()[0]).read_bytes() == before


def test_new_episodes_plays_what_it_has_and_records_the_rest(project: Project) -> None:
    project.test(TWO)
    run(project)
    project.write("more", "")
    numbers = run(project, "new_episodes")
    assert numbers["recorded"] > 0
    assert numbers["played"] > 0
    assert numbers["unmatched"] == 0
    numbers = run(project, "none")
    assert numbers["recorded"] == 0
    assert numbers["unmatched"] == 0


def test_all_and_rewrite_record_anew(project: Project) -> None:
    project.write("more", "")
    project.test(TWO)
    run(project)
    (project.path / "more").unlink()
    numbers = run(project, "all")
    assert numbers["played"] == 0
    assert numbers["recorded"] > 0
    project.write("more", "")
    assert run(project, "none")["unmatched"] == 0  # `all` replaces, and keeps the rest
    (project.path / "more").unlink()
    assert run(project, "rewrite")["played"] == 0
    project.write("more", "")
    assert run(project, "none", passes=False)["unmatched"] == 1  # `rewrite` starts empty


def test_none_records_nothing_and_says_how_to(project: Project) -> None:
    project.test(TWO)
    result = project.run("--netcapture-record-mode=none")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*test_two*", "*record it*"])
    assert receipt_of(result)["recorded"] == 0
    assert project.cassettes() == []


def test_ci_never_records_by_accident(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.test(TWO)
    monkeypatch.setenv("CI", "true")
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*--netcapture-record-mode=once*"])
    assert "CI" in result.stdout.str()
    assert project.cassettes() == []
    assert run(project, "once")["recorded"] > 0
    assert receipt_of(project.run())["played"] > 0
    monkeypatch.setenv("CI", "false")
    assert run(project)["played"] > 0


def test_command_line_then_marker_then_fixture_then_ini(project: Project) -> None:
    """Each source is `none`, which fails, against nearer ones that record."""
    project.write("pytest.ini", "[pytest]\nnetcapture_record_mode = none\n")
    project.write(
        "with_fixture/conftest.py",
        """
        import pytest
        @pytest.fixture
        def netcapture_config():
            return {"record_mode": "once"}
        """,
    )
    project.test(
        """
        pytestmark = pytest.mark.cassette
        def test_ini(netcapture):
            assert netcapture.cassette.mode == "none"
        @pytest.mark.cassette(record_mode="all")
        class TestNearest:
            def test_class(self, netcapture):
                assert netcapture.cassette.mode == "all"
            @pytest.mark.cassette(record_mode="rewrite")
            def test_function(self, netcapture):
                assert netcapture.cassette.mode == "rewrite"
            @pytest.mark.netcapture(record_mode="new_episodes")
            def test_other_marker(self, netcapture):
                assert netcapture.cassette.mode == "new_episodes"
        """
    )
    project.test(
        """
        pytestmark = pytest.mark.cassette
        def test_fixture(netcapture):
            assert netcapture.cassette.mode == "once"
        @pytest.mark.cassette(record_mode="all")
        def test_marker(netcapture):
            assert netcapture.cassette.mode == "all"
        """,
        "with_fixture/test_f.py",
    )
    project.run().assert_outcomes(passed=6)
    project.test(
        """
        @pytest.mark.cassette(record_mode="all")
        def test_command_line(netcapture):
            assert netcapture.cassette.mode == "none"
        """,
        "test_line.py",
    )
    project.run("--netcapture-record-mode=none", "test_line.py").assert_outcomes(passed=1)


def test_strict_fails_a_test_with_unused_interactions(project: Project) -> None:
    project.write("more", "")
    project.test(TWO)
    run(project)
    (project.path / "more").unlink()
    result = project.run()
    result.assert_outcomes(passed=1)
    assert receipt_of(result)["unused"] == 1
    result = project.run("--netcapture-strict")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*unused: 1 of the interactions*", "*GET https://api.example.com/two*"]
    )


def test_auto_cassette_and_cassette_dir(project: Project) -> None:
    project.test("def test_x(): get('/x')\ndef test_silent(): pass\n", "sub/test_a.py")
    assert receipt_of(project.run("--netcapture-auto-cassette"))["recorded"] > 0
    assert project.cassettes() == ["sub/cassettes/test_a/test_x.cassette"]
    project.run("--netcapture-auto-cassette", "--netcapture-cassette-dir=tapes").assert_outcomes(
        passed=2
    )
    assert "tapes/test_a/test_x.cassette" in project.cassettes()
    project.write(
        "pytest.ini",
        "[pytest]\nnetcapture_auto_cassette = true\nnetcapture_cassette_dir = from_ini\n",
    )
    project.run("--rootdir=.", "sub").assert_outcomes(passed=2)
    assert "from_ini/test_a/test_x.cassette" in project.cassettes()


def test_a_recording_survives_its_server(project: Project, own_server: Server) -> None:
    """Refused connections are recordings too."""
    project.server = own_server
    own_server.stop()
    project.test(
        """
        @pytest.mark.cassette
        def test_refused():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("api.example.com", 443), 5)
        """
    )
    assert run(project)["recorded"] > 0
    assert run(project, "none")["played"] > 0
