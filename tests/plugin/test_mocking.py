"""Mocks as a test's author sees them: fixtures, failures, options, the documentation's own examples."""

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


@pytest.mark.parametrize("page", ["mocking"])
def test_the_examples_of_the_documentation_hold(project, page):
    blocks = re.findall(
        r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL
    )
    for number, block in enumerate(blocks):
        project.write(f"test_block_{number}.py", block)
    result = project.run()
    result.assert_outcomes(passed=len(blocks))
