"""The run's report: one file, all tests and flows in it, and what was recorded cannot script it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

import pytest

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
TESTS = """
    def test_one(netcapture):
        netcapture.mock("GET", "https://api.example.com/one").respond(200, json={"name": HOSTILE})
        get("/one", headers={"Authorization": "Bearer of-a-secret"})

    @pytest.mark.netcapture(block=True)
    def test_two():
        swallow("/two")

    def test_three():
        pass
"""


def found_in(path):
    text = path.read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return {test["test"]: test for test in json.loads(found[1])["tests"]}


@pytest.fixture
def report(project):
    def make(*options, use=""):
        project.test(TESTS.replace("HOSTILE", repr(HOSTILE)))
        result = project.run("--netcapture-report=out/report.html", *options, use=use)
        result.assert_outcomes(passed=2, failed=1)
        path = project.path / "out" / "report.html"
        result.stdout.fnmatch_lines([f"netcapture: report: {path}", "netcapture: * flows*"])
        assert [one.name for one in path.parent.iterdir()] == ["report.html"], "no parts are left"
        return path

    return make


@pytest.mark.parametrize("options", [(), ("-n2",)], ids=["one process", "workers"])
def test_every_test_with_traffic_is_in_it(report, options):
    path = report(*options, use="xdist")
    tests = found_in(path)
    assert set(tests) == {"test_it.py::test_one", "test_it.py::test_two"}
    one, two = tests["test_it.py::test_one"], tests["test_it.py::test_two"]
    assert not one["failed"]
    (flow,) = [flow for flow in one["flows"] if flow["kind"] == "http"]
    assert flow["response"]["body"]["json"] == {"name": HOSTILE}
    assert flow["origin"] == "mocked"
    assert 0 < flow["started"] < flow["ended"]
    assert two["failed"]
    assert two["problems"][0].startswith("blocked: ")
    text = path.read_text()
    assert "of-a-secret" not in text
    assert text.count("</script>") == 2, "nothing that was recorded ends the block of data"


def test_a_second_run_starts_over(report):
    assert found_in(report()).keys() == found_in(report()).keys()


def test_a_file_that_cannot_be_written_is_refused(project):
    project.test("def test_it(): pass\n")
    project.write("taken", "a file")
    result = project.run("--netcapture-report=taken/report.html")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--netcapture-report: cannot write *taken*"])


@pytest.fixture
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("not in CI: no Chromium")
    return found


def test_in_a_real_browser(report, chromium, tmp_path):
    """The page is drawn by its script, which its policy allows, and by nothing that was recorded."""
    path = report()
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    environ = os.environ | {"TMPDIR": "/tmp"}  # a socket's path has a limit
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)
    dom = done.stdout
    assert "<title>netcapture report</title>" in dom, done.stderr
    assert "2 tests" in re.search(r'id="count"[^>]*>([^<]*)', dom)[1]
    rows = re.findall(r'<div class="row[^>]*>', dom)
    assert len(rows) >= 4
    assert "https://api.example.com/one" in dom
