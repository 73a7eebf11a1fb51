"""Where cassettes are, and what happens when two tests mean the same."""

from __future__ import annotations

from plugin_lab import Project


def test_default_and_explicit_names(project: Project) -> None:
    project.test(
        """
        import unittest
        pytestmark = pytest.mark.cassette
        def path(netcapture):
            folder = os.path.join(os.path.dirname(__file__), "cassettes") + "/"
            assert netcapture.cassette.path.startswith(folder)
            return netcapture.cassette.path[len(folder):]
        def test_plain(netcapture):
            assert path(netcapture) == "test_it/test_plain.cassette"
        class TestA:
            class TestB:
                def test_deep(self, netcapture):
                    assert path(netcapture) == "test_it/TestA.TestB.test_deep.cassette"
        @pytest.mark.parametrize("p", ["a/b?c*d", "x:y|z<1>", 'q"r%', "ü€", ".."])
        def test_param(netcapture, p, request):
            got = path(netcapture)
            assert got.startswith("test_it/test_param[")
            assert got.count("/") == 1
            assert not set('<>?%*:|"') & set(got)
        @pytest.mark.parametrize("p", ["é" * 400, "é" * 400 + "x"], ids=str)
        def test_long(netcapture, p):
            get("/" + str(len(p)))
            name = os.path.basename(path(netcapture))
            assert len(name.encode()) < 220
        @pytest.mark.cassette("given")
        def test_given(netcapture):
            assert path(netcapture) == "given.cassette"
        @pytest.mark.cassette(name="folder/given.cassette")
        def test_given_folder(netcapture):
            assert path(netcapture) == "folder/given.cassette"
        class TestUnit(unittest.TestCase):
            def test_unit(self):
                get("/unit")
        """
    )
    project.run().assert_outcomes(passed=12)
    found = project.cassettes()
    assert "cassettes/test_it/TestUnit.test_unit.cassette" in found
    assert len(found) == 3
    assert all((project.path / f"{name}.txt").exists() for name in found)
    project.run("--netcapture-record-mode=none").assert_outcomes(passed=12)


def test_tests_that_share_a_name_share_the_cassette(project: Project) -> None:
    project.test(
        """
        @pytest.mark.cassette("both")
        def test_a():
            get("/a")
        @pytest.mark.cassette("both")
        def test_b():
            get("/b")
        """
    )
    project.run().assert_outcomes(passed=2)
    assert project.cassettes() == ["cassettes/both.cassette"]
    project.run("--netcapture-record-mode=none").assert_outcomes(passed=2)
    project.run("--netcapture-record-mode=none", "-k", "test_b").assert_outcomes(passed=1)


def test_default_names_that_collide_are_an_error_that_names_both(project: Project) -> None:
    project.test(
        """
        @pytest.mark.cassette
        @pytest.mark.parametrize("p", ["a/b", "a:b"])
        def test_x(p):
            pass
        """
    )
    result = project.run()
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["*test_x?a/b?*test_x?a:b?*would both write*", "*cure: name one of them*"]
    )
    # Twice the same test is no collision; nor are two where nothing is recorded.
    project.test("@pytest.mark.cassette\ndef test_x(): pass\n")
    project.run("--keep-duplicates", "test_it.py", "test_it.py").assert_outcomes(passed=2)
    project.write("a/test_x.py", "def test_x(): pass\n")
    project.write("b/test_x.py", "def test_x(): pass\n")
    same = ("--import-mode=importlib", "a", "b", "--netcapture-cassette-dir=tapes")
    project.run(*same).assert_outcomes(passed=2)
    result = project.run(*same, "--netcapture-auto-cassette")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*a/test_x.py::test_x and b/test_x.py::test_x would both write*"])
    project.run("--import-mode=importlib", "a", "b", "--netcapture-auto-cassette").assert_outcomes(
        passed=2
    )
