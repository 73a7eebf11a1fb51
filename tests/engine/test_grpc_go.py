"""gRPC through a real engine with grpc-go, as client and as server; then without the server."""

import subprocess
import sys
from pathlib import Path

import pytest
from engine_lab import in_sandbox, settings
from web_servers import HOST, Web, certificates

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
PYTHON = (sys.executable, PROGRAMS / "grpc_talk.py")
pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def grpcgo(builder):
    return builder.go_module(PROGRAMS / "grpcgo")


@pytest.fixture(scope="module")
def servers(grpcgo, tmp_path_factory):
    """grpc-go's and grpcio's."""
    ca, chain, key = certificates(tmp_path_factory.mktemp("grpc-go"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    python = [sys.executable, HERE / "grpc_server.py", chain, key]
    with (
        subprocess.Popen([grpcgo, "serve", chain, key], **pipes) as go,
        subprocess.Popen(python, **pipes) as grpcio,
    ):
        ports = {
            name: map(int, process.stdout.readline().split())
            for name, process in (("grpc-go", go), ("grpcio", grpcio))
        }
        yield {name: Web(*pair, ca) for name, pair in ports.items()}
        go.stdin.close()
        grpcio.stdin.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.cassette"


def talk(command, *args, port=443):
    def client(sandbox):
        line = [*command, f"{HOST}:{port}", *args]
        done = subprocess.run(line, capture_output=True, timeout=25, text=True)
        problems = [(p.kind, p.reason, p.differences) for p in sandbox.problems()]
        return done.stdout.splitlines(), done.stderr[-1500:], sandbox.flows("grpc"), problems

    return client


def both(client, server, path):
    wanted = settings(mappings=server.mappings, ca=[server.ca], cassette=path)
    return in_sandbox(client, wanted), in_sandbox(client, settings(cassette=path, mode="none"))


CALLS = {
    ("Unary", "you", "fail"): ["hello you", "NotFound no such thing: ü"],
    ("ServerStream", "x"): ["x 0", "x 1", "x 2"],
    ("ClientStream", "x", "y", "z"): ["x y z"],
    ("Both", "a", "b"): ["ready", "you said a", "next?", "you said b", "next?", "[] OK"],
}


@pytest.mark.shows(
    "gRPC", "captured", "recorded", "replayed", clients=["grpc-go"], servers=["grpc-go", "grpcio"]
)
@pytest.mark.parametrize("port", [443, 80])
@pytest.mark.parametrize("name", ["grpc-go", "grpcio"])
@pytest.mark.parametrize("args", CALLS, ids=lambda args: args[0])
def test_a_client_of_grpc_go(args, name, port, grpcgo, servers, path):
    live, again = both(talk([grpcgo], *args, port=port), servers[name], path)
    assert (live[0], live[3]) == (CALLS[args], []), live[1]
    assert (again[0], again[3]) == (CALLS[args], []), again[1]
    assert {flow.service for flow in live[2]} == {"test.Talk"}
    assert live[2][0].requests[0].fields == {1: args[1]}
    assert {flow.origin.value for flow in again[2]} == {"played"}
    assert [flow.messages for flow in again[2]] == [flow.messages for flow in live[2]]


def test_a_client_of_grpcio_and_a_server_of_grpc_go(servers, path):
    args = ("Both", "a", "b")
    live, again = both(talk(PYTHON, *args), servers["grpc-go"], path)
    assert (live[0], live[3]) == (CALLS[args], []), live[1]
    assert (again[0], again[3]) == (CALLS[args], []), again[1]


def test_a_client_that_says_something_else_fails(grpcgo, servers, path):
    web = servers["grpc-go"]
    wanted = settings(mappings=web.mappings, ca=[web.ca], cassette=path)
    in_sandbox(talk([grpcgo], "Both", "a", "b"), wanted)
    client = talk([grpcgo], "Both", "a", "c")
    said, err, _, problems = in_sandbox(client, settings(cassette=path, mode="none"))
    assert said == ["ready", "you said a", "next?", "Internal"]
    assert "INTERNAL_ERROR" in err
    ((kind, reason, (difference,)),) = problems
    assert (kind, reason) == ("unmatched", "message 2 of the client is not the recorded one")
    assert (difference.field, difference.recorded, difference.actual) == ("message.1", "b", "c")


def test_names_are_learnt_from_reflection(grpcgo, servers, path):
    def client(sandbox):
        said = talk([grpcgo], "Reflect")(sandbox)[0] + talk([grpcgo], "Unary", "you")(sandbox)[0]
        flows = sandbox.flows("grpc")
        return said, flows[-1].named(flows)

    live, again = both(client, servers["grpc-go"], path)
    assert live == (["1 file", "hello you"], [{"text": "you"}, {"text": "hello you"}])
    assert again == live
