"""What counts as a client's refusal of our certificate, and what becomes of one."""

import contextlib
import ctypes.util
import os
import socket
import ssl
import struct
import subprocess
import sys

import pytest
from building import Builder, needs
from engine_lab import Authority, answer, in_sandbox, reset, serving, settings
from tls_lab import CLIENTS, NAME, PROGRAMS, dial, fetch, run, seen

from pytest_netcapture.engine.layers import alerts

pytestmark = pytest.mark.live

URL = f"https://{NAME}/hello"
SERVER_FLIGHT = 200
"""Bytes that any server's first flight has more of."""


@pytest.fixture
def ca(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def inside(ca):
    """`inside(function)`: what it returns in a sandbox where the engine trusts the server."""

    def inside(function):
        with serving(answer(), ca.context(NAME)) as server:
            wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[ca.file])
            return in_sandbox(function, wanted)

    return inside


def brief(sandbox):
    return [flow.brief for flow in seen(sandbox)]


# ── real clients ─────────────────────────────────────────────────────────────────────────────────


def java(builder: Builder, ca: str) -> list[str]:
    needs("java")
    store = f"{os.path.dirname(ca)}/store.p12"
    command = ["keytool", "-importcert", "-noprompt", "-alias", "own", "-file", ca]
    subprocess.run(
        [*command, "-keystore", store, "-storepass", "changeit"], check=True, capture_output=True
    )
    own = [f"-Djavax.net.ssl.trustStore={store}", "-Djavax.net.ssl.trustStorePassword=changeit"]
    options = ["-Xshare:auto", "-XX:TieredStopAtLevel=1", *own]
    return ["java", *options, "-cp", str(builder.java("Client", "Connection")), "Client"]


def aiohttp(_: Builder, ca: str) -> list[str]:
    return [sys.executable, str(PROGRAMS / "get_aiohttp.py"), ca]


def with_own_ca(client):
    def command(builder: Builder, ca: str) -> list[str]:
        alone = ["--capath", "/dev/null"] if client.name == "curl" else []
        return [*client.command(builder), *alone, "--cacert", ca]

    return command


REFUSING = {
    **{client.name: with_own_ca(client) for client in CLIENTS},
    "aiohttp": aiohttp,
    "java": java,
}
HOW = {
    "curl": "unknown_ca",
    "requests": "unknown_ca",
    "go": "bad_certificate",
    **dict.fromkeys(("node", "aiohttp", "java"), alerts.HUNG_UP),
}


@pytest.mark.parametrize("name", REFUSING)
def test_a_program_with_roots_of_its_own_works_on_its_retry_and_is_named(name, builder, ca, inside):
    command = [*REFUSING[name](builder, ca.file), URL]

    def client(sandbox):
        first = run(command)
        sandbox.wait(lambda: sandbox.flows("tls"))
        return first, run(command), brief(sandbox)

    first, second, flows = inside(client)
    assert (first.status != 0, first.output) == (True, "")
    assert second == (0, "hello", "")
    reason = f"the client refused our certificate ({HOW[name]})"
    assert flows == [("tls", HOW[name]), ("tcp", reason)]


def test_another_program_is_still_decrypted_and_the_next_test_remembers(builder, ca, inside):
    pinned = ["curl", "-sS", "--capath", "/dev/null", "--cacert", ca.file, URL]

    def client(sandbox):
        run(pinned)
        sandbox.wait(lambda: sandbox.flows("tls"))
        body = fetch()[0]
        first = brief(sandbox)
        wanted = sandbox.scope.settings_now
        sandbox.session.end(sandbox.scope)
        sandbox.scope = sandbox.session.begin("another test", wanted)
        return body, first, run(pinned), brief(sandbox)

    body, first, pinned_again, second = inside(client)
    assert body.endswith(b"hello")
    assert [protocol for protocol, _ in first] == ["tls", "http"]
    assert pinned_again == (0, "hello", "")
    assert second == [("tcp", "the client refused our certificate (unknown_ca)")]


# ── what counts ──────────────────────────────────────────────────────────────────────────────────


def flight_of(raw: socket.socket) -> bytes:
    """Read the server's whole first flight: all that there is, once some is there."""
    data = raw.recv(65536)
    while len(data) < SERVER_FLIGHT:
        data += raw.recv(65536)
    return data


def alert(number: int) -> None:
    raw, _, _, outgoing = dial()
    with raw:
        raw.sendall(outgoing.read())
        flight_of(raw)
        raw.sendall(struct.pack(">BHHBB", 21, 0x0303, 2, 2, number))
        raw.recv(1)


def hang_up() -> None:
    raw, _, _, outgoing = dial()
    with raw:
        raw.sendall(outgoing.read())
        flight_of(raw)


def reset_after_the_certificate() -> None:
    raw, _, _, outgoing = dial()
    raw.sendall(outgoing.read())
    flight_of(raw)
    reset(raw)


def leave_it_unread() -> None:
    raw, _, _, outgoing = dial()
    with raw:
        raw.sendall(outgoing.read())
        raw.recv(1)


def leave_before_the_certificate() -> None:
    raw, _, _, outgoing = dial()
    with raw:
        raw.sendall(outgoing.read())


def reset_before_the_certificate() -> None:
    raw, _, _, outgoing = dial()
    raw.sendall(outgoing.read())
    reset(raw)


def leave_half_a_hello() -> None:
    raw, _, _, outgoing = dial()
    with raw:
        raw.sendall(outgoing.read()[:50])


def speak_something_else() -> None:
    raw, _, _, outgoing = dial()
    with raw:
        raw.sendall(outgoing.read())
        flight_of(raw)
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        raw.recv(1000)


def only_look(*, politely: bool) -> None:
    raw, tls, incoming, outgoing = dial()
    with raw:
        raw.sendall(outgoing.read())
        incoming.write(flight_of(raw))
        tls.do_handshake()
        if politely:
            with pytest.raises(ssl.SSLWantReadError):
                tls.unwrap()
        raw.sendall(outgoing.read())


def then_get(act):
    """Return what the connection after `act` is seen as."""

    def client(sandbox):
        act()
        sandbox.wait(lambda: [f for f in sandbox.flows() if f.protocol != "dns" and f.ended])
        with contextlib.suppress(ssl.SSLCertVerificationError):  # the server's own, if relayed
            fetch()
        return brief(sandbox)

    return client


@pytest.mark.parametrize("name", sorted(alerts.OF_CERTIFICATES))
def test_an_alert_that_speaks_of_the_certificate_counts(name, inside):
    number = next(n for n in range(256) if alerts.name_of(n) == name)
    failure, relayed, *_ = inside(then_get(lambda: alert(number)))
    assert failure == ("tls", name)
    assert relayed == ("tcp", f"the client refused our certificate ({name})")


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_so_does_one_after_the_handshake(version, inside):
    library = ctypes.util.find_library("gnutls")
    if library is None:
        pytest.skip("GnuTLS is not installed")
    program = str(PROGRAMS / "late_alert.py")
    command = [sys.executable, program, library, NAME, version, "48"]

    def act():
        done = run(command)
        assert done.status == 0, done.errors

    failure, relayed, *_ = inside(then_get(act))
    assert failure == ("tls", "unknown_ca")
    assert relayed == ("tcp", "the client refused our certificate (unknown_ca)")


def test_hanging_up_on_the_certificate_counts(inside):
    failure, relayed, *_ = inside(then_get(hang_up))
    assert failure == ("tls", "hung up during the handshake")
    assert relayed[0] == "tcp"


@pytest.mark.parametrize("name", ["handshake_failure", "internal_error", "protocol_version"])
def test_other_alerts_do_not(name, inside):
    number = next(n for n in range(256) if alerts.name_of(n) == name)
    failure, exchange = inside(then_get(lambda: alert(number)))
    assert failure == ("tls", name)
    assert exchange[0] == "http"


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (reset_after_the_certificate, "tls"),
        (leave_it_unread, "tls"),
        (leave_before_the_certificate, "tls"),
        (reset_before_the_certificate, None),
        (leave_half_a_hello, "tcp"),
        (speak_something_else, "tls"),
        (lambda: only_look(politely=True), "tcp"),
        (lambda: only_look(politely=False), "tcp"),
    ],
)
def test_nor_does_any_other_end(act, told, inside):
    first, exchange = inside(then_get(act))
    assert told in (None, first[0])
    assert "refused" not in first[1]
    assert exchange[0] == "http"
