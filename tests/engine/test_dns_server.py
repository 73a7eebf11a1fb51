"""Name lookups from a sandbox: mapped, unknown, blocked, replayed, over UDP and TCP."""

import socket
import subprocess
import sys

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest
from engine_lab import answer, in_sandbox, serving, settings

from pytest_netcapture.redirect.kernel import OWN_V4

NAME = "api.example.com"
SERVER = "192.0.2.53"
MAPPED = settings(mappings=[f"{NAME}=127.0.0.1:9"])


def ask(name, rtype="A", *, tcp=False, server=SERVER):
    query = dns.message.make_query(name, rtype)
    reply = (dns.query.tcp if tcp else dns.query.udp)(query, server, timeout=10)
    return dns.rcode.to_text(reply.rcode()), sorted(str(r) for rrset in reply.answer for r in rrset)


def test_a_mapped_name_has_one_stable_address_of_each_family():
    def client(sandbox):
        first = ask(NAME), ask(NAME, "AAAA")
        return first, (ask(NAME, tcp=True), ask(NAME, "AAAA", tcp=True)), len(sandbox.flows("dns"))

    first, again, flows = in_sandbox(client, MAPPED)
    assert first == again == in_sandbox(client, MAPPED)[0]
    assert first[0][0] == "NOERROR"
    assert first[0][1][0].startswith("198.1")
    assert first[1][1][0].startswith("2001:db8:6e63:")
    assert flows == 4


def test_another_type_of_a_mapped_name_is_empty_not_wrong():
    assert in_sandbox(lambda _: ask(NAME, "MX"), MAPPED) == ("NOERROR", [])


def test_any_name_server_address_is_answered_here():
    assert in_sandbox(lambda _: ask(NAME, server="203.0.113.7")[0], MAPPED) == "NOERROR"


def test_without_a_resolver_that_may_be_asked_the_answer_is_servfail():
    def client(sandbox):
        rcode, _ = ask("nowhere.example")
        (flow,) = sandbox.flows("dns")
        return rcode, flow.rcode, flow.error.kind, sandbox.session.close().counts.left_machine

    assert in_sandbox(client) == ("SERVFAIL", "SERVFAIL", "unreachable", 0)


def test_a_blocked_name_does_not_exist_and_is_a_problem():
    def client(sandbox):
        rcode, _ = ask("api.other.example")
        (problem,) = sandbox.problems()
        return rcode, problem.kind, problem.flow.name

    assert in_sandbox(client, settings(block=True)) == ("NXDOMAIN", "blocked", "api.other.example")


def test_an_allowed_name_may_be_asked_for_while_the_rest_is_blocked():
    wanted = settings(block=True, allow=["*.example.com"], mappings=[f"{NAME}=127.0.0.1:9"])
    assert in_sandbox(lambda s: (ask(NAME)[0], len(s.problems())), wanted) == ("NOERROR", 0)


def test_the_machines_own_name_is_no_traffic():
    def client(sandbox):
        return ask(socket.gethostname()), sandbox.flows()

    (rcode, addresses), flows = in_sandbox(client, settings(block=True))
    assert (rcode, addresses, flows) == ("NOERROR", [OWN_V4], [])


def test_a_question_is_recorded_and_replayed_without_a_mapping(tmp_path):
    cassette = tmp_path / "dns.cassette"
    recorded = in_sandbox(
        lambda _: ask(NAME), settings(mappings=[f"{NAME}=127.0.0.1:9"], cassette=cassette)
    )
    played = in_sandbox(
        lambda s: (ask(NAME), ask("other.example.com")[0], [p.kind for p in s.problems()]),
        settings(cassette=cassette, mode="none"),
    )
    assert played == (recorded, "NXDOMAIN", ["unmatched"])


def test_the_process_that_asked_is_named():
    def client(sandbox):
        code = f"import socket; socket.getaddrinfo({NAME!r}, 80)"
        child = subprocess.Popen([sys.executable, "-c", code])
        assert child.wait(20) == 0
        return {f.process.pid for f in sandbox.flows("dns")} == {child.pid}

    assert in_sandbox(client, MAPPED)


def test_nonsense_on_port_53_hangs_nothing():
    def client(_):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"\x00", (SERVER, 53))
            sock.sendto(b"\x12\x34\x01\x00\x00\x01nonsense", (SERVER, 53))
        return ask(NAME)[0]

    assert in_sandbox(client, MAPPED) == "NOERROR"


def test_the_resolver_of_the_system_finds_a_mapped_name_and_connects():
    with serving(answer()) as server:

        def client(_):
            with socket.create_connection((NAME, 80), timeout=10) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                return sock.recv(1000)

        assert in_sandbox(client, settings(mappings=[f"{NAME}={server.at}"])).endswith(b"hello")


@pytest.mark.parametrize("name", ["localhost", "ip6-localhost"])
def test_names_of_etc_hosts_need_no_lookup(name):
    def client(sandbox):
        try:
            socket.getaddrinfo(name, 80)
        except OSError:
            return None
        return sandbox.flows("dns")

    assert in_sandbox(client) in ([], None)
