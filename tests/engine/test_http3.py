"""HTTP/3 through a real engine: aioquic's and quic-go's clients and servers; then no server."""

import os
import re
import shutil
import subprocess
import sys
import tempfile

import pytest
from engine_lab import in_sandbox, settings
from http3_servers import PROGRAMS, quic_server
from web_servers import HOST, hypercorn

pytest.importorskip("aioquic", reason="aioquic is not installed")
pytestmark = pytest.mark.live
GET3 = (sys.executable, PROGRAMS / "get3.py", HOST, "443")


@pytest.fixture(scope="module")
def quic_go(builder):
    return builder.go_module(PROGRAMS / "http3go")


@pytest.fixture(scope="module")
def server(quic_go, tmp_path_factory):
    with quic_server(tmp_path_factory.mktemp("quic-go"), quic_go, "serve") as web:
        yield web


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with hypercorn(tmp_path_factory.mktemp("hypercorn"), http3=True) as web:
        yield web


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.cassette"


def client(*command, after=lambda _: None):
    """Run a client in the sandbox; return what it printed, the exchanges, and the problems."""

    def run(sandbox):
        done = subprocess.run(command, capture_output=True, timeout=25, text=True)
        exchanges = [
            (
                f.origin.value,
                f.request.http_version,
                str(f.response.status if f.response else f.error.kind),
            )
            for f in sandbox.flows("http")
        ]
        problems = [(p.kind, p.reason) for p in sandbox.problems()]
        assert not done.stderr, done.stderr
        relayed = [(f.reason, f.datagrams_sent, f.datagrams_received) for f in sandbox.flows("udp")]
        return done.stdout.splitlines(), exchanges, problems, relayed

    return run


def both(run, web, path):
    wanted = settings(mappings=web.mappings, ca=[web.ca], cassette=path)
    return in_sandbox(run, wanted), in_sandbox(run, settings(cassette=path, mode="none"))


@pytest.mark.shows(
    "HTTP/3", "captured", "recorded", "replayed", clients=["aioquic"], servers=["quic-go"]
)
def test_streams_of_one_connection(server, path):
    asked = "GET:/a+POST:/b:300000+GET:/trailers+GET:/broken"
    live, again = both(client(*GET3, asked, "GET:/a"), server, path)
    assert live[0] == [
        "GET /a 200 3 14",
        "POST /b 200 3 20",
        "GET /trailers 200 7 7",
        "GET /broken reset 0x102",
        "GET /a 200 3 14",
    ]
    assert again[0] == live[0]
    assert sorted(set(live[1])) == [("live", "3", "200"), ("live", "3", "reset")]
    assert sorted(set(again[1])) == [("played", "3", "200"), ("played", "3", "reset")]
    assert (live[2], again[2]) == ([], [])


def test_an_interim_response_and_large_bodies(server, path):
    asked = ("GET:/hints", "POST:/c:1500000", "GET:/large?1500000")
    live, again = both(client(*GET3, *asked), server, path)
    assert live[0] == ["GET /hints 103 200 6", "POST /c 200 3 21", "GET /large?1500000 200 1500000"]
    assert again[0] == live[0]


@pytest.mark.shows(
    "events and streamed bodies", "recorded", "replayed", clients=["aioquic"], servers=["quic-go"]
)
def test_events_arrive_when_they_are_sent(server, path):
    """The server sends an event only when the client has told that it got the one before."""
    live, again = both(client(*GET3, "GET:/events::chunks"), server, path)
    events = [line for line in live[0] if line]
    assert events == ["data: 0", "data: 1", "data: 2", "GET /events 200 27"]
    assert again[0] == live[0]


@pytest.mark.shows(
    "HTTP/3", "captured", "recorded", "replayed", clients=["quic-go"], servers=["quic-go"]
)
def test_quic_go_as_the_client(quic_go, server, path):
    live, again = both(
        client(quic_go, "get", f"https://{HOST}/trailers", "GET", "0", "POST", "1500000"),
        server,
        path,
    )
    line = "HTTP/3.0 200 7 content 7 <nil>"
    assert live[0] == [line] * 3
    assert live[1] == [("live", "3", "200")] * 3
    assert again[0] == live[0]
    assert again[1] == [("played", "3", "200")] * 3


def test_a_reset_after_data_arrives_behind_it(server, path):
    """The server resets when the client has told that it got the data."""
    live, again = both(client(*GET3, "GET:/cut::chunks"), server, path)
    assert live[0] == ["half", "GET /cut 200 reset 0x102"]
    assert again[0] == live[0]


@pytest.mark.shows(
    "HTTP/3",
    "captured",
    "recorded",
    "replayed",
    clients=["libcurl (curl_cffi)"],
    servers=["quic-go"],
)
def test_libcurl_as_the_client(server, path):
    pytest.importorskip("curl_cffi", reason="curl_cffi is not installed")
    live, again = both(
        client(sys.executable, PROGRAMS / "curl3.py", f"https://{HOST}/a"), server, path
    )
    assert live[0] == ["30 200 GET /a 0 <nil>"]
    assert live[1] == [("live", "3", "200")]
    assert again[0] == live[0]


@pytest.mark.shows(
    "HTTP/3", "captured", "recorded", "replayed", clients=["Chromium"], servers=["quic-go"]
)
def test_chromium_as_the_client(server, path):
    """Told to: else it takes only certificates of issuers that it ships with, and goes on over TCP."""
    if shutil.which("chromium") is None:
        pytest.skip("not in CI: chromium is not installed")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
    forced = f"--origin-to-force-quic-on={HOST}:443"

    def run(sandbox):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
            command = ["chromium", *flags, f"--user-data-dir={home}/profile", forced]
            command += ["--timeout=20000", "--dump-dom", f"https://{HOST}/a"]
            environ = {"PATH": os.environ["PATH"], "HOME": home}
            done = subprocess.run(command, capture_output=True, timeout=25, text=True, env=environ)
        flow = next(f for f in sandbox.flows("http") if f.request.path == "/a")
        shown = re.search(r"<pre[^>]*>(.*?)</pre>", done.stdout)
        return shown and shown[1], flow.request.http_version, flow.origin.value

    live, again = both(run, server, path)
    assert live == ("GET /a 0 &lt;nil&gt;", "3", "live")
    assert again == ("GET /a 0 &lt;nil&gt;", "3", "played")


def test_a_client_that_gives_up_a_stream(server, path):
    asked = ("GET:/large?5000000:0:cancel", "GET:/a")
    live, again = both(client(*GET3, *asked), server, path)
    assert live[0] == again[0] == ["GET /large?5000000 200 cancelled", "GET /a 200 3 14"]


@pytest.mark.shows("HTTP/3", "recorded", "replayed", clients=["aioquic"], servers=["hypercorn"])
def test_hypercorn_as_the_server(app, path):
    live, again = both(client(*GET3, "GET:/a+POST:/b:30000"), app, path)
    assert live[0] == ["GET /a 200 3 8", "POST /b 200 3 13"], live
    assert again[0] == live[0]


@pytest.mark.shows(
    "WebSocket over HTTP/3",
    "captured",
    "recorded",
    "replayed",
    clients=["aioquic and wsproto"],
    servers=["hypercorn"],
)
def test_a_websocket_on_a_stream(path, tmp_path):
    """With a server of its own: after one WebSocket over HTTP/3 hypercorn answers no QUIC any more."""

    def talk(word):
        def run(sandbox):
            command = [sys.executable, PROGRAMS / "ws_http3.py", HOST, "443", word]
            done = subprocess.run(command, capture_output=True, timeout=25, text=True)
            assert not done.stderr, done.stderr
            (flow,) = sandbox.flows("websocket")
            said = [m.text for m in flow.messages if m.kind == "text"]
            reasons = [p.reason for p in sandbox.problems()]
            return done.stdout.splitlines(), flow.request.http_version, said, reasons

        return run

    with hypercorn(tmp_path, http3=True) as web:
        live, again = both(talk("hi"), web, path)
    assert live[0] == ["200", "welcome", "hi!", "closed 4000 bye"]
    assert live[1:] == ("3", ["welcome", "hi", "hi!"], [])
    assert again == live
    other = in_sandbox(talk("something else"), settings(cassette=path, mode="none"))
    assert other[0] == ["200", "welcome", "reset"]
    assert other[3] == ["message 1 of the client is not the recorded one"]


def test_a_stream_that_is_not_recorded_is_reset_and_the_others_go_on(app, path):
    record = settings(mappings=app.mappings, ca=[app.ca], cassette=path)
    in_sandbox(client(*GET3, "GET:/a"), record)
    said, exchanges, problems, _ = in_sandbox(
        client(*GET3, "GET:/other", "GET:/a"), settings(cassette=path, mode="none")
    )
    assert said == ["GET /other reset 0x102", "GET /a 200 3 8"]
    assert [origin for origin, *_ in exchanges] == ["unmatched", "played"]
    assert problems == [("unmatched", "never recorded")]


def test_live_and_played_streams_share_a_connection(app, path):
    record = settings(mappings=app.mappings, ca=[app.ca], cassette=path)
    in_sandbox(client(*GET3, "GET:/a"), record)
    more = settings(mappings=app.mappings, ca=[app.ca], cassette=path, mode="new_episodes")
    said, exchanges, problems, _ = in_sandbox(client(*GET3, "GET:/a", "GET:/b"), more)
    assert said == ["GET /a 200 3 8", "GET /b 200 3 8"]
    assert [origin for origin, *_ in exchanges] == ["played", "live"]
    assert problems == []


def test_a_recording_answers_whichever_version_asks(app, path):
    record = settings(mappings=app.mappings, ca=[app.ca], cassette=path)
    curl = ["curl", "-s", "--http2", "-w", " %{http_version}", f"https://{HOST}/a"]
    live = in_sandbox(client(*curl), record)
    assert live[0] == ["GET /a 0 2"]
    said, exchanges, *_ = in_sandbox(client(*GET3, "GET:/a"), settings(cassette=path, mode="none"))
    assert said == ["GET /a 200 2 8"]
    assert exchanges == [("played", "3", "200")]


def test_blocked_hosts_get_no_answer_and_nothing_leaves(app):
    def run(sandbox):
        command = [*GET3[:2], "--quick", *GET3[2:], "GET:/a"]
        done = subprocess.run(command, capture_output=True, timeout=25, text=True)
        return done.stdout, [(p.kind, p.flow.protocol) for p in sandbox.problems()]

    wanted = settings(mappings=app.mappings, ca=[app.ca], block=True, allow=["api.example.com:1"])
    said, problems = in_sandbox(run, wanted)
    assert said.startswith("no connection")
    assert ("blocked", "udp") in problems


def test_refused_it_is_refused_at_once_and_tcp_goes_on(app, path):
    def run(sandbox):
        refused = client(*GET3, "GET:/a")(sandbox)
        curl = client("curl", "-s", f"https://{HOST}/a")(sandbox)
        (flow,) = sandbox.flows("udp")
        return refused, curl, (flow.reason, flow.error.kind, flow.datagrams_received)

    wanted = settings(mappings=app.mappings, ca=[app.ca], cassette=path, http3="refuse")
    live = in_sandbox(run, wanted)
    again = in_sandbox(run, settings(cassette=path, mode="none", http3="refuse"))
    for refused, curl, flow in (live, again):
        assert refused[0] == ["no connection: HTTP/3 is refused (--netcapture-http3=refuse)"]
        assert curl[0] == ["GET /a 0"]
        assert curl[2] == []
        assert flow == ("HTTP/3 is refused (--netcapture-http3=refuse)", "refused", 0)


def test_two_connections_of_one_socket(quic_go, server, path):
    live, again = both(client(quic_go, "twice", f"https://{HOST}/a"), server, path)
    assert live[0] == ["HTTP/3.0 200 14 GET /a 0 <nil>  <nil>"] * 2
    assert live[1] == [("live", "3", "200")] * 2
    assert again[0] == live[0]
