"""vcrpy's filters, matchers and ignored hosts in `netcapture_config`; what a miss says to ignore."""

from __future__ import annotations

CONFIG = """
import pytest

@pytest.fixture
def netcapture_config():
    return {
        "filter_headers": ["x-run", ("x-user", "somebody")],
        "filter_query_parameters": ["nonce"],
        "filter_post_data_parameters": ["pin", ("name", "anybody")],
        "ignore_hosts": ["live.example.com"],
        "match_on": ["method", "uri", "headers", "raw_body"],
    }
"""


def test_filters_and_ignored_hosts(project, monkeypatch):
    project.write("conftest.py", CONFIG)
    project.test(
        """
        LIVE = "http://live.example.com"

        @pytest.mark.cassette
        def test_it(netcapture):
            run = os.environ["RUN"]
            headers = {"x-run": run, "x-user": run, "Content-Type": "application/json"}
            said = get(f"/count?nonce={run}&a=1", headers=headers)
            body = json.dumps({"pin": run, "name": run, "n": 1}).encode()
            get("/status/201", method="POST", data=body, headers=headers)
            assert netcapture.http.last.request.json()["name"] == run
            live = urllib.request.urlopen(LIVE + "/count", timeout=20).read()
            print("LIVE", live, "SAID", said)
        """
    )
    port = f"--netcapture-map-host=live.example.com:80=127.0.0.1:{project.server.http}"
    seen = []
    for run in ("one", "two"):
        monkeypatch.setenv("RUN", run)
        result = project.run("-s", port)
        result.assert_outcomes(passed=1)
        seen.append(next(line for line in result.outlines if "LIVE" in line))
    live, said = zip(*(line.split(" SAID ") for line in seen), strict=True)
    assert live[0] != live[1]  # counted by the server
    assert said[0] == said[1]  # played
    kept = (project.path / project.cassettes()[0]).read_bytes()
    assert not any(word in kept for word in (b"live.example.com", b"nonce", b"pin", b"x-run"))
    assert b"somebody" in kept
    assert b"anybody" in kept


def test_what_a_miss_says_is_what_to_write(project, monkeypatch):
    body = """
        @pytest.mark.cassette(**json.loads(os.environ.get("MARK", "{}")))
        def test_it():
            body = {"at": os.environ["AT"], "id": 1}
            get("/x", method="POST", data=json.dumps(body).encode())
        """
    project.test(body)
    monkeypatch.setenv("AT", "2026-01-02T03:04:05Z")
    project.run().assert_outcomes(passed=1)
    monkeypatch.setenv("AT", "2026-01-02T03:04:06Z")
    result = project.run()
    result.assert_outcomes(failed=1)
    advice = 'match_on without "body" accepts it, and so does filters={"ignore": ["body.at"]}'
    assert advice in result.stdout.str()
    monkeypatch.setenv("MARK", '{"filters": {"ignore": ["body.at"]}}')
    project.run().assert_outcomes(passed=1)


def test_what_is_configured_wrongly(project):
    wrong = {
        "{'filter_headers': 'x-run'}": "filter_headers: 'x-run' is no list of names",
        "{'filter_headers': [('a', print)]}": "'a' is replaced by a function",
        "{'filter_query_parameters': [1]}": "1 is no name, nor a name and a text",
        "{'ignore_localhost': 'yes'}": "must be True or False",
        "{'ignore_host': ['a']}": "did you mean 'ignore_hosts'?",
        "{'filters': {'ignore': ['path']}}": "it begins with none of query, headers, body",
    }
    for number, value in enumerate(wrong):
        project.test(
            f"""
            @pytest.fixture
            def netcapture_config():
                return {value}

            def test_it():
                pass
            """,
            f"test_{number}.py",
        )
    result = project.run()
    result.assert_outcomes(errors=len(wrong))
    for said in wrong.values():
        assert said in result.stdout.str(), said
