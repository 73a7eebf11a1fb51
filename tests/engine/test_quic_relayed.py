"""QUIC that cannot be decrypted reaches its server as it is, and it is said why."""

import subprocess
import sys
from pathlib import Path

import pytest
from engine_lab import in_sandbox, settings
from http3_servers import PROGRAMS, quic_server
from web_servers import HOST, hypercorn

aioquic = pytest.importorskip("aioquic", reason="aioquic is not installed")
pytestmark = pytest.mark.live
SAY = (sys.executable, PROGRAMS / "quic_say.py", HOST, "443")
GET3 = (sys.executable, PROGRAMS / "get3.py")
V1, V2, UNKNOWN = "1", "6b3343cf", "abcd0001"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with hypercorn(tmp_path_factory.mktemp("hypercorn"), http3=True) as web:
        yield web


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.cassette"


def run(*command):
    done = subprocess.run(command, capture_output=True, timeout=25, text=True)
    assert not done.stderr, done.stderr
    return done.stdout.strip()


def said_of(sandbox):
    """What is listed of QUIC, and what fails the test."""
    udp = [(f.reason, f.datagrams_sent > 0, f.datagrams_received > 0) for f in sandbox.flows("udp")]
    return udp, [(p.kind, p.reason) for p in sandbox.problems()]


@pytest.mark.parametrize("version", [V1, V2])
def test_another_protocol_over_quic(version, tmp_path, path):
    echo = (sys.executable, PROGRAMS / "quic_echo.py", "hq-interop")
    reason = "QUIC for hq-interop is not decoded"

    def client(sandbox):
        return run(*SAY, "hq-interop", version, "hello"), *said_of(sandbox)

    with quic_server(tmp_path, *echo) as server:
        ca = ("--ca", server.ca)
        wanted = settings(mappings=server.mappings, cassette=path)
        live = in_sandbox(
            lambda s: (run(*SAY, "hq-interop", version, "hello", *ca), *said_of(s)), wanted
        )
    assert live == ("re:hello", [(reason, True, True)], [])
    played = in_sandbox(client, settings(cassette=path, mode="none"))
    assert played[0].startswith("no connection")
    assert ("unmatched", reason) in played[2]


def test_another_version_of_quic(app):
    def client(sandbox):
        return run(*SAY, "h3", UNKNOWN, "hello"), *said_of(sandbox)

    said, udp, problems = in_sandbox(client, settings(mappings=app.mappings))
    assert said.startswith("no connection")
    assert udp == [("QUIC version 0xabcd0001 is not decoded", True, True)]
    assert problems == []


def test_a_server_under_a_private_ca(app):
    """The client knows the issuer, we do not: it gets through to it from the first connection on."""

    def client(sandbox):
        return run(*GET3, "--ca", app.ca, HOST, "443", "GET:/a"), *said_of(sandbox)

    said, udp, problems = in_sandbox(client, settings(mappings=app.mappings))
    assert said == "GET /a 200 3 8"
    ((reason, *counts),) = udp
    assert reason.startswith("the server's certificate is bad: ")
    assert "issuer" in reason
    assert (counts, problems) == ([True, True], [])


def test_a_client_that_refuses_our_certificate(app):
    def client(sandbox):
        command = (*GET3, "--ca", app.ca, HOST, "443", "GET:/a")
        first = run(*command)
        failures = [(f.side, f.detail, f.host) for f in sandbox.flows("tls")]
        return first, run(*command), failures, said_of(sandbox)

    first, second, failures, (udp, problems) = in_sandbox(
        client, settings(mappings=app.mappings, ca=[app.ca])
    )
    assert first.startswith("no connection")
    assert failures == [("client", "bad_certificate", HOST)]
    assert second == "GET /a 200 3 8"
    assert udp == [("the client refused our certificate (bad_certificate)", True, True)]
    assert problems == []


def test_named_to_be_passed_through(app):
    def client(sandbox):
        return run(*GET3, "--ca", app.ca, HOST, "443", "GET:/a"), *said_of(sandbox)

    wanted = settings(mappings=app.mappings, ca=[app.ca], passthrough=[HOST])
    said, udp, problems = in_sandbox(client, wanted)
    assert (said, udp, problems) == (
        "GET /a 200 3 8",
        [(f"passthrough ({HOST})", True, True)],
        [],
    )


def test_nobody_listens(app):
    def client(sandbox):
        return run(*GET3, "--quick", HOST, "443", "GET:/a"), *said_of(sandbox)

    from http3_servers import free_udp_port

    wanted = settings(mappings=[f"{HOST}:443=127.0.0.1:{free_udp_port()}"], ca=[app.ca])
    said, udp, problems = in_sandbox(client, wanted)
    assert said.startswith("no connection")
    assert {reason for reason, *_ in udp} == {"Connection refused"}
    assert problems == []


def test_without_aioquic(app, tmp_path):
    """The engine looks for packages where the session does: there, aioquic is left out."""
    (packages,) = {str(Path(module.__file__).parent.parent) for module in (aioquic, pytest)}
    for entry in Path(packages).iterdir():
        if not entry.name.startswith("aioquic"):
            (tmp_path / entry.name).symlink_to(entry)

    def client(sandbox):
        return run(*GET3, "--ca", app.ca, HOST, "443", "GET:/a"), *said_of(sandbox)

    before = list(sys.path)
    sys.path[:] = [str(tmp_path) if path == packages else path for path in sys.path]
    try:
        said, udp, problems = in_sandbox(client, settings(mappings=app.mappings, ca=[app.ca]))
    finally:
        sys.path[:] = before
    assert said == "GET /a 200 3 8"
    ((reason, *_),) = udp
    assert "pip install 'pytest-netcapture[http3]'" in reason
    assert problems == []
