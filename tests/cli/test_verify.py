"""`netcapture verify`: shape fails, values are told, nothing that changes something is sent unasked."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading

import pytest

from pytest_netcapture.cassettes.drift import dns_drift_of, drift_of

COMMAND = [sys.executable, "-c", "from pytest_netcapture.cli.main import main; main()", "verify"]


def fields(found):
    return {one.field: (one.recorded, one.actual) for one in found}


@pytest.mark.parametrize(
    ("recorded", "actual", "shape"),
    [
        (b'{"a": 1}', b'{"a": 2}', {}),
        (b'{"a": 1}', b'{"a": 2.5}', {}),
        (b'{"a": 1}', b'{"a": "1"}', {".a": ("number", "string")}),
        (b'{"a": 1}', b"{}", {".a": ("number", "(absent)")}),
        (b"{}", b'{"a": null}', {".a": ("(absent)", "null")}),
        (b'{"l": [1, null]}', b'{"l": [1]}', {}),
        (b'{"l": [1]}', b'{"l": [1, null]}', {".l[*]": ("number", "null or number")}),
        (b'{"l": [{"id": 1}]}', b'{"l": []}', {}),
        (b'{"l": []}', b'{"l": [{"id": 1}]}', {}),
        (b'[{"id": 1}]', b'[{"id": 1}, {"id": "x"}]', {"[*].id": ("number", "number or string")}),
        (
            b'{"a": {"b": 1}}',
            b'{"a": []}',
            {".a": ("object", "array"), ".a.b": ("number", "(absent)")},
        ),
        (b'{"a": 1}', b"gone", {"": ("JSON", "something else")}),
        (b"text", b"other text", {}),
    ],
)
def test_the_shape_of_bodies(exchange_of, recorded, actual, shape):
    drift = drift_of(exchange_of(answer=recorded), exchange_of(answer=actual))
    assert fields(drift.shape) == {f"response.body{place}": both for place, both in shape.items()}
    assert shape or drift.values, "what differs is told"


def test_status_media_type_and_names_of_fields(exchange_of):
    old = exchange_of(answer_headers=[("Content-Type", "text/html"), ("X-A", "1"), ("X-B", "1")])
    new = exchange_of(
        status=404, answer_headers=[("Content-Type", "text/plain"), ("X-A", "2"), ("X-C", "1")]
    )
    drift = drift_of(old, new)
    assert fields(drift.shape) == {
        "response.status": ("200", "404"),
        "response.media_type": ("text/html", "text/plain"),
        "response.headers.x-b": ("there", "(absent)"),
        "response.headers.x-c": ("(absent)", "there"),
    }
    assert "response.headers.x-a" in fields(drift.values)
    ignored = drift_of(old, new, lambda field: field.startswith("response.headers"))
    assert set(fields(ignored.shape)) == {"response.status", "response.media_type"}


def test_answers_of_dns(lookup_of):
    one, other = lookup_of("a.example.com", "10.0.0.1"), lookup_of("a.example.com", "10.0.0.2")
    assert fields(dns_drift_of(one, other).values) == {"dns.answers": ("10.0.0.1", "10.0.0.2")}
    gone = lookup_of("a.example.com")
    gone.answers, gone.rcode = [], "NXDOMAIN"
    assert set(fields(dns_drift_of(one, gone).shape)) == {"dns.rcode", "dns.types"}


@pytest.fixture
def server():
    """Answers each path with what `answers` says; keeps what came."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            size = int(self.headers.get("Content-Length", 0))
            came.append((self.command, self.path, self.headers, self.rfile.read(size)))
            data = answers.get(self.path, b'{"ok": true}')
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # noqa: N815 - as http.server calls it

        def log_message(self, *_):
            pass

    answers, came = {}, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        httpd.answers, httpd.came = answers, came
        yield httpd
        httpd.shutdown()
        thread.join()


@pytest.fixture
def verify(server):
    def ask(*arguments):
        mapping = f"api.example.com:80=127.0.0.1:{server.server_address[1]}"
        command = [*COMMAND, "--map-host", mapping, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return ask


def plain(flow):
    """Over http, with the fields that the server sends."""
    flow.request.scheme, flow.request.port, flow.port = "http", 80, 80
    size = str(flow.response.body.size)
    flow.response.headers = flow.response.headers.replace("Content-Length", size)
    for name in ("Server", "Date"):
        flow.response.headers = flow.response.headers.replace(name, "x")
    return flow


@pytest.mark.live
def test_a_server_that_has_changed(verify, server, cassette, exchange_of):
    path = cassette(
        plain(exchange_of(target="/same")),
        plain(exchange_of(target="/other", answer=b'{"ok": false}')),
        plain(exchange_of(target="/shape", answer=b'{"ok": 1, "more": 2}')),
        plain(exchange_of("POST", "/post", body=b"x=1")),
        plain(exchange_of(target="/auth", headers=[("Authorization", "Bearer first-secret")])),
    )
    done = verify("--ignore", "response.headers.server", path)
    assert done.returncode == 1, done.stderr
    kinds = [line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert sorted(kinds) == ["drift", "same", "skipped", "skipped", "values"], done.stdout
    assert "POST may change something: --all-methods sends it" in done.stdout
    assert "Authorization was scrubbed: --header 'Authorization: VALUE' gives it" in done.stdout
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "response.body.ok - number" in rows
    assert "response.body.more - number" in rows
    assert "5 flows: 1 same, 1 values, 1 drift, 2 skipped" in done.stderr
    assert sorted(path for _, path, _, _ in server.came) == ["/other", "/same", "/shape"]

    server.came.clear()
    done = verify("--all-methods", "--header", "authorization: Bearer now", "--json", path)
    found = {row["flow"].split()[1]: row for row in map(json.loads, done.stdout.splitlines())}
    assert found["http://api.example.com/post"]["verdict"] != "skipped"
    sent = {path: (method, headers, body) for method, path, headers, body in server.came}
    assert sent["/auth"][1]["Authorization"] == "Bearer now"
    assert sent["/post"][0] == "POST"
    assert sent["/post"][2] == b"x=1"


@pytest.mark.live
def test_a_server_that_is_gone(verify, cassette, exchange_of, lookup_of):
    path = cassette(lookup_of("gone.example.com"), plain(exchange_of(host="gone.example.com")))
    done = verify(path)
    assert done.returncode == 1
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "response - 200" in rows, done.stdout
    assert any(row.startswith("dns.rcode - NOERROR") for row in rows), done.stdout


def test_bad_options(netcapture, cassette, exchange_of):
    path = cassette(exchange_of())
    assert netcapture("verify", "--header", "nothing", path).status == 2
    assert netcapture("verify", "--map-host", "x", path).status == 2
