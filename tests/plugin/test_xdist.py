"""pytest-xdist: shared cassettes, crashed workers, receipts, errors that all workers have."""

from __future__ import annotations

import os

import pytest
from plugin_lab import Project, receipt_of


def test_forty_tests_of_four_workers_share_one_cassette(project: Project) -> None:
    """The two Python recorders keep 13 to 16 of 40."""
    project.test(
        """
        @pytest.mark.cassette("shared")
        @pytest.mark.parametrize("n", range(40))
        def test_many(n):
            assert json.loads(get(f"/n/{n}"))["path"] == f"/n/{n}"
        """
    )
    result = project.run("-n", "4", "--netcapture-record-mode=new_episodes", use="xdist")
    result.assert_outcomes(passed=40)
    recorded = receipt_of(result)["recorded"]
    assert recorded >= 40
    replayed = project.run("--netcapture-record-mode=none")
    replayed.assert_outcomes(passed=40)
    assert receipt_of(replayed)["played"] >= 40
    assert project.cassettes() == ["cassettes/shared.cassette"]
    sidecar = (project.path / "cassettes/shared.cassette.txt").read_text()
    assert sum(f"/n/{n}\n" in sidecar or f"/n/{n} " in sidecar for n in range(40)) == 40
    assert project.left_behind() == []


def test_a_crashed_worker_is_replaced_and_its_receipts_count(project: Project) -> None:
    project.test(
        """
        def test_1(): get("/1")
        def test_2(): get("/2")
        def test_crash(): os._exit(13)
        def test_3(): get("/3")
        def test_4(netcapture):
            get("/4")
            netcapture.assert_requested(path="/4")
        """
    )
    result = project.run("-n", "1", use="xdist")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*crashed while running*test_crash*"])
    alone = receipt_of(project.run("--deselect=test_it.py::test_crash"))
    assert receipt_of(result) == alone
    assert alone["flows"] >= 8
    assert project.left_behind() == []


def test_receipts_and_failures_come_from_workers(project: Project) -> None:
    project.test(
        """
        @pytest.mark.parametrize("n", range(4))
        def test_blocked(n):
            swallow("/x")
        """
    )
    one = project.run("--netcapture-block")
    two = project.run("--netcapture-block", "-n", "2", use="xdist")
    one.assert_outcomes(failed=4)
    two.assert_outcomes(failed=4)
    assert receipt_of(one) == receipt_of(two)
    assert "test_it.py:" in two.stdout.str()


def test_a_worker_has_no_more_rights_than_it_needs(project: Project) -> None:
    project.test(
        """
        @pytest.mark.skipif(os.getuid() == 0, reason="root's children have everything")
        @pytest.mark.parametrize("n", range(2))
        def test_children_have_none(n):
            told = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
            wanted = ("CapPrm", "CapEff", "CapAmb")
            caps = [line.split()[1] for line in told.splitlines() if line.startswith(wanted)]
            assert [int(cap, 16) for cap in caps] == [0, 0, 0]
            assert os.getuid() == os.stat(__file__).st_uid
        """
    )
    for args in ((), ("-n", "2")):
        result = project.run(*args, use="xdist")
        assert result.ret == 0, result.stdout.str()


def test_what_no_worker_can_do_is_said_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.test("@pytest.mark.cassette(recordmode='once')\ndef test_x(): pass\n")
    result = project.run("-n", "2", use="xdist")
    assert result.ret == 4
    text = result.stdout.str() + result.stderr.str()
    assert text.count("unknown argument 'recordmode'") == 1, text
    assert "did you mean 'record_mode'" in text
    assert "replacing crashed worker" not in text
    project.test("def test_x(): pass\n")
    project.write(
        "no_room.py",
        """
        import os, tempfile
        if "PYTEST_XDIST_WORKER" in os.environ:
            tempfile.tempdir = "/nonexistent"
        """,
    )
    monkeypatch.setenv("PYTHONPATH", str(project.path), prepend=os.pathsep)
    result = project.run("-n", "2", "-p", "no_room", "-s", use="xdist")
    text = result.stdout.str() + result.stderr.str()
    assert result.ret == 3, text
    assert "cure: set TMPDIR to a writable directory" in text
    assert "replacing crashed worker" not in text
