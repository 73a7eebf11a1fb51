"""gRPC through a real engine: grpcio's client and server, then the client alone."""

import subprocess
import sys
from pathlib import Path

import pytest
from engine_lab import in_sandbox, settings
from web_servers import HOST, Web, certificates

HERE = Path(__file__).parent
pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    ca, chain, key = certificates(tmp_path_factory.mktemp("grpc"))
    command = [sys.executable, HERE / "grpc_server.py", chain, key]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        https, http = map(int, process.stdout.readline().split())
        yield Web(https, http, ca)
        process.stdin.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.cassette"


def talk(*args, port=443):
    def client(sandbox):
        command = [sys.executable, HERE / "programs/grpc_talk.py", f"{HOST}:{port}", *args]
        done = subprocess.run(command, capture_output=True, timeout=25, text=True)
        problems = [(p.kind, p.reason, p.differences) for p in sandbox.problems()]
        return done.stdout.splitlines(), done.stderr[-1500:], sandbox.flows("grpc"), problems

    return client


def both(client, server, path):
    wanted = settings(mappings=server.mappings, ca=[server.ca], cassette=path)
    return in_sandbox(client, wanted), in_sandbox(client, settings(cassette=path, mode="none"))


BOTH = ["ready", "you said a", "next?", "you said b", "next?", "[] OK"]
CALLS = {
    ("ServerStream", "x"): ["x 0", "x 1", "x 2"],
    ("ClientStream", "x", "y", "z"): ["x y z"],
    ("Both", "a", "b"): BOTH,
    ("aio", "a", "b"): BOTH,
}


@pytest.mark.shows(
    "gRPC", "captured", "recorded", "replayed", clients=["grpcio"], servers=["grpcio"]
)
@pytest.mark.parametrize("port", [443, 80])
@pytest.mark.parametrize("args", CALLS, ids=lambda args: args[0])
def test_streams_are_recorded_and_played(args, port, server, path):
    live, again = both(talk(*args, port=port), server, path)
    assert (live[0], live[3]) == (CALLS[args], []), live[1]
    (flow,) = live[2]
    assert (flow.service, flow.status) == ("test.Talk", 0)
    assert [m.fields for m in flow.requests] == [{1: word} for word in args[1:]]
    wanted = [line for line in CALLS[args] if not line.startswith("[")]
    assert [m.fields[1] for m in flow.responses] == wanted
    assert (again[0], again[3]) == (CALLS[args], []), again[1]
    (played,) = again[2]
    assert played.origin.value == "played"
    assert played.messages == flow.messages


def test_calls_with_metadata_status_and_compression(server, path):
    live, again = both(talk("Unary", "you", "fail"), server, path)
    assert live[0] == ["hello you", "mine", "NOT_FOUND no such thing: ü"], live[1]
    assert again[0] == live[0], again[1]
    good, bad = live[2]
    assert good.request.headers["grpc-encoding"] == "gzip"
    assert good.timeout == pytest.approx(20, abs=1)
    assert (good.method, good.status, str(good)) == ("Unary", 0, "gRPC test.Talk/Unary → OK")
    assert (bad.status, bad.status_message) == (5, "no such thing: ü")
    assert bad.response.trailers.get("why", bad.response.headers.get("why")) == "because"


def test_a_deadline_is_played_as_one(server, path):
    live, again = both(talk("Unary", "slow"), server, path)
    assert live[0] == again[0] == ["DEADLINE_EXCEEDED Deadline Exceeded"], live[1]


@pytest.mark.parametrize(
    ("words", "reason", "differences"),
    [
        (("a", "c"), "message 2 of the client is not the recorded one", [("message.1", "b", "c")]),
        (("a", "b", "c"), "message 3 of the client is new", []),
        (("a",), "the client sent 1 of 2 messages", []),
    ],
)
def test_a_client_that_says_something_else_fails(words, reason, differences, server, path):
    wanted = settings(mappings=server.mappings, ca=[server.ca], cassette=path)
    in_sandbox(talk("Both", "a", "b"), wanted)
    *_, problems = in_sandbox(talk("Both", *words), settings(cassette=path, mode="none"))
    ((kind, said, found),) = problems
    assert (kind, said) == ("unmatched", reason)
    assert [(d.field, d.recorded, d.actual) for d in found] == differences


def test_a_stream_that_was_never_recorded_fails_at_once(server, path):
    wanted = settings(mappings=server.mappings, ca=[server.ca], cassette=path)
    in_sandbox(talk("Unary", "you"), wanted)
    said, _, _, problems = in_sandbox(talk("Both", "a"), settings(cassette=path, mode="none"))
    assert said == ["INTERNAL"]
    assert [(kind, reason) for kind, reason, _ in problems] == [("unmatched", "never recorded")]
