"""Playing: what is stored comes back, in order, and a miss says why."""

from __future__ import annotations

import pytest

from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import (
    Body,
    DnsAnswer,
    DnsFlow,
    FlowError,
    Headers,
    HttpFlow,
    HttpResponse,
    Origin,
    Process,
    TcpFlow,
    TlsFailure,
    UdpFlow,
)
from pytest_netcapture.settings import Repeat

REFUSED = TcpFlow(host="10.1.2.3", port=81, address=("10.1.2.3", 81), error=FlowError("refused"))


def test_everything_of_an_exchange_comes_back(record, open_cassette, request_of):
    request = request_of(
        "POST",
        "/p?b=2&a=1",
        headers=[("hOST", "api.example.com"), ("X-A", "é"), ("X-A", "2")],
        body=b"body",
    )
    request.trailers = Headers([("X-T", "1")])
    request.http_version = "2"
    request.body.coding = "gzip"
    response = HttpResponse(
        status=207,
        reason="Multi",
        http_version="2",
        interim=[(103, Headers([("Link", "</a>")]))],
        headers=Headers([("ETag", '"x"')]),
        trailers=Headers([("X-End", "1")]),
        body=Body(6, b"\x00\xff\x01abc", coding="br", chunks=[1, 5], gaps=[0, 3]),
        closes=True,
    )
    flow = HttpFlow(
        id=9,
        host="api.example.com",
        port=443,
        request=request,
        response=response,
        started=5,
        ended=6,
        process=Process(42, "checkout", ("./checkout",)),
        client=("127.0.0.1", 5),
        address=("1.2.3.4", 443),
    )
    record(flow)
    played = open_cassette("none").play_http(request)
    assert played.request == request
    assert played.response == response
    assert played == HttpFlow(
        host="api.example.com",
        port=443,
        request=request,
        response=response,
        process=Process(name="checkout"),
        origin=Origin.PLAYED,
    )


def test_a_reset_in_the_middle_of_a_body_comes_back(record, open_cassette, flow_of):
    flow = flow_of(answer=b"partial")
    flow.error = FlowError("reset", "peer", 7)
    record(flow)
    played = open_cassette("none").play_http(flow.request)
    assert played.error == flow.error
    assert played.response.content == b"partial"


def test_recorded_order_within_a_key(record, open_cassette, flow_of, request_of):
    record(*[flow_of("GET", "/n", answer=b"%d" % n) for n in range(3)], flow_of("GET", "/m"))
    cassette = open_cassette("none")
    answers = [cassette.play_http(request_of("GET", "/n")).response.content for _ in range(3)]
    assert answers == [b"0", b"1", b"2"]
    assert cassette.played == 3
    assert [flow.request.path for flow in cassette.unused] == ["/m"]
    miss = cassette.play_http(request_of("GET", "/n"))
    assert (miss.kind, miss.reason) == (MissKind.USED_UP, "used up: 3 of 3 recordings were played")
    assert 'repeat="any"' in miss.advice


@pytest.mark.parametrize(
    ("repeat", "then"), [("last", b"122222"), ("cycle", b"120120"), ("any", b"120000")]
)
def test_repeats(record, open_cassette, flow_of, request_of, *, repeat, then):
    record(*[flow_of("GET", "/n", answer=b"%d" % n) for n in range(3)])
    cassette = open_cassette("none", repeat=Repeat(repeat))
    answers = [cassette.play_http(request_of("GET", "/n")).response.content for _ in range(7)]
    assert b"".join(answers) == b"0" + then


def test_no_file(open_cassette, request_of):
    cassette = open_cassette("none")
    miss = cassette.play_http(request_of())
    assert cassette.can_play
    assert not cassette.can_record
    assert miss.kind is MissKind.NO_FILE
    assert cassette.path in miss.reason
    assert "--netcapture-record-mode=once" in miss.advice
    assert cassette.play_dns("a.b", "A").kind is MissKind.NO_FILE


def test_never_recorded_names_the_nearest_and_the_matcher(
    record, open_cassette, flow_of, request_of
):
    record(
        flow_of("POST", "/orders?x=1", body=b'{"items": [{"id": 1, "n": "a"}]}'),
        flow_of("GET", "/other"),
        flow_of("POST", "/orders", host="else.example.com"),
    )
    miss = open_cassette("none").play_http(
        request_of("POST", "/orders?x=2", body=b'{"items": [{"id": 2, "n": "a"}]}')
    )
    assert miss.kind is MissKind.NEVER
    assert miss.nearest.request.target == "/orders?x=1"
    assert [(d.field, d.recorded, d.actual) for d in miss.differences] == [
        ("query.x", "1", "2"),
        ("body.items[0].id", "1", "2"),
    ]
    assert 'match_on without "query" and "body"' in miss.advice


@pytest.mark.parametrize(
    ("recorded", "actual", "kind"),
    [
        ("2026-01-02T10:00:00Z", "2026-11-21T13:00:01Z", "date"),
        ("1700000000", "1800000001", "epoch"),
        ("0b0f8a52-6d1e-4b5a-9d0a-0a3f0f0a7c11", "5b0f8a52-6d1e-4b5a-9d0a-0a3f0f0a7c12", "uuid"),
        ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "01BX5ZZKBKACTAV9WEVGEMMVRZ", "ulid"),
        ("9f86d081884c7d659a2feaa0c55ad015", "8f86d081884c7d659a2feaa0c55ad016", "hex"),
    ],
)
def test_only_a_volatile_field_differs(
    record, open_cassette, flow_of, request_of, *, recorded, actual, kind
):
    record(flow_of("GET", f"/x?at={recorded}"))
    miss = open_cassette("none").play_http(request_of("GET", f"/x?at={actual}"))
    assert miss.kind is MissKind.VOLATILE
    assert miss.differences[0].volatile == kind
    ignoring = 'filters={"ignore": ["query.at"]}'
    assert miss.advice == f'match_on without "query" accepts it, and so does {ignoring}'


def test_only_a_scrubbed_field_differs(record, open_cassette, flow_of, request_of):
    record(flow_of("GET", "/bot/real-token-1/send"), environ={"BOT_TOKEN": "real-token-1"})
    miss = open_cassette("none").play_http(request_of("GET", "/bot/dummy/send"))
    assert miss.kind is MissKind.SCRUBBED
    assert miss.differences[0].volatile == "scrubbed"


def test_a_recording_mode_wastes_no_time_on_the_nearest(record, open_cassette, flow_of, request_of):
    record(flow_of("GET", "/a"))
    assert open_cassette("new_episodes").play_http(request_of("GET", "/b")) == Miss(
        MissKind.NEVER, "never recorded"
    )


def test_dns_is_played_again_and_names_ignore_case(record, open_cassette):
    answers = [DnsAnswer("A.example.com", "A", 60, "192.0.2.7")]
    record(
        DnsFlow(name="A.Example.com.", type="A", rcode="NOERROR", answers=answers),
        DnsFlow(name="gone.example.com", type="A", rcode="NXDOMAIN"),
    )
    cassette = open_cassette("none")
    assert [cassette.play_dns("a.example.COM", "a").answers for _ in range(3)] == [answers] * 3
    assert cassette.play_dns("gone.example.com", "A").rcode == "NXDOMAIN"
    assert "was asked for A, not MX" in cassette.play_dns("a.example.com", "MX").reason
    assert "b.example.com was not asked for" in cassette.play_dns("b.example.com", "A").reason
    assert cassette.hosts == {"a.example.com", "gone.example.com"}


def test_failed_connections_in_order_then_as_before(record, open_cassette, flow_of):
    record(
        REFUSED,
        TcpFlow(host="db", port=5432, address=("10.0.0.9", 5432), error=FlowError("timeout")),
    )
    cassette = open_cassette("none")
    assert len(cassette.unused) == 2
    assert [cassette.connection_error("", (), "10.1.2.3", 81).kind for _ in range(2)] == [
        "refused"
    ] * 2
    assert cassette.connection_error("x", ("db",), "9.9.9.9", 5432).kind == "timeout"
    assert cassette.connection_error("db", (), "", 5433) is None
    assert cassette.unused == []
    assert cassette.played == 3


def test_a_port_that_opened_later(record, open_cassette, flow_of):
    refused = TcpFlow(host="api.example.com", port=443, error=FlowError("refused"))
    record(refused, refused, flow_of())
    cassette = open_cassette("none")
    errors = [cassette.connection_error("api.example.com", (), "", 443) for _ in range(3)]
    assert errors == [FlowError("refused"), FlowError("refused"), None]


def test_what_it_knows(record, open_cassette, flow_of):
    answers = [DnsAnswer("api.example.com", "A", 60, "192.0.2.7")]
    record(flow_of(), REFUSED, DnsFlow(name="api.example.com", type="A", answers=answers))
    cassette = open_cassette("none")
    assert cassette.knows("API.example.com", 443)
    assert cassette.knows("192.0.2.7", 443)
    assert cassette.knows("10.1.2.3", 81)
    assert not cassette.knows("192.0.2.7", 80)
    assert not cassette.knows("10.1.2.3", 443)


def test_opaque_flows_are_kept_as_summaries(record, open_cassette, tmp_path):
    record(
        TcpFlow(
            host="db", port=5432, address=("10.0.0.9", 5432), sent=5, received=7, reason="not TLS"
        ),
        UdpFlow(host="ntp", port=123, sent=48, datagrams_sent=1),
        TlsFailure(host="x", port=443, side="server", sni="x", detail="expired"),
    )
    cassette = open_cassette("none")
    assert [str(flow) for flow in cassette.unused] == [
        "TLS x:443 failed on the server's side: expired"
    ]
    assert cassette.knows("db", 5432)
    assert cassette.connection_error("db", (), "", 5432) is None
    text = (tmp_path / "c.cassette.txt").read_text()
    assert "TCP db:5432 (not TLS)" in text
    assert "expired" in text


def test_only_live_flows_are_recorded(open_cassette, flow_of):
    cassette = open_cassette("all")
    for origin in Origin:
        flow = flow_of("GET", f"/{origin.value}")
        flow.origin = origin
        cassette.record(flow)
    cassette.record(TcpFlow(host="localhost", port=1, reason="loopback"))
    assert cassette.recorded == 1
    assert cassette.save().total == 1


def test_unknown_matcher(open_cassette):
    with pytest.raises(UsageError, match="match_on"):
        open_cassette(match_on=("nope",))


def test_a_name_that_is_not_unicode(record, open_cassette, flow_of):
    record(DnsFlow(name="a\udc80b", type="A", rcode="NXDOMAIN"), flow_of())
    assert len(open_cassette("none").unused) == 1


def test_a_miss_does_not_extract_large_bodies(record, open_cassette, flow_of, request_of, tmp_path):
    size = (1 << 20) + 1
    record(flow_of("GET", "/large", answer=b"x" * size))
    cassette = open_cassette("none")
    miss = cassette.play_http(request_of("GET", "/other"))
    assert miss.nearest.response.body.size == size
    assert len(cassette.unused) == 1
    assert list((tmp_path / "spool").iterdir()) == []
    other = cassette.play_http(request_of("GET", "/large", body=b"y" * size))
    assert other.differences[0].field == "body"
