"""What is kept of failed tests, and where; and that the others leave nothing."""

from __future__ import annotations

import json

TESTS = """
    def test_passes(netcapture):
        get("/fine", headers={"Authorization": "Bearer of-a-secret"})

    def test_fails(netcapture):
        get("/wrong?x=1", headers={"Authorization": "Bearer of-a-secret"})
        assert False

    def test_says_nothing():
        assert False

    @pytest.mark.netcapture(block=True)
    def test_swallows():
        swallow("/blocked")
"""


def kept(project, folder="netcapture-kept"):
    root = project.path / folder
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def of(test, *names):
    known = ("packets.pcapng", "traffic.cassette", "traffic.cassette.txt", "traffic.har")
    return [f"test_it/{test}/{name}" for name in names or known]


def test_a_failed_test_leaves_its_traffic(project):
    project.test(TESTS)
    result = project.run("--netcapture-keep=failed", "--junitxml=junit.xml")
    result.assert_outcomes(passed=1, failed=3)
    assert kept(project) == [*of("test_fails"), *of("test_swallows")]
    folder = project.path / "netcapture-kept" / "test_it" / "test_fails"
    result.stdout.fnmatch_lines(["*traffic, kept in teardown*", f"{folder}"])
    (entry,) = json.loads((folder / "traffic.har").read_bytes())["log"]["entries"]
    assert entry["request"]["url"].endswith("/wrong?x=1")
    assert (folder / "packets.pcapng").read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"
    for path in folder.iterdir():
        if path.name != "packets.pcapng":
            assert b"of-a-secret" not in path.read_bytes(), path.name
    text = (project.path / "junit.xml").read_text()
    assert f'name="netcapture_kept" value="{folder}"' in text


def test_always_and_elsewhere_and_for_one_test(project):
    project.test(TESTS)
    result = project.run(
        "--netcapture-keep=always", "--netcapture-keep-dir=out", "-n2", use="xdist"
    )
    result.assert_outcomes(passed=1, failed=3)
    assert kept(project, "out") == [*of("test_fails"), *of("test_passes"), *of("test_swallows")]
    project.test(TESTS.replace("block=True", "block=True, keep='never'"))
    project.write("pytest.ini", "[pytest]\nnetcapture_keep_dir = ini\nnetcapture_keep = always\n")
    project.run().assert_outcomes(passed=1, failed=3)
    assert kept(project, "ini") == [*of("test_fails"), *of("test_passes")]


def test_what_is_seen_at_the_end_only(project):
    project.test(
        """
        @pytest.fixture
        def late():
            yield
            swallow("/late")

        @pytest.mark.netcapture(block=True)
        def test_late(late):
            pass
        """
    )
    project.run("--netcapture-keep=failed").assert_outcomes(passed=1, errors=1)
    assert kept(project)[-2:] == of("test_late", "traffic.cassette.txt", "traffic.har")


def test_a_folder_that_cannot_be_is_a_warning(project):
    project.test("def test_it(): get('/x')\n")
    project.write("taken", "a file")
    result = project.run("--netcapture-keep=always", "--netcapture-keep-dir=taken")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*netcapture: nothing was kept: *taken*"])


def test_a_misspelt_choice(project):
    project.test("def test_it(): pass\n")
    result = project.run("--netcapture-keep=failing")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--netcapture-keep*failing*"])
