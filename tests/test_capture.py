"""The fixture over a source of made-up flows: views, claims with their whole text, waiting, settings."""

from __future__ import annotations

import threading
import traceback
from urllib.parse import urlsplit

import pytest

from pytest_netcapture.capture import Netcapture
from pytest_netcapture.claims import is_established
from pytest_netcapture.errors import AssertionMismatch, Mismatch, UsageError
from pytest_netcapture.flows import (
    Body,
    DnsAnswer,
    DnsFlow,
    FlowError,
    HttpFlow,
    HttpRequest,
    HttpResponse,
    Origin,
    Process,
    TcpFlow,
    TlsFailure,
    UdpFlow,
)
from pytest_netcapture.messages import CassetteState
from pytest_netcapture.settings import Settings

CHECKOUT = Process(1234, "checkout", ("./checkout", "--amount", "43"))


class Source:
    """A `FlowSource` whose flows a test appends to."""

    def __init__(self, *flows):
        self.all = list(flows)
        self.now = Settings()
        self.state = None
        self.changed = threading.Condition()

    def add(self, flow):
        with self.changed:
            self.all.append(flow)
            self.changed.notify_all()

    def flows(self):
        return list(self.all)

    def problems(self):
        return []

    def wait_change(self, seen, timeout):
        with self.changed:
            self.changed.wait_for(lambda: len(self.all) != seen, timeout)
            return len(self.all)

    def settings(self):
        return self.now

    def update(self, settings):
        self.now = settings

    def cassette(self):
        return self.state

    def run(self, args, **kwargs):
        return args, kwargs

    popen = run


def exchange(method, url, body=b"", *, status=201, **fields):
    parts = urlsplit(url)
    request = HttpRequest(
        method=method,
        scheme=parts.scheme,
        host=parts.hostname,
        port=parts.port or {"http": 80, "https": 443}[parts.scheme],
        target=f"{parts.path or '/'}?{parts.query}".removesuffix("?"),
        body=Body(size=len(body), data=body),
    )
    response = HttpResponse(status=status, body=Body(size=1234)) if status else None
    return HttpFlow(
        host=parts.hostname,
        port=request.port,
        request=request,
        response=response,
        process=CHECKOUT,
        started=1_000_000,
        ended=13_000_000,
        **fields,
    )


RESOLVED = DnsFlow(
    name="api.stripe.com",
    type="A",
    rcode="NOERROR",
    answers=[DnsAnswer("api.stripe.com", "A", 60, "192.0.2.7")],
)
CHARGE = exchange("POST", "https://api.stripe.com/v1/charges", b'{"amount": 43, "to": [{"id": 1}]}')
LISTING = exchange("GET", "https://api.stripe.com/v1/charge?page=1")
DATABASE = TcpFlow(host="127.0.0.1", port=5432, sent=99, received=2345, reason="loopback")
PINNED = TlsFailure(host="x.segment.io", port=443, side="client", detail="unknown_ca")
REFUSED = TcpFlow(host="db.test", port=5432, error=FlowError("refused"))
TIME = UdpFlow(host="192.0.2.9", port=123, datagrams_sent=1, sent=48)
BLOCKED = TcpFlow(host="evil.test", port=443, origin=Origin.BLOCKED)
EVERY = (RESOLVED, CHARGE, LISTING, DATABASE, PINNED, REFUSED, TIME, BLOCKED)


@pytest.fixture
def capture():
    return Netcapture(Source(*EVERY))


def failure(claim, *args, **kwargs):
    with pytest.raises(AssertionMismatch) as caught:
        claim(*args, **kwargs)
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, Mismatch)
    return str(caught.value)


def test_each_view_has_its_kind(capture):
    assert list(capture.flows) == list(EVERY)
    assert list(capture.http) == [CHARGE, LISTING]
    assert list(capture.dns) == [RESOLVED]
    assert list(capture.tcp) == [DATABASE, REFUSED, BLOCKED]
    assert list(capture.udp) == [TIME]
    assert list(capture.tls_failures) == [PINNED]
    assert list(capture.blocked) == [BLOCKED]


def test_a_view_is_a_live_sequence():
    source = Source()
    posts = Netcapture(source).http.filter("POST")
    assert posts == []
    assert not posts
    source.add(CHARGE)
    source.add(LISTING)
    assert len(posts) == 1
    assert posts == [CHARGE]
    assert posts[0] is posts.first is posts.last is posts.one() is CHARGE
    assert posts[:5] == [CHARGE]
    assert CHARGE in posts
    assert posts.filter(path="/v2") == ()
    with pytest.raises(IndexError, match=r"netcapture\.http\.filter\(POST\)\[1\]: there are 1"):
        posts[1]


def test_names_and_hosts(capture):
    assert capture.dns.names == {"api.stripe.com"}
    assert capture.http.hosts == {"api.stripe.com"}
    assert capture.http.filter("POST").hosts == {"api.stripe.com"}


def test_filters_take_callables(capture):
    assert capture.http.filter(lambda flow: flow.response.status == 201).first is CHARGE
    assert capture.flows.one(where=lambda flow: flow.port == 123) is TIME


def test_repr_is_a_line_a_flow(capture):
    assert repr(capture) == (
        "<netcapture.flows: 8 flows\n"
        "  DNS api.stripe.com A → 192.0.2.7\n"
        "  POST https://api.stripe.com/v1/charges → 201 1.2 kB 12 ms  checkout(1234)\n"
        "  GET https://api.stripe.com/v1/charge?page=1 → 201 1.2 kB 12 ms  checkout(1234)\n"
        "  TCP 127.0.0.1:5432 → 99 B sent, 2.3 kB received (loopback)\n"
        "  TLS x.segment.io:443 → refused by the client: unknown_ca\n"
        "  TCP db.test:5432 → refused\n"
        "  UDP 192.0.2.9:123 → 1 datagram sent, 0 received (48 B, 0 B)\n"
        "  TCP evil.test:443 → blocked>"
    )
    assert repr(Netcapture(Source()).http) == "<netcapture.http: 0 flows>"


def test_one_says_what_there_was(capture):
    assert failure(capture.http.one, host="api.stripe.com") == (
        "netcapture.http.one(host='api.stripe.com'): expected one flow, found 2\n"
        "\n"
        "matching:\n"
        "  POST https://api.stripe.com/v1/charges → 201 1.2 kB 12 ms  checkout(1234)\n"
        "  GET https://api.stripe.com/v1/charge?page=1 → 201 1.2 kB 12 ms  checkout(1234)\n"
        "\n"
        "other traffic:\n"
        "  DNS api.stripe.com A → 192.0.2.7\n"
        "  TCP 127.0.0.1:5432 → 99 B sent, 2.3 kB received (loopback)\n"
        "  TLS x.segment.io:443 → refused by the client: unknown_ca\n"
        "  TCP db.test:5432 → refused\n"
        "  UDP 192.0.2.9:123 → 1 datagram sent, 0 received (48 B, 0 B)\n"
        "  TCP evil.test:443 → blocked"
    )


def test_one_in_a_filtered_view_explains_all_criteria():
    capture = Netcapture(Source(CHARGE))
    assert failure(capture.http.filter(path="/v1/charges").one, "GET") == (
        "netcapture.http.filter(path='/v1/charges').one(GET): expected one flow, found 0\n"
        "\n"
        "nearest (- wanted, + was):\n"
        "  POST https://api.stripe.com/v1/charges → 201 1.2 kB 12 ms  checkout(1234)\n"
        "    method  - GET\n"
        "            + POST"
    )


def test_first_says_what_there_was():
    capture = Netcapture(Source(TIME))
    assert failure(lambda: capture.dns.first) == (
        "netcapture.dns.first: there is no such flow\n"
        "\n"
        "there was:\n"
        "  UDP 192.0.2.9:123 → 1 datagram sent, 0 received (48 B, 0 B)"
    )
    assert failure(lambda: Netcapture(Source()).dns.last) == (
        "netcapture.dns.last: there is no such flow\n\nthere was no traffic at all"
    )


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("POST", "https://api.stripe.com/v1/charges"), {"json": {"to": [{"id": 1}]}, "times": 1}),
        ((), {"host": "*.stripe.com", "at_least": 2}),
        ((), {"host": "other.test", "times": 0}),
        ((), {"host": "other.test", "at_least": 0}),
        ((None, "/v1/*"), {}),
    ],
    ids=str,
)
def test_assert_requested_holds(capture, args, kwargs):
    assert capture.assert_requested(*args, **kwargs) is None


def test_assert_requested_shows_the_nearest_field_by_field(capture):
    text = failure(
        capture.assert_requested,
        "POST",
        "https://api.stripe.com/v1/charges",
        json={"amount": 42, "to": [{"id": 2}]},
        times=1,
    )
    assert text == (
        "expected once, seen 0 times: POST https://api.stripe.com/v1/charges"
        ' with json={"amount": 42, "to": [{"id": 2}]}\n'
        "\n"
        "nearest (- wanted, + was):\n"
        "  POST https://api.stripe.com/v1/charges → 201 1.2 kB 12 ms  checkout(1234)\n"
        "    json.amount    - 42\n"
        "                   + 43\n"
        "    json.to[0].id  - 2\n"
        "                   + 1\n"
        "  GET https://api.stripe.com/v1/charge?page=1 → 201 1.2 kB 12 ms  checkout(1234)\n"
        "    method  - POST\n"
        "            + GET\n"
        "    path    - /v1/charges\n"
        "            + /v1/charge\n"
        '    json    - {"amount": 42, "to": [{"id": 2}]}\n'
        "            + (empty)\n"
        "\n"
        "other traffic:\n"
        "  DNS api.stripe.com A → 192.0.2.7\n"
        "  TCP 127.0.0.1:5432 → 99 B sent, 2.3 kB received (loopback)\n"
        "  TLS x.segment.io:443 → refused by the client: unknown_ca\n"
        "  TCP db.test:5432 → refused\n"
        "  UDP 192.0.2.9:123 → 1 datagram sent, 0 received (48 B, 0 B)\n"
        "  TCP evil.test:443 → blocked"
    )


def test_assert_requested_too_often():
    capture = Netcapture(Source(CHARGE, CHARGE, LISTING))
    assert failure(capture.assert_requested, "POST", times=1) == (
        "expected once, seen twice: POST\n"
        "\n"
        "matching:\n"
        "  POST https://api.stripe.com/v1/charges → 201 1.2 kB 12 ms  checkout(1234)\n"
        "  POST https://api.stripe.com/v1/charges → 201 1.2 kB 12 ms  checkout(1234)\n"
        "\n"
        "other traffic:\n"
        "  GET https://api.stripe.com/v1/charge?page=1 → 201 1.2 kB 12 ms  checkout(1234)"
    )


def test_assert_requested_without_traffic():
    assert failure(Netcapture(Source()).assert_requested, "GET", at_least=2) == (
        "expected at least twice, seen 0 times: GET\n\nthere was no traffic at all"
    )


def test_a_failure_is_bounded():
    flows = [exchange("GET", f"https://h{n}.test/{'x' * 5000}") for n in range(500)]
    wanted = {f"key{n}": n for n in range(100)}
    body = b'{"key0": "' + b"y" * 100_000 + b'"}'
    flows.append(exchange("POST", "https://api.test/deep", body))
    text = failure(Netcapture(Source(*flows)).assert_requested, "POST", "/deep", json=wanted)
    assert len(text.splitlines()) < 40
    assert max(map(len, text.splitlines())) < 200
    assert "… 12 more differences" in text
    assert "… 490 more" in text


def test_assert_not_requested(capture):
    capture.assert_not_requested(host="*.segment.io")
    capture.assert_not_requested("DELETE")
    assert failure(capture.assert_not_requested, "POST", "//api.stripe.com/*").startswith(
        "expected no request, seen once: POST //api.stripe.com/*\n\nmatching:\n  POST https://api"
    )


def test_assert_not_requested_fails_when_it_cannot_tell(capture):
    assert failure(capture.assert_not_requested, host="127.0.0.1") == (
        "cannot tell whether this was requested: host='127.0.0.1'\n"
        "\n"
        "there was:\n"
        "  TCP 127.0.0.1:5432 → 99 B sent, 2.3 kB received (loopback)\n"
        "  cure: loopback is not decoded; to see its requests, use --netcapture-loopback=capture"
    )
    capture.assert_not_requested("GET", "http://127.0.0.1/admin")
    opaque = Netcapture(Source(TcpFlow(host="h", port=443, sni="bank.test", reason="passthrough")))
    assert "take the host out of passthrough" in failure(
        opaque.assert_not_requested, "GET", "https://bank.test/x"
    )


def test_assert_connected(capture):
    capture.assert_connected("127.0.0.1", 5432)
    capture.assert_connected("*.stripe.com", 443)
    capture.assert_connected("x.segment.io", 443)
    refused = failure(capture.assert_connected, "db.test", 5432)
    assert refused.startswith(
        "expected a connection to db.test:5432, none was established\n\nthere was:"
    )
    assert "connection to evil.test:443, none was" in failure(
        capture.assert_connected, "evil.test", 443
    )
    assert failure(Netcapture(Source(DATABASE)).assert_connected, "127.0.0.1", 5433) == (
        "expected a connection to 127.0.0.1:5433, there was none\n"
        "\n"
        "nearest (- wanted, + was):\n"
        "  TCP 127.0.0.1:5432 → 99 B sent, 2.3 kB received (loopback)\n"
        "    port  - 5433\n"
        "          + 5432"
    )


@pytest.mark.parametrize(
    ("flow", "established"),
    [
        (TcpFlow(host="h", port=1), True),
        (TcpFlow(host="h", port=1, error=FlowError("reset")), True),
        (TcpFlow(host="h", port=1, error=FlowError("timeout")), False),
        (TcpFlow(host="h", port=1, error=FlowError("timeout"), sent=5), True),
        (TcpFlow(host="h", port=1, error=FlowError("unreachable")), False),
        (TcpFlow(host="h", port=1, origin=Origin.UNMATCHED), False),
        (exchange("GET", "http://h/", origin=Origin.UNMATCHED), True),
        (exchange("GET", "http://h/", status=0, error=FlowError("timeout")), True),
        (exchange("GET", "http://h/", origin=Origin.BLOCKED), False),
    ],
)
def test_what_counts_as_a_connection(flow, established):
    assert is_established(flow) is established


def test_assert_connected_knows_the_address_that_was_dialled():
    flow = exchange("GET", "https://api.test/", address=("192.0.2.7", 443))
    Netcapture(Source(flow)).assert_connected("192.0.2.7", 443)


def test_assert_resolved(capture):
    capture.assert_resolved("api.stripe.com")
    capture.assert_resolved("*.stripe.com")
    missing = DnsFlow(name="no.test", type="A", rcode="NXDOMAIN")
    assert failure(Netcapture(Source(missing)).assert_resolved, "no.test") == (
        "expected no.test to be resolved\n"
        "\n"
        "nearest (- wanted, + was):\n"
        "  DNS no.test A → NXDOMAIN\n"
        "    rcode  - NOERROR\n"
        "           + NXDOMAIN"
    )


def test_assert_order(capture):
    capture.assert_order({"name": "api.stripe.com"}, ("POST", "/v1/charges"), "/v1/charge")
    pair = Netcapture(Source(CHARGE, LISTING))
    assert failure(pair.assert_order, "/v1/charge", ("POST", "/v1/charges")) == (
        "expected 2 steps in order, step 2 came only before the steps ahead of it\n"
        "  ✓ 1. /v1/charge\n"
        "  ✗ 2. POST /v1/charges\n"
        "\n"
        "there was:\n"
        "  POST https://api.stripe.com/v1/charges → 201 1.2 kB 12 ms  checkout(1234)\n"
        "  GET https://api.stripe.com/v1/charge?page=1 → 201 1.2 kB 12 ms  checkout(1234)"
    )
    assert "step 2 never came" in failure(pair.assert_order, "/v1/*", "/v2", "/v1/*")
    assert "step 2 came only before" in failure(pair.assert_order, "/v1/charges", "/v1/charges")
    with pytest.raises(UsageError, match=r"assert_order: step 2: 5 is not a step"):
        pair.assert_order("/v1/*", 5)
    with pytest.raises(UsageError, match="step 1: unknown criterion 'pth'"):
        pair.assert_order({"pth": "/"}, "/v1/*")


def test_assert_no_traffic():
    Netcapture(Source()).assert_no_traffic()
    assert failure(Netcapture(Source(DATABASE)).assert_no_traffic) == (
        "expected no traffic, seen 1 flow\n"
        "\n"
        "there was:\n"
        "  TCP 127.0.0.1:5432 → 99 B sent, 2.3 kB received (loopback)"
    )


def test_wait_for_what_is_there(capture):
    assert capture.wait_for("POST", timeout=0) is CHARGE
    assert capture.wait_for(name="api.stripe.com", timeout=0) is RESOLVED


def test_wait_for_what_comes_later():
    source = Source(LISTING)
    thread = threading.Timer(0.02, source.add, [CHARGE])
    thread.start()
    assert Netcapture(source).wait_for("POST", "/v1/charges") is CHARGE
    thread.join()


def test_wait_for_gives_up():
    capture = Netcapture(Source(LISTING))
    text = failure(capture.wait_for, "POST", "/v1/charges", timeout=0.01)
    assert text.startswith("not seen within 0.01 s: POST /v1/charges\n\nnearest (- wanted, + was):")


def test_wait_for_wants_an_answer():
    pending = exchange("GET", "https://api.test/", status=0)
    pending.ended = 0
    capture = Netcapture(Source(pending))
    assert failure(capture.wait_for, "GET", timeout=0).startswith("not answered within 0 s: GET\n")
    assert capture.wait_for("GET", status=None, timeout=0) is pending


def test_settings_for_the_rest_of_the_test(capture):
    capture.block()
    capture.allow("*.stripe.com", "10.0.0.0/8")
    capture.block("evil.test", "10.0.0.0/8")
    capture.passthrough("bank.test:443")
    capture.map_host({"api.test": "127.0.0.1:8443"}, "b.test:443=127.0.0.1:1")
    now = capture._source.now
    assert now.block
    assert [one.text for one in now.allow] == ["*.stripe.com"]
    assert [one.text for one in now.deny] == ["evil.test", "10.0.0.0/8"]
    assert [one.text for one in now.passthrough] == ["bank.test:443"]
    assert list(map(str, now.map_host)) == ["api.test=127.0.0.1:8443", "b.test:443=127.0.0.1:1"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: n.allow(), "netcapture.allow: no pattern was given"),
        (lambda n: n.allow(["a.test"]), "netcapture.allow: ['a.test'] is not a host pattern"),
        (lambda n: n.block("a b/c"), "netcapture.block: 'a b/c' is not a CIDR block"),
        (lambda n: n.map_host(5), "netcapture.map_host: 5 is not a mapping"),
        (lambda n: n.map_host("x"), "netcapture.map_host: 'x' does not parse as FROM=TO"),
        (
            lambda n: n.assert_requested(times=True),
            "netcapture.assert_requested: times=True is not",
        ),
        (
            lambda n: n.assert_requested(name="x"),
            "netcapture.assert_requested: http flows have no 'name'",
        ),
        (lambda n: n.assert_connected("h", "80"), "netcapture.assert_connected: port: '80' is not"),
        (lambda n: n.wait_for(timeout="5"), "netcapture.wait_for: timeout='5' is not a time"),
        (lambda n: n.tcp.filter(path="/"), "netcapture.tcp.filter: tcp flows have no 'path'"),
    ],
)
def test_usage_errors_name_the_place(capture, call, message):
    with pytest.raises(UsageError) as caught:
        call(capture)
    assert caught.value.message.startswith(message)
    assert caught.value.cure


def test_the_cassette_is_the_sources(capture):
    assert capture.cassette is None
    capture._source.state = CassetteState(path="a.cassette", mode="once", played=2, unused=[CHARGE])
    assert capture.cassette.played == 2


def test_failures_show_no_frame_of_ours(capture):
    for call in (
        lambda: capture.assert_requested("PUT"),
        lambda: capture.http.one("PUT"),
        lambda: capture.udp.filter(host="x").first,
        lambda: capture.dns.filter(path="x"),
        lambda: capture.allow("[x"),
    ):
        with pytest.raises((AssertionMismatch, UsageError)) as caught:
            call()
        shown = caught.traceback.filter(caught)
        ours = [entry for entry in shown if "pytest_netcapture" in str(entry.path)]
        allowed = ("settings.py",)
        assert [entry for entry in ours if entry.path.name not in allowed] == [], (
            traceback.format_exc()
        )


def test_assert_concurrency():
    flows = [exchange("GET", f"https://a.example/{n}") for n in range(4)]
    for number, flow in enumerate(flows):  # three overlap, the fourth begins as the second ends
        flow.started, flow.ended = 10 * number, 10 * number + 25
    flows[1].ended = 30
    capture = Netcapture(Source(*flows))
    capture.assert_concurrency(3)
    capture.assert_concurrency(1, "GET", "https://a.example/0")
    capture.assert_concurrency(0, "POST")
    text = failure(capture.assert_concurrency, 2, host="a.example")
    assert "expected at most 2 at once, seen 3: host='a.example'" in text
    assert "https://a.example/2" in text
    assert "other traffic:\n  GET https://a.example/3" in text
    with pytest.raises(UsageError, match="at_most='x' is not a number"):
        capture.assert_concurrency("x")
