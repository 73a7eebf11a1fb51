"""Streams and WebSockets played at once, or as slowly as they came, through a real engine."""

import subprocess
import sys
from pathlib import Path

import pytest
from engine_lab import in_sandbox, settings
from web_servers import HOST, Web, certificates, hypercorn

HERE = Path(__file__).parent
pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with hypercorn(tmp_path_factory.mktemp("hypercorn")) as web:
        yield web


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    ca, chain, key = certificates(tmp_path_factory.mktemp("websocket"))
    command = [sys.executable, HERE / "websocket_server.py", chain, key]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        https, http = map(int, process.stdout.readline().split())
        yield Web(https, http, ca)
        process.stdin.close()


def paces(*args):
    """Return what came, and how many tenths of a second each took."""

    def client(sandbox):
        command = [sys.executable, HERE / "programs/pace.py", *args]
        done = subprocess.run(command, capture_output=True, timeout=25, text=True)
        assert done.returncode == 0, done.stderr
        lines = [line.rpartition(" ") for line in done.stdout.splitlines()]
        return [what for what, _, _ in lines], [int(tenths) for _, _, tenths in lines]

    return client


def three(client, web, path):
    """Record; then play at once; then at the recorded pace."""
    wanted = settings(mappings=web.mappings, ca=[web.ca], cassette=path)
    full = settings(cassette=path, mode="none")
    recorded = settings(cassette=path, mode="none", replay_speed="recorded")
    return [in_sandbox(client, one) for one in (wanted, full, recorded)]


@pytest.mark.parametrize("way", ["1.1", "2"])
def test_events(way, app, tmp_path):
    live, full, slow = three(paces(way, f"https://{HOST}/slow"), app, tmp_path / "a.cassette")
    assert live[0] == full[0] == slow[0] == ["data: 0", "data: 1", "data: 2"]
    # The recorded waits are 8 tenths; a client that was late for one event waits less for the next.
    assert sum(live[1]) >= 5
    assert sum(full[1]) < 5
    assert sum(slow[1]) >= 5


def test_messages(chat, tmp_path):
    live, full, slow = three(paces("ws", f"wss://{HOST}/chat"), chat, tmp_path / "a.cassette")
    assert live[0] == full[0] == slow[0] == ["at last"]
    assert live[1][0] >= 4
    assert full[1][0] < 3
    assert slow[1][0] >= 3
