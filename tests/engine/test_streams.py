"""Server-sent events by every way of reading them, over HTTP/1.1 and HTTP/2, live and on replay.

hypercorn sends an event only when the client, which has read the one before, asks for /next: so each
arrives when it is sent, recorded or not.
"""

import shutil
import subprocess
import sys

import pytest
from engine_lab import in_sandbox, settings
from web_servers import HOST, hypercorn

pytestmark = pytest.mark.live

URL = f"https://{HOST}"
EVENTS = [f"data: {number}" for number in range(3)]

# Each defines `lines()`, which yields the lines of /events as they come, and `following()`.
WAYS = {
    "requests.iter_content": """
import requests
def lines():
    with requests.get(URL + "/events", stream=True) as answer:
        for piece in answer.iter_content(None): yield from piece.decode().split("\\n")
def following(): requests.get(URL + "/next")
""",
    "requests.iter_lines": """
import requests
def lines():
    with requests.get(URL + "/events", stream=True) as answer:
        yield from answer.iter_lines(1, decode_unicode=True)
def following(): requests.get(URL + "/next")
""",
    "urllib.readline": """
import urllib.request
def lines():
    with urllib.request.urlopen(URL + "/events") as answer:
        for line in answer: yield line.decode().strip()
def following(): urllib.request.urlopen(URL + "/next").read()
""",
    "httpx.iter_raw": """
import httpx, ssl
client = httpx.Client(verify=ssl.create_default_context())
def lines():
    with client.stream("GET", URL + "/events") as answer:
        assert answer.http_version == "HTTP/1.1"
        for piece in answer.iter_raw(): yield from piece.decode().split("\\n")
def following(): client.get(URL + "/next")
""",
    "httpx.iter_lines 2": """
import httpx, ssl
client = httpx.Client(http2=True, verify=ssl.create_default_context())
def lines():
    with client.stream("GET", URL + "/events") as answer:
        assert answer.http_version == "HTTP/2"
        yield from answer.iter_lines()
def following(): client.get(URL + "/next")
""",
    "curl -N": """
import subprocess
def lines():
    curl = ["curl", "-sN", "--http1.1", URL + "/events"]
    with subprocess.Popen(curl, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout: yield line.strip()
def following(): subprocess.run(["curl", "-s", URL + "/next"], stdout=subprocess.DEVNULL, check=True)
""",
    "curl -N 2": """
import subprocess
def lines():
    curl = ["curl", "-sN", "--http2", URL + "/events"]
    with subprocess.Popen(curl, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout: yield line.strip()
def following(): subprocess.run(["curl", "-s", URL + "/next"], stdout=subprocess.DEVNULL, check=True)
""",
    "curl_cffi 2": """
from curl_cffi import requests
def lines():
    answer = requests.get(URL + "/events", stream=True, verify="/etc/ssl/certs/ca-certificates.crt")
    for piece in answer.iter_content(): yield from piece.decode().split("\\n")
def following(): requests.get(URL + "/next", verify="/etc/ssl/certs/ca-certificates.crt")
""",
}
MAIN = """
for line in lines():
    if line:
        print(line, flush=True)
        if not line.endswith("2"): following()
"""
AIOHTTP = """
import aiohttp, asyncio
async def main():
    async with aiohttp.ClientSession() as session, session.get(URL + "/events") as answer:
        async for piece in answer.content.iter_any():
            for line in piece.decode().split("\\n"):
                if line:
                    print(line, flush=True)
                    if not line.endswith("2"): await (await session.get(URL + "/next")).read()
asyncio.run(main())
"""
NODE = """
const read = async () => {
  const answer = await fetch(URL_ + "/events");
  for await (const piece of answer.body)
    for (const line of Buffer.from(piece).toString().split("\\n"))
      if (line) {
        console.log(line);
        if (!line.endsWith("2")) await (await fetch(URL_ + "/next")).text();
      }
};
read();
"""
PROGRAMS = {
    name: [sys.executable, "-c", f"URL = {URL!r}\n{way}{MAIN}"] for name, way in WAYS.items()
}
PROGRAMS["aiohttp.iter_any"] = [sys.executable, "-c", f"URL = {URL!r}\n{AIOHTTP}"]
PROGRAMS["node fetch"] = ["node", "-e", f"const URL_ = {URL!r};\n{NODE}"]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with hypercorn(tmp_path_factory.mktemp("hypercorn")) as web:
        yield web


@pytest.mark.shows(
    "events and streamed bodies",
    "captured",
    "recorded",
    "replayed",
    clients=["requests", "httpx", "urllib", "curl", "curl_cffi", "aiohttp", "Node"],
    servers=["hypercorn"],
)
@pytest.mark.parametrize("way", PROGRAMS)
def test_an_event_arrives_when_it_is_sent(way, app, tmp_path):
    if shutil.which(PROGRAMS[way][0]) is None:
        pytest.skip(f"{PROGRAMS[way][0]} is not installed")

    def client(sandbox):
        done = subprocess.run(PROGRAMS[way], capture_output=True, timeout=25, text=True)
        (flow,) = [f for f in sandbox.flows("http") if f.request.path == "/events"]
        version = flow.request.http_version
        return done.stdout.splitlines(), done.stderr[-1500:], version, flow.response.body.chunks

    wanted = settings(mappings=app.mappings, ca=[app.ca], cassette=tmp_path / "a.cassette")
    live = in_sandbox(client, wanted)
    assert live[0] == EVENTS, live[1]
    assert live[2] == ("2" if way.endswith(" 2") else "1.1")
    assert live[3] == [9, 9, 9]
    again = in_sandbox(client, settings(cassette=tmp_path / "a.cassette", mode="none"))
    assert again == live, again[1]
