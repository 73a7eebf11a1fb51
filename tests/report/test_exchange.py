"""One flow on one line, and in a few."""

from __future__ import annotations

import pytest

from pytest_netcapture.flows import (
    Body,
    DnsAnswer,
    DnsFlow,
    FlowError,
    Headers,
    HttpFlow,
    HttpRequest,
    HttpResponse,
    Origin,
    Process,
    TcpFlow,
    TlsFailure,
    UdpFlow,
)
from pytest_netcapture.report.exchange import flow_block, flow_line, flow_lines
from pytest_netcapture.report.text import cut, duration, size


def exchange(response=None, target="/v1/x", **fields):
    request = HttpRequest(method="GET", scheme="https", host="a.test", port=443, target=target)
    return HttpFlow(request=request, response=response, **fields)


CURL = Process(1234, "curl", ("curl", "https://a.test/v1/x"))
OK = HttpResponse(status=200, body=Body(size=1234))

LINES = [
    (
        exchange(OK, process=CURL, started=1, ended=12_000_001),
        "GET https://a.test/v1/x → 200 1.2 kB 12 ms  curl(1234)",
    ),
    (exchange(OK, origin=Origin.PLAYED), "GET https://a.test/v1/x → 200 1.2 kB  [played]"),
    (
        exchange(OK, origin=Origin.MOCKED, late=True),
        "GET https://a.test/v1/x → 200 1.2 kB  [mocked]  [late]",
    ),
    (exchange(OK, origin=Origin.BLOCKED), "GET https://a.test/v1/x → blocked"),
    (exchange(origin=Origin.UNMATCHED), "GET https://a.test/v1/x → unmatched"),
    (exchange(), "GET https://a.test/v1/x → (unanswered)"),
    (
        exchange(error=FlowError("reset", after=2048)),
        "GET https://a.test/v1/x → reset after 2.0 kB",
    ),
    (exchange(target="/\x1b[2J"), r"GET https://a.test/\e[2J → (unanswered)"),
    (DnsFlow(name="a.test", type="A", rcode="NXDOMAIN"), "DNS a.test A → NXDOMAIN"),
    (DnsFlow(name="a.test", type="A"), "DNS a.test A → (unanswered)"),
    (
        DnsFlow(name="a.test", type="A", answers=[DnsAnswer("a.test", "A", 1, "192.0.2.1")] * 2),
        "DNS a.test A → 192.0.2.1, 192.0.2.1",
    ),
    (
        TcpFlow(host="::1", port=1, sent=5, received=1_500_000),
        "TCP [::1]:1 → 5 B sent, 1.5 MB received",
    ),
    (
        TcpFlow(address=("192.0.2.1", 9), port=9, sni="s.test"),
        "TCP s.test:9 → 0 B sent, 0 B received",
    ),
    (
        TcpFlow(address=("192.0.2.1", 9), port=9, error=FlowError("refused")),
        "TCP 192.0.2.1:9 → refused",
    ),
    (
        UdpFlow(
            host="a.test", port=123, datagrams_sent=2, datagrams_received=1, sent=96, received=48
        ),
        "UDP a.test:123 → 2 datagrams sent, 1 received (96 B, 48 B)",
    ),
    (
        TlsFailure(
            host="a.test",
            port=443,
            side="client",
            detail="unknown_ca",
            error=FlowError("tls", "unknown_ca"),
        ),
        "TLS a.test:443 → refused by the client: unknown_ca",
    ),
    (
        TlsFailure(host="a.test", port=443, side="server", detail="certificate has expired"),
        "TLS a.test:443 → failed at the server: certificate has expired",
    ),
]


@pytest.mark.parametrize(("flow", "line"), LINES, ids=[line for _, line in LINES])
def test_line(flow, line):
    assert flow_line(flow) == line


def test_a_line_without_the_process():
    assert (
        flow_line(exchange(OK, process=CURL), who=False) == "GET https://a.test/v1/x → 200 1.2 kB"
    )


def test_long_urls_are_cut_in_the_middle():
    line = flow_line(exchange(target="/" + "x" * 5000 + "/end"))
    assert len(line) < 170
    assert "…" in line
    assert "/end →" in line


def test_lines_are_bounded():
    flows = [exchange(id=n, target=f"/{n}") for n in range(5)]
    assert flow_lines(flows, limit=2) == [
        "  GET https://a.test/0 → (unanswered)",
        "  GET https://a.test/1 → (unanswered)",
        "  … 3 more",
    ]
    assert flow_lines(flows, limit=1, last=True, indent="") == [
        "… 4 more",
        "GET https://a.test/4 → (unanswered)",
    ]


def test_block(tmp_path):
    spooled = tmp_path / "body"
    spooled.write_bytes(b"\xff\xd8" * 1000)
    flow = exchange(HttpResponse(status=201, body=Body(size=2000, path=str(spooled))))
    flow.request.headers = Headers([("Accept", "*/*"), ("X-Long", "v" * 500)])
    flow.request.body = Body(size=9, data='{\n "é" }'.encode())
    assert flow_block(flow) == [
        "GET https://a.test/v1/x → 201 2.0 kB",
        "  > Accept: */*",
        f"  > X-Long: {'v' * 66}…{'v' * 33}",
        "  >",
        '  > {\\n "é" }',
        "  <",
        "  < (2.0 kB of binary data)",
    ]


def test_block_of_long_text_dns_and_error():
    flow = exchange(error=FlowError("tls", "certificate has expired"))
    flow.request.body = Body(size=5000, data=b"a" * 5000)
    assert flow_block(flow)[1:] == [
        "  >",
        f"  > {'a' * 300}… (5.0 kB)",
        "  ! certificate has expired",
    ]
    answer = DnsAnswer("a.test", "A", 60, "192.0.2.1")
    assert flow_block(DnsFlow(name="a.test", type="A", answers=[answer])) == [
        "DNS a.test A → 192.0.2.1",
        "  < a.test 60 A 192.0.2.1",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9994, "10.0 kB"),
        (99_949, "100 kB"),
        (999_949, "1000 kB"),
        (999_960, "1.0 MB"),
        (5_300_000_000, "5.3 GB"),
        (5_300_000_000_000, "5300 GB"),
    ],
)
def test_size(value, text):
    assert size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0 ms"), (300_000, "0.3 ms"), (12_400_000, "12 ms"), (1_250_000_000, "1.25 s")],
)
def test_duration(value, text):
    assert duration(value) == text


def test_cut():
    assert cut("abcdefghij", 10) == "abcdefghij"
    assert cut("abcdefghijk", 10) == "abcdef…ijk"
