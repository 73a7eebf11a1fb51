"""A certificate that is bad without us is as bad with us: for several clients, to the letter."""

import contextlib
from typing import NamedTuple

import pytest
from engine_lab import answer, in_sandbox, serving, settings
from tls_lab import CLIENTS, HOST, Answer, Authorities, Told, run, told, trusting

pytestmark = pytest.mark.live

MIRRORED = {
    "expired": "certificate has expired",
    "not yet valid": "certificate is not yet valid",
    "wrong host": "Hostname mismatch, certificate is not valid for 'localhost'.",
    "wrong host, expired": "Hostname mismatch, certificate is not valid for 'localhost'.",
}
"""Kinds that one of our leaves can show, and what the engine says of each."""
RELAYED = {
    "self-signed": "self-signed certificate",
    "unknown issuer": "unable to get local issuer certificate",
    "expired intermediate": "certificate has expired",
}
BAD = MIRRORED | RELAYED


class Outcome(NamedTuple):
    without: Answer
    with_us: Answer
    flows: list[Told]


@pytest.fixture
def outcomes(tmp_path, monkeypatch, builder):
    """`outcomes(client, kinds, *options)`: for each kind, without us and with us."""
    authorities = Authorities(tmp_path)
    environ = trusting(authorities.file)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)  # before the session starts: the engine trusts it as well

    def outcomes(client, kinds, *options):
        with contextlib.ExitStack() as stack:
            servers = [
                stack.enter_context(serving(answer(), authorities.context(k))) for k in kinds
            ]
            ports = [server.port for server in servers]
            command = [*client.command(builder), *options]
            commands = [[*command, f"https://{HOST}:{port}/x"] for port in ports]
            without = [run(command, **environ) for command in commands]

            def inside(sandbox):
                answers = [run(command, **environ) for command in commands]
                flows = lambda: [f for f in sandbox.flows() if f.port in ports]
                sandbox.wait(lambda: all(f.ended for f in flows()))
                return answers, [[told(f) for f in flows() if f.port == port] for port in ports]

            with_us, flows = in_sandbox(inside, settings(capture_loopback=True))
        return {
            kind: Outcome(*each) for kind, *each in zip(kinds, without, with_us, flows, strict=True)
        }

    return outcomes


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_what_a_client_refuses_without_us_it_refuses_with_us_and_it_is_named(outcomes, client):
    for kind, outcome in outcomes(client, BAD).items():
        assert outcome.with_us == outcome.without, kind
        assert (outcome.without.status != 0, outcome.without.output) == (True, ""), kind
        failures = [flow for flow in outcome.flows if flow.protocol == "tls"]
        assert len(failures) == 1, (kind, outcome.flows)
        failure = failures[0]
        assert "failed on the server's side" in failure.text
        assert failure.why == BAD[kind]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_what_a_client_takes_without_us_it_takes_with_us(outcomes, client):
    outcome = outcomes(client, ["good"])["good"]
    assert outcome.with_us == outcome.without == (0, "hello", "")
    assert [flow.protocol for flow in outcome.flows] == ["http"]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_that_does_not_verify_gets_through(outcomes, client):
    for kind, outcome in outcomes(client, BAD, "-k").items():
        assert outcome.with_us == outcome.without == (0, "hello", ""), kind
        (flow,) = outcome.flows
        if kind in MIRRORED:
            assert flow.protocol == "http"
        else:
            assert (flow.protocol, flow.text) == ("tcp", f"TCP localhost:{flow.text[14:]}")
            assert BAD[kind] in flow.why


def test_clients_differ_over_a_certificate_that_names_no_host_but_as_its_subject(outcomes):
    """OpenSSL looks at the common name then; Node, too; urllib3 and Go do not (RFC 9525 §2)."""
    kind = "common name only"
    found = {client.name: outcomes(client, [kind])[kind] for client in CLIENTS}
    assert {name for name, outcome in found.items() if outcome.without.status == 0} == {
        "curl",
        "node",
    }
    assert [outcome.with_us for outcome in found.values()] == [
        outcome.without for outcome in found.values()
    ]
