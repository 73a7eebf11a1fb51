"""Real name servers and clients: what is asked of a server of the client's own choice."""

import os
import socket
import subprocess

import pytest
import trustme
from dns_lab import QUESTIONS, knot, program, unbound
from engine_lab import in_sandbox, settings

SERVER = "203.0.113.53"


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with knot(tmp_path_factory.mktemp("knot")) as port:
        yield port


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.cassette"


def dig(*arguments, server=SERVER, port=53):
    """Return status, flags that matter, and the answers with their TTLs, in order."""
    command = [program("dig", "bind9-dnsutils"), f"@{server}", "-p", str(port), "+tries=1"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=30)
    lines = done.stdout.splitlines()
    status = [part for line in lines if "status:" in line for part in line.split(", ")[1:2]]
    answers = [" ".join(line.split()) for line in lines if line and not line.startswith(";")]
    retried = any("Truncated, retrying in TCP mode" in line for line in lines)
    return done.returncode, status, answers, retried


def record(function, port, path, mode="once"):
    wanted = settings(mappings=[f"{SERVER}=127.0.0.1:{port}"], cassette=path, mode=mode)
    return in_sandbox(lambda s: (function(), len(s.problems())), wanted)


def play(function, path):
    wanted = settings(cassette=path, mode="none")
    return in_sandbox(lambda s: (function(), len(s.problems())), wanted)


def three_ways(port, path, *arguments):
    """Ask the server without us, recorded, and replayed; expect the same; return it."""
    without = dig(*arguments, server="127.0.0.1", port=port)
    assert record(lambda: dig(*arguments), port, path) == (without, 0)
    assert play(lambda: dig(*arguments), path) == (without, 0)
    return without


def test_record_types(port, path):
    arguments = [word for name, rtype in QUESTIONS for word in (name, rtype)]
    code, status, answers, _ = three_ways(port, path, *arguments)
    assert (code, status) == (0, ["status: NOERROR"] * len(QUESTIONS))
    assert "alias.zone.example. 300 IN CNAME www.zone.example." in answers
    assert 'zone.example. 300 IN TXT "v=spf1 -all" "second \\"string\\""' in answers
    assert len(answers) >= len(QUESTIONS)


def test_over_tcp(port, path):
    _, _, answers, _ = three_ways(port, path, "+tcp", "www.zone.example", "A", "zone.example", "MX")
    assert len(answers) == 4


def test_a_truncated_answer_is_asked_for_again_over_tcp(port, path):
    code, status, answers, retried = three_ways(port, path, "big.zone.example", "TXT")
    assert (code, status, len(answers), retried) == (0, ["status: NOERROR"], 20, True)
    text = (path.parent / "a.cassette.txt").read_text()
    assert "DNS big.zone.example TXT of 203.0.113.53 -> truncated" in text
    assert "DNS big.zone.example TXT of 203.0.113.53 over tcp -> " in text


def test_without_edns(port, path):
    _, _, answers, retried = three_ways(port, path, "+noedns", "big.zone.example", "TXT")
    assert (len(answers), retried) == (20, True)


@pytest.mark.parametrize(
    ("name", "status"),
    [("nothing.zone.example", "NXDOMAIN"), ("broken.example", "SERVFAIL"), ("a.test", "REFUSED")],
)
def test_no_answer_is_kept_as_what_it_was(port, path, name, status):
    assert three_ways(port, path, name, "A")[1] == [f"status: {status}"]


def test_what_is_there_in_another_type_is_empty(port, path):
    _, status, lines, _ = three_ways(port, path, "www.zone.example", "MX")
    assert status == ["status: NOERROR"]
    assert [line.split()[3] for line in lines] == ["SOA"]


def test_the_view_tells_who_was_asked_how(port):
    def ask(sandbox):
        dig("+tcp", "www.zone.example", "AAAA")
        (flow,) = sandbox.flows("dns")
        (answer,) = flow.answers
        where = flow.name, flow.type, flow.server, flow.transport
        return where, answer.data, answer.ttl, flow.rcode, flow.process.name

    assert in_sandbox(ask, settings(mappings=[f"{SERVER}=127.0.0.1:{port}"])) == (
        ("www.zone.example", "AAAA", SERVER, "tcp"),
        "2001:db8::10",
        300,
        "NOERROR",
        "dig",
    )


def test_a_server_that_is_not_there_refuses(path):
    with socket.socket(type=socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    without = dig("a.example", server="127.0.0.1", port=port)
    (code, _, answers, _), problems = record(lambda: dig("a.example"), port, path)
    assert (code, answers, problems) == (without[0], [], 0)
    assert play(lambda: dig("a.example"), path)[0][0] == code


def test_another_server_is_another_question(port, path):
    record(lambda: dig("www.zone.example", "A"), port, path)
    code, problems = play(lambda: dig("www.zone.example", "A", server="203.0.113.54")[1], path)
    assert (code, problems) == (["status: NXDOMAIN"], 1)


def test_a_server_may_be_blocked_or_allowed(port):
    mapped = [f"{SERVER}=127.0.0.1:{port}"]
    ask = lambda s: (dig("www.zone.example", "A")[1], len(s.problems()))
    assert in_sandbox(ask, settings(mappings=mapped, block=True)) == (["status: NXDOMAIN"], 1)
    wanted = settings(mappings=mapped, block=True, allow=[SERVER])
    assert in_sandbox(ask, wanted) == (["status: NOERROR"], 0)


@pytest.mark.parametrize("transport", ["tls", "https"])
def test_encrypted_questions(tmp_path, path, transport):
    kdig = program("kdig", "knot-dnsutils")
    authority, ca, leaf = trustme.CA(), tmp_path / "ca.pem", tmp_path / "leaf.pem"
    authority.cert_pem.write_to_path(str(ca))
    issued = authority.issue_cert("resolver.example", common_name="resolver.example")
    issued.private_key_and_cert_chain_pem.write_to_path(str(leaf))
    with unbound(tmp_path, leaf) as (dot, doh):
        to, port = (dot, 853) if transport == "tls" else (doh, 443)

        def ask(server="resolver.example", port=port):
            trust = f"+tls-ca={ca}" if server == "127.0.0.1" else "+tls-ca"
            command = [kdig, f"@{server}", "-p", str(port), f"+{transport}", trust]
            command += ["+tls-hostname=resolver.example", "+noall", "+answer"]
            done = subprocess.run(
                [*command, "www.local.example", "A", "www.local.example", "AAAA"],
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return [" ".join(line.split()) for line in done.stdout.splitlines() if line]

        without = ask("127.0.0.1", to)
        mappings = [f"resolver.example=127.0.0.1:{to}"]
        wanted = settings(mappings=mappings, cassette=path, ca=[ca])

        def seen(sandbox):
            answers = ask()
            flows = [(f.name, f.type) for f in sandbox.flows("dns") if f.transport == "tls"]
            doh = [(f.request.method, f.request.path, f.request.headers["content-type"])
                   for f in sandbox.flows("http")]  # fmt: skip
            return answers, flows, doh, len(sandbox.problems())

        recorded = in_sandbox(seen, wanted)
    assert without == [
        "www.local.example. 90 IN A 203.0.113.20",
        "www.local.example. 90 IN AAAA 2001:db8::20",
    ]
    name = "www.local.example"
    dot_flows = [(name, "A"), (name, "AAAA")] if transport == "tls" else []
    doh_flows = [("POST", "/dns-query", "application/dns-message")] * 2 if not dot_flows else []
    assert recorded == (without, dot_flows, doh_flows, 0)
    assert in_sandbox(seen, settings(cassette=path, mode="none")) == recorded


def test_search_domains_and_ndots():
    names = ["api.corp.example", "api.eu.corp.example"]
    mapped = settings(mappings=[f"{name}=127.0.0.1:9" for name in names])

    def look_up(sandbox):
        environ = {**os.environ, "LOCALDOMAIN": "corp.example", "RES_OPTIONS": "ndots:2"}
        for name in ("api", "api.eu"):
            subprocess.run(["getent", "ahostsv4", name], env=environ, check=True, timeout=30)
        return [flow.name for flow in sandbox.flows("dns") if flow.type == "A"]

    assert in_sandbox(look_up, mapped) == names
