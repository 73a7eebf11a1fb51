"""`netcapture import` and `export`: from and to the files of other tools, and replayed."""

from __future__ import annotations

import json
import subprocess

import pytest

from pytest_netcapture.cassettes.source import Source

YAML = """
interactions:
- request:
    body: null
    headers: {Authorization: [Bearer abcdefgh12345678]}
    method: GET
    uri: https://api.example.com/users/1
  response:
    body: {string: '{"name": "Ada"}'}
    headers: {Content-Type: [application/json]}
    status: {code: 200, message: OK}
version: 1
"""


def flows_in(path):
    return [recording.flow() for recording in Source(str(path)).recordings]


def test_a_folder_of_vcrpys_becomes_cassettes(netcapture, tmp_path):
    (tmp_path / "test_a").mkdir()
    (tmp_path / "test_a" / "test_one.yaml").write_text(YAML)
    done = netcapture("import", tmp_path)
    target = tmp_path / "test_a" / "test_one.cassette"
    assert done.status == 0
    assert done.out == f"{tmp_path}/test_a/test_one.yaml: 1 flow to {target}\n"
    (flow,) = flows_in(target)
    assert flow.response.json() == {"name": "Ada"}
    assert flow.request.headers["authorization"].startswith("Bearer scrubbed-")
    assert "abcdefgh12345678" not in target.read_bytes().decode("latin-1")
    assert (
        "GET https://api.example.com/users/1" in (target.parent / f"{target.name}.txt").read_text()
    )
    again = netcapture("import", tmp_path)
    assert again.status == 2
    assert "is there already" in again.err
    assert netcapture("import", "--force", tmp_path).status == 0


def test_what_cannot_be_imported_leaves_nothing(netcapture, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(YAML + "- request: 1\n")
    done = netcapture("import", path)
    assert done.status == 1
    assert "bad.yaml" in done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.yaml"]
    assert netcapture("import", tmp_path / "none.yaml").status == 2


def test_har_goes_out_and_comes_in_again(netcapture, cassette, exchange_of, lookup_of, tmp_path):
    path = cassette(lookup_of(), exchange_of("POST", "/a", b"\xff\x00", body=b"x=1"))
    done = netcapture("export", "--har", path)
    har = tmp_path / "api.har"
    assert f"Wrote {har}" in done.err
    assert "1 flow left out" in done.err
    (entry,) = json.loads(har.read_bytes())["log"]["entries"]
    assert entry["request"]["url"] == "https://api.example.com/a"
    netcapture("import", har, "-o", tmp_path / "back.cassette")
    (back,) = flows_in(tmp_path / "back.cassette")
    _, before = flows_in(path)
    assert back.request == before.request
    assert back.response == before.response


def test_vcrpys_yaml_goes_out(netcapture, cassette, exchange_of, tmp_path):
    netcapture("export", "--vcr", cassette(exchange_of()), "-o", tmp_path / "out.yaml")
    netcapture("import", tmp_path / "out.yaml")
    (flow,) = flows_in(tmp_path / "out.cassette")
    assert flow.url == "https://api.example.com/"


def test_packets_go_out(netcapture, cassette, exchange_of, tmp_path):
    netcapture("export", "--pcapng", cassette(exchange_of()))
    assert (tmp_path / "api.pcapng").read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"


@pytest.mark.parametrize("body", [b"", b"plain 'quoted' $HOME\nline", b"@file", b"\xff\x00%s\\"])
def test_curl_sends_the_same_again(netcapture, cassette, exchange_of, tmp_path, body):
    """A shell and curl as they are; what curl would send is what it says with --libcurl."""
    flow = exchange_of("PUT", "/a?b=[1]", body=body, headers=[("X-A", "it's"), ("X-Empty", "")])
    out = netcapture("export", "--curl", cassette(flow)).out
    fake = tmp_path / "bin" / "curl"
    fake.parent.mkdir()
    fake.write_text(
        '#!/bin/sh\nprintf "%s\\0" "$@" > args\n[ -p /dev/stdin ] && cat > stdin || :\n'
    )
    fake.chmod(0o755)
    subprocess.run(
        ["sh", "-c", out],
        check=True,
        cwd=tmp_path,
        env={"PATH": f"{fake.parent}:/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        timeout=30,
    )
    words = (tmp_path / "args").read_bytes().split(b"\0")[:-1]
    assert words[-1] == b"https://api.example.com/a?b=[1]"
    assert [words[n + 1] for n, word in enumerate(words) if word == b"-H"][:2] == [
        b"X-A: it's",
        b"X-Empty;",
    ]
    assert b"--globoff" in words
    if not body:
        assert not {b"--data-raw", b"--data-binary"} & set(words)
    elif b"\xff" in body:
        assert (tmp_path / "stdin").read_bytes() == body
    else:
        assert words[words.index(b"--data-raw") + 1] == body


def test_a_form_is_asked_for(netcapture, cassette, exchange_of):
    done = netcapture("export", cassette(exchange_of()))
    assert done.status == 2
    assert "--har, --vcr, --curl or --pcapng" in done.err
