"""WebSockets through a real engine: real clients, a server of the websockets library, then none."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from engine_lab import in_sandbox, settings
from web_servers import HOST, Web, certificates

HERE = Path(__file__).parent
PYTHON = sys.executable
CLIENTS = {
    "websockets": [PYTHON, HERE / "programs/ws_websockets.py"],
    "aiohttp": [PYTHON, HERE / "programs/ws_aiohttp.py"],
    "node": ["node", "--experimental-websocket", HERE / "programs/ws.js"],
    "chromium": [PYTHON, HERE / "programs/ws_chromium.py"],
}
HEARD = [
    "welcome",
    "you said one",
    *[repr(bytes([n]) * 3) for n in range(3)],
    "you said {'two': 2}",
    "4001 see you",
]
SAYS = ("one", "push", "{'two': 2}", "bye")
pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    ca, chain, key = certificates(tmp_path_factory.mktemp("websocket"))
    command = [PYTHON, HERE / "websocket_server.py", chain, key]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        https, http = map(int, process.stdout.readline().split())
        yield Web(https, http, ca)
        process.stdin.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.cassette"


def talk(name, *says, url=f"wss://{HOST}/chat"):
    if shutil.which(CLIENTS[name][0]) is None:
        pytest.skip(f"{name} is not installed")
    if name == "chromium" and shutil.which("chromium") is None:
        pytest.skip("not in CI: chromium is not installed")

    def client(sandbox):
        done = subprocess.run(
            [*CLIENTS[name], url, *says], capture_output=True, timeout=25, text=True
        )
        (flow,) = sandbox.flows("websocket")
        problems = [(p.kind, p.reason, p.differences) for p in sandbox.problems()]
        return done.stdout.splitlines(), done.stderr[-1500:], flow, problems

    return client


@pytest.mark.shows(
    "WebSocket",
    "captured",
    "recorded",
    "replayed",
    clients=["websockets", "aiohttp", "Node", "Chromium"],
    servers=["websockets"],
)
@pytest.mark.parametrize("scheme", ["wss", "ws"])
@pytest.mark.parametrize("name", CLIENTS)
def test_a_conversation_is_recorded_and_played(name, scheme, server, path):
    client = talk(name, *SAYS, url=f"{scheme}://{HOST}/chat")
    wanted = settings(mappings=server.mappings, ca=[server.ca], cassette=path)
    heard, err, flow, problems = in_sandbox(client, wanted)
    assert (heard, problems) == (HEARD, []), err
    assert [m.text for m in flow.sent] == list(SAYS)
    assert [m.text for m in flow.received][:2] == HEARD[:2]
    assert flow.close_code == 4001
    assert "permessage-deflate" in flow.response.headers["sec-websocket-extensions"]
    again, err, replayed, problems = in_sandbox(client, settings(cassette=path, mode="none"))
    assert (again, problems) == (HEARD, []), err
    assert replayed.origin.value == "played"
    kinds = ("text", "binary", "close")
    assert [(m.sent, m.data) for m in replayed.messages if m.kind in kinds and not m.sent] == [
        (m.sent, m.data) for m in flow.messages if m.kind in kinds and not m.sent
    ]


def test_a_client_that_says_something_else_fails(server, path):
    wanted = settings(mappings=server.mappings, ca=[server.ca], cassette=path)
    in_sandbox(talk("websockets", "one", "bye"), wanted)
    client = talk("websockets", "uno", "bye")
    heard, _, _, problems = in_sandbox(client, settings(cassette=path, mode="none"))
    assert heard[0] == "welcome"
    ((kind, reason, (difference,)),) = problems
    assert (kind, reason) == ("unmatched", "message 1 of the client is not the recorded one")
    assert (difference.recorded, difference.actual) == ("one", "uno")


def test_one_that_is_open_at_the_end_of_the_test_is_recorded(server, path):
    def client(sandbox):
        from websockets.sync.client import connect

        # Never left: the child of the lab ends without.
        socket = connect(f"ws://{HOST}/chat").__enter__()
        heard = [socket.recv()]
        socket.send("hi")
        return [*heard, socket.recv()]

    wanted = settings(mappings=server.mappings, ca=[server.ca], cassette=path)
    live = in_sandbox(client, wanted)
    assert live == ["welcome", "you said hi"]
    assert in_sandbox(client, settings(cassette=path, mode="none")) == live


def test_secrets_in_messages_are_scrubbed(server, path):
    says = ('{"password": "hunter2hunter2"}', "bye")
    wanted = settings(mappings=server.mappings, ca=[server.ca], cassette=path)
    heard, *_ = in_sandbox(talk("websockets", *says), wanted)
    assert "hunter2" in heard[1]
    assert b"hunter2" not in path.read_bytes()
    other = ('{"password": "another1one"}', "bye")
    heard, _, _, problems = in_sandbox(
        talk("websockets", *other), settings(cassette=path, mode="none")
    )
    assert problems == []
    assert "scrubbed-" in heard[1]
