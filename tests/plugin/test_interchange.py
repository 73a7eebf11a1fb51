"""What other tools recorded is replayed; what a test saw is saved in their formats."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pytest
import yaml

COMMAND = [sys.executable, "-c", "from pytest_netcapture.cli.main import main; main()"]


def netcapture(*arguments):
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done


def vcr_cassette(**response):
    request = {"method": "POST", "uri": "https://api.example.com/users", "body": '{"id": 7}'}
    request["headers"] = {"Content-Type": ["application/json"], "Authorization": ["Bearer of-old"]}
    status = {"code": 201, "message": "Created"}
    return {
        "version": 1,
        "interactions": [{"request": request, "response": {"status": status, **response}}],
    }


TEST = """
    @pytest.mark.cassette
    def test_users(netcapture):
        request = urllib.request.Request(
            "https://api.example.com/users",
            data=b'{ "id":7 }',
            headers={"Content-Type": "application/json", "Authorization": "Bearer of-today"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 201
            assert answer.reason == "Created"
            assert answer.headers.get_all("X-Two") == ["a=1", "b=2"]
            data = answer.read()
            if answer.headers["Content-Encoding"]:
                data = gzip.decompress(data)
            assert data == b"Ada and Eve"
        assert netcapture.http.one().origin == "played"
"""


@pytest.mark.parametrize("coded", [False, True])
def test_a_cassette_of_vcrpys_is_replayed(project, coded):
    headers = {"X-Two": ["a=1", "b=2"], "Transfer-Encoding": ["chunked"]}
    body = b"Ada and Eve"
    if coded:
        headers |= {"Content-Encoding": ["gzip"]}
        body = gzip.compress(body)
    recorded = vcr_cassette(headers=headers, body={"string": body})
    project.write("cassettes/test_it/test_users.yaml", yaml.safe_dump(recorded))
    netcapture("import", str(project.path / "cassettes"))
    project.test("import gzip\n" + "\n".join(line[4:] for line in TEST.splitlines()))
    project.run("--netcapture-record-mode=none").assert_outcomes(passed=1)


def test_what_was_seen_is_saved(project):
    project.test(
        """
        def test_it(netcapture):
            get("/users?page=2", headers={"Authorization": "Bearer abcdefgh-secret"})
            netcapture.save("seen.har")
            netcapture.save("seen.cassette")
            with pytest.raises(Exception, match="write .cassette, .har or .pcapng"):
                netcapture.save("seen.txt")
        """
    )
    project.run().assert_outcomes(passed=1)
    text = (project.path / "seen.har").read_text()
    assert "abcdefgh-secret" not in text
    (entry,) = json.loads(text)["log"]["entries"]
    assert entry["request"]["url"].endswith("/users?page=2")
    assert entry["response"]["status"] == 200
    assert entry["time"] > 0
    assert entry["startedDateTime"].startswith("20")
    shown = netcapture("show", "--json", str(project.path / "seen.cassette")).stdout
    assert any(json.loads(line)["kind"] == "http" for line in shown.splitlines())
    assert "abcdefgh-secret" not in shown


@pytest.mark.live
def test_a_program_s_exchanges_go_to_a_har(project):
    har = project.path / "out.har"
    code = (
        "import urllib.request as u; u.urlopen('http://api.example.com/users', timeout=20).read()"
    )
    mapping = f"api.example.com:80=127.0.0.1:{project.server.http}"
    netcapture("run", "--har", str(har), "--map-host", mapping, "--", sys.executable, "-c", code)
    (entry,) = json.loads(har.read_bytes())["log"]["entries"]
    assert entry["request"]["url"] == "http://api.example.com/users"
