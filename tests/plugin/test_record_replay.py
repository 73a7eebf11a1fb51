"""The main job: record from a real server with real clients, then replay with it gone."""

from __future__ import annotations

import pytest
from plugin_lab import Project, Server, receipt_of

CLIENTS = """
    import asyncio, aiohttp, httpx, requests
    pytestmark = pytest.mark.cassette

    def test_requests(netcapture):
        answer = requests.get(URL + "/a", params={"x": "1"}, timeout=20)
        assert answer.json()["path"] == "/a?x=1"
        netcapture.assert_requested("GET", URL + "/a", query={"x": "1"}, times=1)
        assert "api.example.com" in netcapture.dns.names

    def test_requests_session_posts(netcapture):
        with requests.Session() as session:
            for n in range(3):
                answer = session.post(URL + "/p", json={"n": n}, timeout=20)
                assert json.loads(answer.json()["body"]) == {"n": n}
        netcapture.assert_requested("POST", URL + "/p", json={"n": 1}, times=1)
        assert len(netcapture.http) == 3

    def test_httpx():
        assert httpx.get(URL + "/hx").json()["path"] == "/hx"

    def test_urllib():
        assert json.loads(get("/ul"))["path"] == "/ul"

    def test_aiohttp():
        async def main():
            async with aiohttp.ClientSession() as session:
                async with session.get(URL + "/aio") as answer:
                    return await answer.json()
        assert asyncio.run(main())["path"] == "/aio"

    def test_curl(netcapture):
        out = subprocess.run(["curl", "-sS", URL + "/curl"], capture_output=True, check=True).stdout
        assert json.loads(out)["path"] == "/curl"
        assert netcapture.http.one(path="/curl").process.name == "curl"

    def test_chunked_body():
        assert get("/slow?n=300") == "x" * 300 * 1024
"""


@pytest.mark.shows(
    "HTTP/1.1",
    "asserted",
    "recorded",
    "replayed",
    clients=["requests", "httpx", "urllib", "aiohttp", "curl"],
)
def test_five_clients_record_and_replay_with_the_server_gone(
    project: Project, own_server: Server
) -> None:
    project.server = own_server
    project.test(CLIENTS)
    recorded = project.run()
    recorded.assert_outcomes(passed=7)
    numbers = receipt_of(recorded)
    assert numbers["recorded"] >= 9
    assert numbers["played"] == 0
    assert len(project.cassettes()) == 7
    assert project.left_behind() == []

    own_server.stop()
    for args in ((), ("-n", "2")):
        replayed = project.run("--netcapture-record-mode=none", *args, use="xdist")
        replayed.assert_outcomes(passed=7)
        numbers = receipt_of(replayed)
        assert numbers["played"] >= 9
        unwanted = {"recorded", "unmatched", "unused", "blocked", "left"}
        assert {name: numbers[name] for name in unwanted} == dict.fromkeys(unwanted, 0)
    # Nothing is dialled on replay either, so it needs no mapping.
    project.server = Server(own_server.process, 1, 1, own_server.ca)
    project.run("--netcapture-record-mode=none").assert_outcomes(passed=7)
