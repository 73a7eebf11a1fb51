"""Packets that are made of exchanges, as Wireshark's own tshark reads them."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from pytest_netcapture.flows import Body, Headers, HttpFlow, HttpRequest, HttpResponse, UdpFlow
from pytest_netcapture.interchange import packets


def exchange(version, target, answer, scheme="https", trailers=()):
    request = HttpRequest(
        method="POST",
        scheme=scheme,
        host="api.example.com",
        port=443 if scheme == "https" else 80,
        target=target,
        http_version=version,
        headers=Headers([("Host", "api.example.com"), ("X-Kind", "question")]),
        body=Body(5, b"hello"),
    )
    response = HttpResponse(
        status=201,
        reason="Created",
        http_version=version,
        headers=Headers([("Content-Type", "text/plain"), ("Transfer-Encoding", "chunked")]),
        body=Body(len(answer), answer),
        trailers=Headers(list(trailers)),
    )
    return HttpFlow(host=request.host, port=request.port, request=request, response=response)


@pytest.fixture
def tshark(tmp_path):
    if not shutil.which("tshark"):
        pytest.skip("tshark is not installed")

    def ask(flows, display, *fields):
        data, left = packets.write(flows, 1_800_000_000_000_000_000)
        assert left == 0
        path = tmp_path / "out.pcapng"
        path.write_bytes(data)
        command = ["tshark", "-r", str(path), "-Y", display, "-T", "json"]
        command += [part for field in fields for part in ("-e", field)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return [row["_source"]["layers"] for row in json.loads(done.stdout)]

    return ask


def test_http_1_is_decrypted(tshark):
    flows = [exchange("1.1", "/one", b"x" * 100_000), exchange("1.1", "/plain", b"y", "http")]
    asked = tshark(
        flows, "http.request", "http.request.uri", "http.file_data", "tls.record.version"
    )
    assert [row["http.request.uri"] for row in asked] == [["/one"], ["/plain"]]
    assert "tls.record.version" in asked[0]
    assert "tls.record.version" not in asked[1]
    told = tshark(flows, "http.response", "http.response.code", "http.content_length")
    assert [row["http.content_length"] for row in told] == [["100000"], ["1"]]


def test_http_2_is_decrypted(tshark):
    flows = [exchange("2", "/two", b"z" * 70_000, trailers=[("Grpc-Status", "0")])]
    asked = tshark(flows, "http2.headers.method", "http2.headers.path", "http2.headers.authority")
    assert asked == [
        {"http2.headers.path": ["/two"], "http2.headers.authority": ["api.example.com"]}
    ]
    rows = tshark(flows, "http2", "http2.header.name", "http2.header.value", "http2.headers.status")
    values = [value for row in rows for value in row.get("http2.header.value", [])]
    assert "question" in values
    assert any(row.get("http2.headers.status") == ["201"] for row in rows)
    names = [name for row in rows for name in row.get("http2.header.name", [])]
    assert "grpc-status" in names
    assert "transfer-encoding" not in names


def test_nothing_is_wrong_with_the_packets(tshark):
    flows = [
        exchange("1.1", "/a", b"1" * 40_000),
        exchange("2", "/b", b"2"),
        exchange("3", "/c", b"3"),
    ]
    wrong = tshark(
        flows, "_ws.malformed || tcp.analysis.flags || tcp.checksum.status == 0", "frame"
    )
    assert wrong == []
    names = tshark(flows, "dns.flags.response == 1", "dns.qry.name", "dns.a")
    assert names == [{"dns.qry.name": ["api.example.com"], "dns.a": ["198.18.0.1"]}]
    said = tshark(flows, "frame.comment", "frame.comment")
    assert "it was HTTP/3, over QUIC" in said[2]["frame.comment"]


def test_what_is_no_exchange_is_counted():
    data, left = packets.write([UdpFlow(host="h.example.com", port=1)])
    assert left == 1
    assert data
