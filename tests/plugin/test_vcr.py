"""pytest-recording's tests, with `-p pytest_netcapture.vcr` in its place."""

from __future__ import annotations

import pytest
import yaml

ON = ("-p", "pytest_netcapture.vcr")
TESTS = """
    @pytest.fixture(scope="module")
    def vcr_config():
        return {"filter_headers": [("authorization", "DUMMY")], "ignore_localhost": True,
                "decode_compressed_response": True}

    @pytest.mark.vcr
    def test_one():
        assert get("/count?a=1", headers={"Authorization": "secret-secret"})

    class TestGroup:
        @pytest.mark.vcr
        @pytest.mark.parametrize("n", ["a/b"])
        def test_two(self, n, vcr):
            get("/status/201", method="POST", data=b"x")
            print("PLAYED", vcr.play_count, len(vcr), vcr.all_played)

    @pytest.mark.default_cassette("named.yaml")
    @pytest.mark.vcr
    def test_named(record_mode, default_cassette_name):
        get("/named")
        assert default_cassette_name == "named.yaml"
        assert record_mode in ("once", "none")

    def test_without():
        pass
"""
FILES = ["TestGroup.test_two[a-b].yaml", "named.yaml", "test_one.yaml"]


def recorded(project):
    folder = project.path / "cassettes" / "test_it"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def run(project, *options):
    return project.run(*ON, *options, netcapture=False)


@pytest.fixture
def where(project):
    return project.server.options()


def test_recorded_as_yaml_and_replayed(project, where):
    project.test(TESTS)
    run(project, "--record-mode=once", *where).assert_outcomes(passed=4)
    assert recorded(project) == FILES
    text = (project.path / "cassettes" / "test_it" / "test_one.yaml").read_text()
    (one,) = yaml.safe_load(text)["interactions"]
    assert one["request"]["uri"].endswith("/count?a=1")
    (scrubbed,) = one["request"]["headers"]["Authorization"]
    assert scrubbed.startswith("scrubbed-"), "whatever the filters"
    assert one["response"]["status"] == {"code": 200, "message": "OK"}
    result = run(project, "-s")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*PLAYED 1 1 True*", "*0 packets left this machine"])
    assert (project.path / "cassettes" / "test_it" / "test_one.yaml").read_text() == text


def test_the_default_is_to_record_nothing(project, where):
    project.test(TESTS)
    run(project, *where).assert_outcomes(passed=1, failed=3)
    assert recorded(project) == []


def test_new_episodes_are_added_to_a_file_of_vcrpys(project, where):
    project.test(
        "@pytest.mark.vcr\ndef test_it():\n    assert get('/old') == 'old'\n    get('/count')\n"
    )
    old = {
        "request": {
            "method": "GET",
            "uri": "https://api.example.com/old",
            "body": None,
            "headers": {},
        },
        "response": {
            "status": {"code": 200, "message": "OK"},
            "headers": {},
            "body": {"string": "old"},
        },
    }
    path = project.write(
        "cassettes/test_it/test_it.yaml", yaml.safe_dump({"version": 1, "interactions": [old]})
    )
    run(project, *where).assert_outcomes(failed=1)
    run(project, "--record-mode=new_episodes", *where).assert_outcomes(passed=1)
    paths = [one["request"]["uri"] for one in yaml.safe_load(path.read_text())["interactions"]]
    assert sorted(uri.rpartition("/")[2] for uri in paths) == ["count", "old"]
    run(project).assert_outcomes(passed=1)


def test_marks_say_more_and_other_files_are_played_too(project, where):
    project.test(
        """
        @pytest.mark.vcr
        def test_shared():
            get("/shared")

        @pytest.mark.vcr("test_shared.yaml", allow_playback_repeats=True, match_on=["path"])
        def test_it():
            get("/shared?other=1")
            get("/shared?other=2")
        """
    )
    run(project, "--record-mode=once", "-k", "shared", *where).assert_outcomes(passed=1)
    run(project).assert_outcomes(passed=2)
    assert recorded(project) == ["test_shared.yaml"]


def test_the_network_is_blocked(project, where):
    project.test(
        """
        @pytest.mark.block_network
        def test_marked():
            get("/x")

        @pytest.mark.block_network(allowed_hosts=["api.example.com"])
        def test_allowed():
            get("/x")
        """
    )
    run(project, *where).assert_outcomes(passed=1, failed=1)
    run(project, "--block-network", "--allowed-hosts=api.example.com", "-k", "allowed", *where)


def test_a_loopback_server_is_recorded_too(project, where):
    project.test(
        """
        @pytest.mark.vcr
        def test_it():
            url = os.environ["SERVER"] + "/count"
            print("SAID", urllib.request.urlopen(url, timeout=20).read())
        """
    )
    project.pytester._monkeypatch.setenv("SERVER", f"http://127.0.0.1:{project.server.http}")
    said = []
    for options in (("--record-mode=once", *where), ()):
        result = run(project, "-s", *options)
        result.assert_outcomes(passed=1)
        said.append(next(line for line in result.outlines if "SAID" in line))
    assert said[0] == said[1]
    assert recorded(project) == ["test_it.yaml"]


def test_long_names_are_cut(project, where):
    project.test(
        """
        @pytest.mark.vcr
        @pytest.mark.parametrize("x", ["y" * 300], ids=str)
        def test_it(x):
            get("/x")
        """
    )
    run(project, "--record-mode=once", *where).assert_outcomes(passed=1)
    run(project).assert_outcomes(passed=1)


def test_what_there_is_nothing_for_is_named(project, where):
    project.test("@pytest.mark.vcr(before_record=print)\ndef test_it(): pass\n")
    result = run(project)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*netcapture has nothing for vcrpy's option 'before_record'*"])


def test_workers(project, where):
    project.test(TESTS)
    options = (*ON, "--record-mode=once", "-n2", *where)
    project.run(*options, netcapture=False, use="xdist").assert_outcomes(passed=4)
    assert recorded(project) == FILES
    project.run(*ON, "-n2", netcapture=False, use="xdist").assert_outcomes(passed=4)
