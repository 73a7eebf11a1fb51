"""A TLS handshake that failed when recorded fails alike on replay, with no server there."""

from __future__ import annotations

import contextlib
import re
import socket

import pytest
from engine_lab import answer, in_sandbox, serving, settings
from test_tls_bad import BAD, MIRRORED
from tls_lab import CLIENTS, HOST, Authorities, run, trusting

pytestmark = pytest.mark.live

ALERTS = {"handshake_failure": 40, "protocol_version": 70, "certificate_required": 116}


def refuse(alert: bytes):
    """Return what a server does that answers a hello so, and ends."""

    def handle(conn: socket.socket) -> None:
        conn.recv(1 << 14)
        conn.sendall(alert)

    return handle


@pytest.fixture
def authorities(tmp_path, monkeypatch):
    made = Authorities(tmp_path)
    for name, value in trusting(made.file).items():
        monkeypatch.setenv(name, value)  # before the session starts: the engine trusts it as well
    return made


def unused(sandbox) -> list[str]:
    return [str(flow) for flow in sandbox.scope.cassette().unused]


def again(commands, authorities, path, **options):
    """Run commands in a sandbox; return what they said, flows, problems and unused recordings."""

    def inside(sandbox):
        said = [run(command, **trusting(authorities.file)) for command in commands]
        sandbox.wait(lambda: all(flow.ended for flow in sandbox.flows()))
        flows = [(str(f), f.origin.value) for f in sandbox.flows() if f.protocol in ("tls", "http")]
        return said, flows, [problem.reason for problem in sandbox.problems()], unused(sandbox)

    return in_sandbox(inside, settings(capture_loopback=True, cassette=path, **options))


def both(client, builder, servers, authorities, path, *options):
    """Run a client against servers, recording; then, with them gone, on replay."""
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(server).port for server in servers]
        commands = [[*client.command(builder), *options, f"https://{HOST}:{p}/x"] for p in ports]
        recorded = again(commands, authorities, path)
    return recorded, again(commands, authorities, path, mode="none")


def undated(answers):
    """Leave out when an issuer expired, which Go tells and no recording knows."""
    kind = "expired intermediate"
    text = re.sub(r"after 20\S+", "after then", answers[kind].errors)
    return answers | {kind: answers[kind]._replace(errors=text)}


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_bad_certificate_is_as_bad(client, builder, authorities, tmp_path):
    servers = [serving(answer(), authorities.context(kind)) for kind in BAD]
    recorded, played = both(client, builder, servers, authorities, tmp_path / "a.cassette")
    assert undated(dict(zip(BAD, played[0], strict=True))) == undated(
        dict(zip(BAD, recorded[0], strict=True))
    )
    assert [text for text, _ in played[1]] == [text for text, _ in recorded[1]]
    assert {origin for _, origin in played[1]} == {"played"}
    assert played[2:] == ([], [])


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
@pytest.mark.parametrize("how", [*ALERTS, "hangs up"])
def test_a_server_that_ends_the_handshake_ends_it_again(
    client, how, builder, authorities, tmp_path
):
    alert = bytes((21, 3, 3, 0, 2, 2, ALERTS[how])) if how in ALERTS else b""
    servers = [serving(refuse(alert))]
    recorded, played = both(client, builder, servers, authorities, tmp_path / "a.cassette")
    assert played[0] == recorded[0]
    assert recorded[0][0].status != 0
    assert played[1] == [(text, "played") for text, _ in recorded[1]]
    assert played[2:] == ([], [])


def test_who_does_not_verify_gets_the_recorded_answer(builder, authorities, tmp_path):
    path, curl = tmp_path / "a.cassette", CLIENTS[0]
    with serving(answer(), authorities.context("expired")) as server:
        url = f"https://{HOST}:{server.port}/x"
        commands = [[*curl.command(builder), *options, url] for options in ((), ("-k",), ())]
        recorded = again(commands, authorities, path)
    played = again(commands, authorities, path, mode="none")
    assert [said.status == 0 for said in recorded[0]] == [False, True, False]
    assert played[0] == recorded[0]
    assert [text for text, _ in played[1]] == [text for text, _ in recorded[1]]
    assert played[2:] == ([], [])


def test_a_failure_that_does_not_come_again_is_unused(builder, authorities, tmp_path):
    path, curl = tmp_path / "a.cassette", CLIENTS[0].command(builder)
    with serving(answer(), authorities.context("expired")) as server:
        url = f"https://{HOST}:{server.port}/x"
        again([[*curl, url], [*curl, "-k", url]], authorities, path)
    (said,), _, problems, unused = again([[*curl, "-k", url]], authorities, path, mode="none")
    assert (said.status, said.output, problems) == (0, "hello", [])
    assert unused == [
        f"TLS {HOST}:{server.port} failed on the server's side: {MIRRORED['expired']}"
    ]
