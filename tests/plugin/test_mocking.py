"""Mocks and faults as a test's author sees them: fixtures, failures, options, the documentation's own examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def test_mocks_in_a_whole_run(project):
    project.test(
        """
        from pytest_netcapture import Response

        @pytest.fixture
        def api(netcapture):
            return netcapture.mock("GET", "https://nowhere.example/*")

        def test_from_a_fixture(api):
            api.respond(json={"a": 1})
            reply = urllib.request.urlopen("https://nowhere.example/x")
            assert json.load(reply) == {"a": 1}
            assert len(api.calls) == 1

        def test_it_ends_with_its_test(netcapture):
            with pytest.raises(OSError):
                urllib.request.urlopen("https://nowhere.example/x")

        def test_a_callable_that_raises(netcapture):
            def broken(request):
                raise LookupError("broken on purpose")
            netcapture.mock("GET", URL + "/x").respond_with(broken)
            swallow("/x")

        def test_a_wrong_argument(netcapture):
            netcapture.mock("GET", URL + "/x").respond(jsn={})

        @pytest.mark.netcapture(strict=True)
        def test_unused(netcapture):
            netcapture.mock("GET", URL + "/never").respond(json={})

        @pytest.mark.netcapture(block=True)
        def test_blocked(netcapture):
            netcapture.mock("GET", URL + "/x").respond_with(lambda request: Response(text="hi"))
            assert get("/x") == "hi"
        """
    )
    result = project.run("-n", "2", use="xdist")
    result.assert_outcomes(passed=4, failed=2, errors=1)
    text = result.stdout.str()
    assert re.search(r"mock: GET https://api.example.com/x\n", text)
    assert 'raise LookupError("broken on purpose")' in text
    assert "LookupError: broken on purpose" in text
    assert "netcapture.mock(...).respond: unknown argument 'jsn'" in text
    assert "did you mean 'json'?" in text
    assert "unused: 1 of the test's mocks were not used" in text
    assert re.search(r"GET https://api.example.com/never, made at test_it.py:\d+: never used", text)


@pytest.mark.parametrize("page", ["mocking", "faults", "examples"])
def test_the_examples_of_the_documentation_hold(project, page):
    blocks = re.findall(
        r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL
    )
    for number, block in enumerate(blocks):
        project.write(f"test_block_{number}.py", block)
    result = project.run()
    result.assert_outcomes(passed=len(blocks))


def test_the_schedule_of_faults_is_told_when_a_test_fails(project):
    project.test(
        """
        def test_flaky(netcapture):
            netcapture.mock(host="nowhere.example")
            netcapture.fault(host="nowhere.example").status(503, after=1, probability=0.99, seed=3)
            for _ in range(3):
                urllib.request.urlopen("http://nowhere.example/x")

        def test_never(netcapture):
            netcapture.fault(host="nowhere.example").refuse()

        def test_told_in_lists(netcapture):
            netcapture.fault(host="nowhere.example").refuse()
            with pytest.raises(OSError):
                urllib.request.urlopen("http://nowhere.example/x")
            assert "[fault: refuse]" in repr(netcapture.flows)
            assert netcapture.tcp.first.error.kind == "refused"
        """
    )
    result = project.run()
    result.assert_outcomes(passed=2, failed=1)
    text = result.stdout.str()
    assert re.search(r"-+ netcapture faults -+\n", text)
    assert re.search(
        r"status 503 on host='nowhere.example', made at test_it.py:\d+, probability 0.99, seed '3':"
        r" struck at 2 of 2\n",
        text,
    )
    assert text.count("netcapture faults") == 1
