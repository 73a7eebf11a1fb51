"""HTTP/2 through a real engine: real clients, nginx and hypercorn; then the same without them."""

import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from engine_lab import in_sandbox, settings
from web_servers import BIG, HOST, hypercorn, nginx

PROGRAMS = Path(__file__).parent / "programs"
URL = f"https://{HOST}"
pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    with nginx(tmp_path_factory.mktemp("nginx")) as web:
        yield web


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with hypercorn(tmp_path_factory.mktemp("hypercorn")) as web:
        yield web


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.cassette"


def needs(program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def run(*command):
    done = subprocess.run(command, capture_output=True, timeout=25)
    return done.returncode, done.stdout, done.stderr


def versions(sandbox):
    return [flow.request.http_version for flow in sandbox.flows("http")]


def both(function, web, path):
    """Run `function` while recording, and again without the server; return what it returned."""
    wanted = settings(mappings=web.mappings, ca=[web.ca], cassette=path)
    first = in_sandbox(function, wanted)
    return first, in_sandbox(function, settings(cassette=path, mode="none"))


@pytest.mark.shows(
    "HTTP/2", "captured", "recorded", "replayed", clients=["curl"], servers=["nginx"]
)
def test_curl_records_and_replays_http2(files, path):
    def client(sandbox):
        written = "%{http_version} %{http_code} %{size_download}"
        args = ("curl", "-s", "-o", os.devnull, "-w", written)
        return [
            run(*args, f"{URL}/a"),
            run(*args, f"{URL}/big"),
            run(*args, "--http1.1", f"{URL}/a"),
            run(*args, "--http2-prior-knowledge", f"http://{HOST}/a"),
        ], [(f.origin.value, f.request.http_version) for f in sandbox.flows("http")]

    (live, how), (again, how_again) = both(client, files, path)
    assert [out for _, out, _ in live] == [
        b"2 200 16",
        b"2 200 %d" % len(BIG),
        b"1.1 200 16",
        b"2 200 16",
    ]
    assert again == live
    assert how == [("live", v) for v in ("2", "2", "1.1", "2")]
    assert how_again == [("played", v) for v in ("2", "2", "1.1", "2")]


def test_curl_that_offers_an_upgrade_stays_with_http1(app, path):
    def client(sandbox):
        out = run("curl", "-s", "--http2", "-w", " %{http_version}", f"http://{HOST}/a")
        return out, [f.request.headers.get("upgrade") for f in sandbox.flows("http")]

    live, again = both(client, app, path)
    assert live == again == ((0, b"GET /a 0 1.1", b""), ["h2c"])


def go(tmp_path_factory):
    needs("go")
    folder = tmp_path_factory.mktemp("go")
    environ = os.environ | {"GOPROXY": "off", "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
    if not os.access(os.path.expanduser("~"), os.W_OK):
        environ["GOCACHE"] = str(folder / "cache")
    command = ["go", "build", "-o", folder / "get2", PROGRAMS / "get2.go"]
    subprocess.run(command, cwd=folder, env=environ, check=True, capture_output=True)
    return [folder / "get2"]


def java(tmp_path_factory):
    needs("javac")
    folder = tmp_path_factory.mktemp("java")
    subprocess.run(["javac", "-nowarn", "-d", folder, PROGRAMS / "Get2.java"], check=True)
    return ["java", "-cp", folder, "Get2"]


def node(_):
    needs("node")
    return ["node", PROGRAMS / "get2.js"]


CLIENTS = {
    "go": (go, [f"{URL}/a", f"{URL}/big", f"{URL}/trailers"]),
    "java": (java, [f"{URL}/a", f"{URL}/b"]),
    "node": (node, [URL, "/a", "/trailers", "/broken"]),
}
SAID = {
    "go": "HTTP/2.0 200 8  <nil>\nHTTP/2.0 200 10  <nil>\nHTTP/2.0 200 7 7 <nil>\n",
    "java": "HTTP_2 200 8\nHTTP_2 200 8\n",
    "node": "h2 200 8\nh2 200 7 7\nERR_HTTP2_STREAM_ERROR\n",
}


@pytest.mark.shows(
    "HTTP/2",
    "captured",
    "recorded",
    "replayed",
    clients=["Go", "Node", "Java"],
    servers=["hypercorn"],
)
@pytest.mark.parametrize("name", CLIENTS)
def test_clients_in_other_languages(name, app, path, tmp_path_factory):
    make, args = CLIENTS[name]
    command = make(tmp_path_factory)

    def client(sandbox):
        code, out, err = run(*command, *args)
        return code, out.decode(), err.decode()[-2000:], versions(sandbox)

    live, again = both(client, app, path)
    assert live[:2] == (0, SAID[name]), live
    assert set(live[3]) == {"2"}
    assert again[:2] == live[:2], again


HTTPX = """
import httpx, ssl, sys
with httpx.Client(http2=True, verify=ssl.create_default_context()) as client:
    url = sys.argv[1]
    for size in (0, 5, 300_000):
        answer = client.post(url + "/x", content=b"x" * size)
        print(answer.http_version, answer.status_code, answer.text, answer.headers["x-version"])
    with client.stream("GET", url + "/events") as answer:
        for piece in answer.iter_raw():
            print(piece)
            if b"2" not in piece:
                client.get(url + "/next")
"""


def test_httpx_and_events_arrive_when_they_are_sent(app, path):
    """The server sends an event only when the client has told that it got the one before."""

    def client(_):
        return run(sys.executable, "-c", HTTPX, URL)

    live, again = both(client, app, path)
    assert live[0] == 0, live[2].decode()
    assert live[1].decode().splitlines() == [
        *[f"HTTP/2 200 POST /x {size} 2" for size in (0, 5, 300_000)],
        *[repr(b"data: %d\n\n" % number) for number in range(3)],
    ]
    assert again == live


def test_a_stream_that_is_not_recorded_is_reset_and_the_others_go_on(app, path):
    record = settings(mappings=app.mappings, ca=[app.ca], cassette=path)
    asked = "import httpx, ssl; c = httpx.Client(http2=True, verify=ssl.create_default_context());"
    one = f"print(c.get('{URL}/1').text);"
    assert in_sandbox(lambda _: run(sys.executable, "-c", asked + one), record)[0] == 0

    def client(sandbox):
        miss = f"""
try: c.get('{URL}/2')
except httpx.RemoteProtocolError as error: print(error)
"""
        out = run(sys.executable, "-c", asked + miss + one)
        return out, [(p.kind, p.reason) for p in sandbox.problems()]

    (code, out, err), problems = in_sandbox(client, settings(cassette=path, mode="none"))
    assert code == 0, err
    assert b"error_code:2" in out.replace(b"ErrorCodes.INTERNAL_ERROR", b"2")
    assert out.endswith(b"GET /1 0\n")
    assert problems == [("unmatched", "never recorded")]


def test_live_and_played_streams_share_a_connection(app, path):
    asked = "import httpx, ssl; c = httpx.Client(http2=True, verify=ssl.create_default_context());"
    one, two = (f"print(c.get('{URL}/{n}').text);" for n in (1, 2))
    record = settings(mappings=app.mappings, ca=[app.ca], cassette=path)
    assert in_sandbox(lambda _: run(sys.executable, "-c", asked + one), record)[0] == 0

    def client(sandbox):
        out = run(sys.executable, "-c", asked + one + two)
        return out, [(f.origin.value, f.client) for f in sandbox.flows("http")]

    more = settings(mappings=app.mappings, ca=[app.ca], cassette=path, mode="new_episodes")
    (code, out, err), flows = in_sandbox(client, more)
    assert (code, out) == (0, b"GET /1 0\nGET /2 0\n"), err
    assert [origin for origin, _ in flows] == ["played", "live"]
    assert flows[0][1] == flows[1][1], "one connection"


def test_a_server_that_closes_after_each_answer_is_no_trouble(files, path):
    """nginx says GOAWAY with the answer; the client opens another connection."""
    lines = f"""
import httpx, ssl
c = httpx.Client(http2=True, verify=ssl.create_default_context())
for _ in range(3): print(c.get('{URL}/close').http_version)
"""

    def client(_):
        return run(sys.executable, "-c", lines)

    live, again = both(client, files, path)
    assert live[:2] == (0, b"HTTP/2\n" * 3), live[2].decode()
    assert again == live


@pytest.mark.shows(
    "HTTP/1.1", "captured", "recorded", "replayed", clients=["Python ssl"], servers=["nginx"]
)
def test_a_client_that_offers_nothing_gets_http1(files, path):
    def client(sandbox):
        import socket

        context = ssl.create_default_context()
        with (
            socket.create_connection((HOST, 443), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname=HOST) as tls,
        ):
            tls.sendall(f"GET /a HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            data = b""
            while piece := tls.recv(65536):
                data += piece
            return tls.selected_alpn_protocol(), data.split(b"\r\n")[0], versions(sandbox)

    live, again = both(client, files, path)
    assert live == again == (None, b"HTTP/1.1 200 OK", ["1.1"])


@pytest.mark.shows(
    "WebSocket over HTTP/2",
    "captured",
    "recorded",
    "replayed",
    clients=["Node"],
    servers=["hypercorn"],
)
def test_a_websocket_on_a_stream(app, path):
    needs("node")

    def client(text):
        def talk(sandbox):
            _, out, err = run("node", PROGRAMS / "ws_http2.js", URL, text)
            (flow,) = sandbox.flows("websocket")
            # hypercorn ends the stream with its close; it does not wait for the client's.
            said = [(m.sent, m.kind, m.data) for m in flow.messages][:4]
            return out.decode().splitlines(), said, [p.reason for p in sandbox.problems()], err

        return talk

    live, again = both(client("hi"), app, path)
    assert live[0] == ["offered true", "200", "welcome", "hi!", "closed 4000 bye"], live[3]
    assert live[1] == [
        (False, "text", b"welcome"),
        (True, "text", b"hi"),
        (False, "text", b"hi!"),
        (False, "close", b"bye"),
    ]
    assert again[:3] == live[:3], again[3]
    other = in_sandbox(client("something else"), settings(cassette=path, mode="none"))
    assert other[0] == ["offered true", "200", "welcome", "ERR_HTTP2_STREAM_ERROR"]
    assert other[2] == ["message 1 of the client is not the recorded one"]
